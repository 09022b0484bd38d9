"""Another encoder: a BERT from transformers, trained on the three tasks with gradient surgery.

    pip install transformers
    python examples/other_encoder.py bert-base-uncased

MultitaskBert's docstring lists what it needs from an encoder. Such an encoder runs on padded
batches, task by task. That is slower than minbert's own encoder, and gives the same results.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel

from minbert import BertTokenizer
from multitask import MultitaskBert
from multitask.data import load_dataset
from multitask.data.sample import write_sample
from multitask.data.sampling import WRAP, RoundRobin
from multitask.evaluation import describe, scores_of
from multitask.training.step import SurgeryTrainer


def train(encoder: nn.Module, tokenizer: BertTokenizer, dataset: Mapping, steps: int,
          lr: float = 2e-4, seed: int = 0) -> tuple[MultitaskBert, list[dict[str, float]]]:
    """A model after `steps` steps of 16 examples per task, and the losses of each step."""
    torch.manual_seed(seed)  # the heads' first weights, and dropout
    model = MultitaskBert(encoder, tokenizer, arch="concatB")
    trainer = SurgeryTrainer(model, "pcgrad", lr=lr, seed=seed)

    tokens = {name: model.tokenize(dataset[name]["train"]) for name in model.tasks}
    lengths = {name: len(examples) for name, examples in tokens.items()}
    sampler = RoundRobin(lengths, dict.fromkeys(lengths, 16), WRAP, seed)

    model.train()
    losses = []
    for _ in range(steps):
        batches = {name: tokens[name].batch(rows) for name, rows in sampler.next_step().items()}
        losses.append(trainer.step(batches).losses)
    return model.eval(), losses


def evaluate(model: MultitaskBert, dataset: Mapping) -> dict:
    """The dev scores, as metrics.json has them."""
    tokens = {name: model.tokenize(dataset[name]["dev"]) for name in model.tasks}
    predictions = {name: task.decode(model.predict_logits(name, tokens[name])).numpy()
                   for name, task in model.tasks.items()}
    labels = {name: tokens[name].labels for name in model.tasks}
    return scores_of(model.tasks, predictions, labels)


def main(checkpoint: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(write_sample(Path(folder)))
    encoder = AutoModel.from_pretrained(checkpoint)
    model, losses = train(encoder, BertTokenizer.from_pretrained(checkpoint), dataset, steps=100)
    print("last losses:", losses[-1])
    print("dev:", describe(evaluate(model, dataset)))
    model.save_pretrained("other-encoder")
    MultitaskBert.from_pretrained("other-encoder",
                                  encoder=AutoModel.from_pretrained("other-encoder"))


if __name__ == "__main__":
    main(sys.argv[1])
