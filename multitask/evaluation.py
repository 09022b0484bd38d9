"""Scores and prediction files: eval mode, no gradients, sentences of like length together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minbert.files import replacing
from multitask.data.batching import TokenizedExamples
from multitask.data.course import Example
from multitask.system.distributed import ALONE, Ranks

from . import metrics
from .model import MultitaskBert
from .tasks import Task

PREDICTIONS_FOLDER = "predictions"


def predict(model: MultitaskBert, task: Task, examples: TokenizedExamples, ranks: Ranks = ALONE) -> np.ndarray:
    """(n,) predictions in the task's own terms: classes, 0/1, or scores in [0, 5]."""
    return task.decode(model.predict_logits(task.name, examples, ranks)).numpy()


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
