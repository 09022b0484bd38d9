"""The life of a run of the main job, from its settings to the files that are handed in.

settings   every value that decides what a run computes, saved as config.json
folder     the names of a run's files; checking, making and locking its folder
recipes    named settings, and defaults
inputs     the data and the model of a run, and the lines that describe them
plans      what each stage consists of: tasks, batches, trainer
stages     the training loop of a stage: epochs, evaluation, checkpoints, best epoch
run        start, resume and execute a run; metrics.json and report.html
hand_in    the course's prediction files of a finished run
overview   what runs there are, and what their checkpoints take    python -m multitask.runs
compare    runs against a reference on dev; comparison_report draws its page

{training, evaluation, reports, analysis} <- runs <- {experiments, pretraining}
"""
