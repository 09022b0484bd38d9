"""Scores and prediction files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minbert.files import write_text
from multitask.data.batching import TokenizedExamples
from multitask.data.course import Example
from multitask.system.distributed import ALONE, Ranks

from . import metrics
from .model import MultitaskBert
from .tasks import Task

PREDICTIONS_FOLDER = "predictions"


def predict(model: MultitaskBert, task: Task, examples: TokenizedExamples,
            ranks: Ranks = ALONE) -> np.ndarray:
    """(n,) predictions as the task's metric takes them: classes, 0/1, or scores in [0, 5]."""
    return task.decode(model.predict_logits(task.name, examples, ranks)).numpy()


def scores_of(tasks: Mapping[str, Task], predictions: Mapping[str, np.ndarray],
              labels: Mapping[str, np.ndarray]) -> dict:
    """{"sst": {"accuracy": …}, …, "sts": {"pearson": …}, "average": …, "overall": …}.

    Args:
        predictions, labels: task → (n,).
    """
    values = {}
    for name, task in tasks.items():
        values[name] = (task.metric_name, task.metric(predictions[name], labels[name]))

    scores: dict = {name: {metric: value} for name, (metric, value) in values.items()}
    return {**scores, "average": metrics.average(values), "overall": metrics.overall(values)}


def describe(scores: dict) -> str:
    """One line for what `scores_of` returns.

    >>> describe({"sst": {"accuracy": 0.5}, "sts": {"pearson": None}, "average": 0.25})
    'sst .500  sts undefined  average .250'
    """
    shown = {}
    for name, values in scores.items():
        if isinstance(values, dict):
            [shown[name]] = values.values()
    if len(shown) > 1:
        shown["average"] = scores["average"]

    parts = []
    for name, value in shown.items():
        text = "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)
        parts.append(f"{name} {text}")
    return "  ".join(parts)


def write_predictions(folder: Path, task: Task, split: str, examples: Sequence[Example],
                      predictions: np.ndarray) -> Path:
    """Writes one file in the course's own format, which its grader reads, spaces included."""
    lines = [f"id \t {task.prediction_column} "]
    for example, value in zip(examples, predictions.tolist(), strict=True):
        lines.append(f"{example.id} , {task.format_prediction(value)} ")

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}-{split}-output.csv"
    write_text(path, "\n".join(lines) + "\n")
    return path


def read_predictions(folder: Path, task: Task, split: str) -> np.ndarray:
    """(n,) predictions from a file of `write_predictions`, in its order."""
    path = folder / f"{task.name}-{split}-output.csv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return np.array([float(line.rsplit(" , ", 1)[1]) for line in lines])
