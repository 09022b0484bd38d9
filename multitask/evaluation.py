"""Scores and prediction files."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minbert.files import one_line, rewriting, write_text
from multitask.data.examples import Example

from . import metrics
from .tasks import Task, are_the_papers

PREDICTIONS_FOLDER = "predictions"


def scores_of(tasks: Mapping[str, Task], predictions: Mapping[str, np.ndarray],
              labels: Mapping[str, np.ndarray]) -> dict:
    """{"sst": {"accuracy": …}, …, "sts": {"pearson": …}, "average": …, "overall": …}.

    The course's overall score is there only for the paper's three tasks.

    Args:
        predictions, labels: task → (n,).
    """
    values = {}
    for name, task in tasks.items():
        values[name] = (task.metric, task.score(predictions[name], labels[name]))

    scores: dict = {name: {metric: value} for name, (metric, value) in values.items()}
    scores["average"] = metrics.average(values)
    if are_the_papers(tasks):
        scores["overall"] = metrics.overall(values)
    return scores


def describe(scores: dict) -> str:
    """One line for what `scores_of` returns.

    >>> describe({"sst": {"accuracy": 0.5}, "sts": {"pearson": None}, "average": 0.25})
    'sst .500  sts undefined  average .250'
    >>> describe({"mine": {"points": 10.5}})
    'mine points 10.500'
    """
    shown = {}
    for name, values in scores.items():
        if isinstance(values, dict):
            [(metric, value)] = values.items()
            shown[name if metric in ("accuracy", "pearson") else f"{name} {metric}"] = value
    if len(shown) > 1:
        shown["average"] = scores["average"]

    parts = []
    for name, value in shown.items():
        text = "undefined" if value is None else re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")
        parts.append(f"{name} {text}")
    return "  ".join(parts)


def prediction_file(folder: Path, task: Task, split: str) -> Path:
    """The path of a split's predictions (dev or test) in a run folder."""
    return folder / f"{task.name}-{split}-output.csv"


def write_predictions(path: Path, task: Task, examples: Sequence[Example],
                      predictions: np.ndarray) -> Path:
    """Writes one file. The course's grader reads its tasks' format, spaces included.

    A task with files of its own gets a plain CSV, with the labels' names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if task.has_own_files:
        with rewriting(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "prediction"])
            for example, value in zip(examples, predictions.tolist(), strict=True):
                name = task.labels[int(value)] if task.classes else task.format_prediction(value)
                writer.writerow([example.id, name])
        return path

    lines = [f"id \t {task.prediction_column} "]
    for example, value in zip(examples, predictions.tolist(), strict=True):
        lines.append(f"{example.id} , {task.format_prediction(value)} ")

    write_text(path, "\n".join(lines) + "\n")
    return path


def read_predictions(path: Path, task: Task) -> tuple[list[str], np.ndarray]:
    """The ids and the (n,) predictions in a file of `write_predictions`, in its order.

    Raises:
        ValueError, OSError: it is not such a file; the message names it.
    """
    content = path.read_bytes()
    try:
        file = io.StringIO(content.decode(), newline="")
        rows = (csv.reader(file) if task.has_own_files
                else (line.rstrip().rsplit(" , ", 1) for line in file))
        next(rows, None)  # the header
        parse = task.parse_label if task.has_own_files and task.classes else float
        found = [(name, parse(value)) for name, value in rows]
        # float32, as they were predicted: in nearly constant answers the other digits would count
        values = np.array([value for _, value in found], dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("a prediction is not finite")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a prediction file of {task.name} ({one_line(error)})"
                         ) from None
    return [name for name, _ in found], values.astype(np.float64)
