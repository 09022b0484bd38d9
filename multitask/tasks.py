"""What a task is: its files and columns, its labels, its loss, its metric, its prediction file.

A new task is one more entry in TASKS, and its files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from . import metrics


@dataclass(frozen=True)
class Task:
    """One task of the multi-task model.

    Attributes:
        file: stem of its files, `{file}-{split}.csv`.
        text_columns: one for single sentences, two for pairs.
        parse_label: text in the file → number; raises ValueError with what was expected.
        loss: (logits (batch, outputs), labels (batch,)) → mean over the batch.
        decode: logits (n, outputs) → predictions (n,), as prediction file and metric take them.
        answer: logits (n, outputs) → (n,) a class, a probability or a score, for users.
        metric: (predictions, labels) → score; its name is `metric_name`.
        scale: what the labels mean, in words.
        classes: number of classes, with labels 0, 1, …; 0 for numbers on a scale.
    """

    name: str
    title: str
    file: str
    text_columns: tuple[str, ...]
    label_column: str
    parse_label: Callable[[str], float]
    outputs: int
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    decode: Callable[[torch.Tensor], torch.Tensor]
    answer: Callable[[torch.Tensor], torch.Tensor]
    metric_name: str
    metric: Callable[[np.ndarray, np.ndarray], float | None]
    prediction_column: str
    format_prediction: Callable[[float], str]
    scale: str
    classes: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*", self.name):
            raise ValueError(f"a task's name is {self.name!r}; expected small letters and digits, "
                             f"a letter first")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[label], mean over the batch."""
    return F.cross_entropy(logits.float(), labels.long())


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of −log σ(z) for duplicates and −log(1 − σ(z)) otherwise; takes logits."""
    return F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), labels.float())


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(z − similarity)², mean over the batch, on the float labels."""
    return F.mse_loss(logits.squeeze(1).float(), labels.float())


def whole_number(low: int, high: int) -> Callable[[str], float]:
    """A parser of labels that are one of low … high, written 3 or 3.0."""

    def parse(text: str) -> float:
        value = _number(text)
        if value is None or value != int(value) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def number_between(low: float, high: float) -> Callable[[str], float]:
    """A parser of labels that are a number from low to high."""

    def parse(text: str) -> float:
        value = _number(text)
        if value is None or not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

    return parse


def one_of(*names: str) -> Callable[[str], float]:
    """A parser of labels that are one of these words, in their order 0, 1, …

    >>> one_of("no", "yes")("yes")
    1.0
    """

    def parse(text: str) -> float:
        if text not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return float(names.index(text))

    return parse


def _number(text: str) -> float | None:
    try:
        value = float(text) if "_" not in text else float("nan")  # Python reads 1_0 as 10
    except ValueError:
        return None
    return value if np.isfinite(value) else None


SST = Task(
    name="sst", title="sentiment (SST)", file="ids-sst", text_columns=("sentence",),
    label_column="sentiment",
    parse_label=whole_number(0, 4), outputs=5, loss=cross_entropy,
    decode=lambda logits: logits.argmax(1),
    answer=lambda logits: logits.argmax(1), metric_name="accuracy", metric=metrics.accuracy,
    prediction_column="Predicted_Sentiment", format_prediction=lambda value: str(int(value)),
    scale="0 very negative to 4 very positive", classes=5)

PARA = Task(
    name="para", title="paraphrase (Quora)", file="quora", text_columns=("sentence1", "sentence2"),
    label_column="is_duplicate", parse_label=whole_number(0, 1), outputs=1,
    loss=binary_cross_entropy,
    decode=lambda logits: (logits.squeeze(1) > 0).float(),  # σ(z) > 1/2
    answer=lambda logits: logits.squeeze(1).sigmoid(),
    metric_name="accuracy", metric=metrics.accuracy,
    prediction_column="Predicted_Is_Paraphrase", format_prediction=lambda value: f"{value:.1f}",
    scale="1 duplicate, 0 not", classes=2)

STS = Task(
    name="sts", title="similarity (STS)", file="sts", text_columns=("sentence1", "sentence2"),
    label_column="similarity", parse_label=number_between(0, 5), outputs=1, loss=mean_squared_error,
    decode=lambda logits: logits.squeeze(1).clamp(0, 5),
    answer=lambda logits: logits.squeeze(1).clamp(0, 5),
    metric_name="pearson", metric=metrics.pearson,
    prediction_column="Predicted_Similiary",  # spelt so by the course, whose checker reads it
    format_prediction=lambda value: f"{value:.9g}",  # float32 to the last digit
    scale="0 unrelated to 5 the same")

# What --nli trains the encoder on first; its head is dropped afterwards, so it is none of TASKS.
NLI = Task(
    name="nli", title="inference (MultiNLI)", file="multinli_1.0",
    text_columns=("sentence1", "sentence2"),
    label_column="gold_label", parse_label=one_of("entailment", "neutral", "contradiction"),
    outputs=3,
    loss=cross_entropy, decode=lambda logits: logits.argmax(1),
    answer=lambda logits: logits.argmax(1),
    metric_name="accuracy", metric=metrics.accuracy,
    prediction_column="Predicted_Label", format_prediction=lambda value: str(int(value)),
    scale="0 entailment, 1 neutral, 2 contradiction", classes=3)

# In the paper's order; the rows of the gradient matrix stand in this order too.
TASKS = {task.name: task for task in (SST, PARA, STS)}
