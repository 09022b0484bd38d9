"""Masked-language-model pretraining: `python -m multitask.pretrain`.

settings  one run's settings, checked
corpus    a text as passages of token ids, some of them held out
segments  what a sequence is: running text, or nearly the same text twice
batches   which sequences and masks make up each step
step      initial weights, one training step, held-out scores
guesses   what the model puts in the place of hidden pieces
run       a run from its first step to its last
start     a new run with its model and tokenizer, or a run to resume
report    report.html

corpus <- segments <- settings <- batches <- step <- run <- start;
batches <- guesses <- report <- run.
"""
