"""Scores and prediction files: eval mode, no gradients, sentences of like length together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from minbert.pretrained import replacing

from . import metrics
from .batching import TokenizedExamples
from .data import Example
from .distributed import ALONE, Ranks
from .tasks import Task

if TYPE_CHECKING:
    from .model import MultitaskBert

EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU = 64, 512  # a GPU takes as long for either, almost
PREDICTIONS_FOLDER = "predictions"


@torch.no_grad()
def predict_logits(model: MultitaskBert, task: str, examples: TokenizedExamples, ranks: Ranks = ALONE,
                   bar: tqdm | None = None) -> torch.Tensor:
    """Raw outputs (n, outputs) float32 on the CPU, in the examples' own order; the model's mode is kept.

    ranks: the processes that share the batches, the same ones that one process would predict; all of them return all.
    bar: a progress bar to move on; without one, its own appears if it takes long.
    """
    was_training = model.training
    model.eval()
    logits = torch.zeros(len(examples), model.tasks[task].outputs)
    size = EVALUATION_BATCH if model.device.type == "cpu" else EVALUATION_BATCH_ON_GPU
    batches = ranks.share(examples.by_length(size))
    try:
        own = tqdm(total=sum(map(len, batches)), desc=f"  {task}", unit="ex", leave=False, delay=1,
                   disable=bar is not None or not ranks.writes)
        with own:
            for indices in batches:
                logits[indices] = model(task, examples.batch(indices).to(model.device)).cpu()
                (own if bar is None else bar).update(len(indices))
    finally:
        model.train(was_training)
    ranks.start_sum(logits)()  # of which each row is another's zeros
    return logits


def predict(model: MultitaskBert, task: Task, examples: TokenizedExamples, ranks: Ranks = ALONE) -> np.ndarray:
    """(n,) predictions in the task's own terms: classes, 0/1, or scores in [0, 5]."""
    return task.decode(predict_logits(model, task.name, examples, ranks)).numpy()


def scores_of(tasks: Mapping[str, Task], predictions: Mapping[str, np.ndarray],
              labels: Mapping[str, np.ndarray]) -> dict:
    """{"sst": {"accuracy": …}, "para": …, "sts": {"pearson": …}, "average": …, "overall": …}, for these tasks."""
    values = {name: (task.metric_name, task.metric(predictions[name], labels[name])) for name, task in tasks.items()}
    scores: dict = {name: {metric: value} for name, (metric, value) in values.items()}
    return {**scores, "average": metrics.average(values), "overall": metrics.overall(values)}


def write_predictions(folder: Path, task: Task, split: str, examples: Sequence[Example],
                      predictions: np.ndarray) -> Path:
    """One file in the course's own format, spaces included, which its grader reads; written whole or not at all."""
    lines = [f"id \t {task.prediction_column} "]
    lines += [f"{example.id} , {task.format_prediction(value)} "
              for example, value in zip(examples, predictions.tolist(), strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}-{split}-output.csv"
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_predictions(folder: Path, task: Task, split: str) -> np.ndarray:
    """(n,) predictions of a file that `write_predictions` wrote, in its order."""
    lines = (folder / f"{task.name}-{split}-output.csv").read_text(encoding="utf-8").splitlines()[1:]
    return np.array([float(line.rsplit(" , ", 1)[1]) for line in lines])
