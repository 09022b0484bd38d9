"""What tasks of one kind have in common: outputs, loss, decoding, metrics.

A kind of one's own is one more entry in KINDS; docs/how-to/extend.md has an example.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from . import metrics

Metric = Callable[[np.ndarray, np.ndarray], "float | None"]
SCALE_TOP = 5.0  # heads answer in STS's points, 0 to 5; other ranges are mapped to it and back


class Labelled(Protocol):
    """What a kind reads of a task: see tasks.Task."""

    labels: tuple[str, ...]
    range: tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """What tasks of one kind have in common.

    Attributes:
        outputs: task → how many numbers its head gives.
        loss: (task, logits (batch, outputs), labels (batch,)) → mean over the batch.
        decode: (task, logits (n, outputs)) → predictions (n,), as labels are: classes or numbers.
        probabilities: logits (n, outputs) → (n, classes); None where there are no classes.
        metrics: name → metric that fits; the first is the default.
        form: how a prediction file writes a prediction.
    """

    outputs: Callable[[Labelled], int]
    loss: Callable[[Labelled, torch.Tensor, torch.Tensor], torch.Tensor]
    decode: Callable[[Labelled, torch.Tensor], torch.Tensor]
    probabilities: Callable[[torch.Tensor], torch.Tensor] | None
    metrics: Mapping[str, Metric]
    form: str


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[label], mean over the batch."""
    return F.cross_entropy(logits.float(), labels.long())


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of −log σ(z) for yes and −log(1 − σ(z)) for no; takes logits."""
    return F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), labels.float())


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(z − label)², mean over the batch, on the float labels."""
    return F.mse_loss(logits.squeeze(1).float(), labels.float())


def _points(task: Labelled, labels: torch.Tensor) -> torch.Tensor:
    """Labels from low to high → 0 to 5. STS's own stay as they are."""
    low, high = task.range
    return (labels - low) / ((high - low) / SCALE_TOP)


def on_scale(task: Labelled, logits: torch.Tensor) -> torch.Tensor:
    """The head's points, (n, 1), on the task's scale, (n,); they may lie beyond its ends."""
    low, high = task.range
    return low + (high - low) / SCALE_TOP * logits.squeeze(1)


def _yes_and_no(logits: torch.Tensor) -> torch.Tensor:
    """σ(z) is the probability of yes: (n, 1) → (n, 2)."""
    yes = logits.squeeze(1).sigmoid()
    return torch.stack([1 - yes, yes], dim=1)


KINDS = {
    "classes": Kind(
        outputs=lambda task: len(task.labels),
        loss=lambda task, logits, labels: cross_entropy(logits, labels),
        decode=lambda task, logits: logits.argmax(1),
        probabilities=lambda logits: logits.softmax(1),
        metrics={"accuracy": metrics.accuracy, "f1": metrics.macro_f1}, form="{:.0f}"),
    "yes_no": Kind(
        outputs=lambda task: 1,
        loss=lambda task, logits, labels: binary_cross_entropy(logits, labels),
        decode=lambda task, logits: (logits.squeeze(1) > 0).float(),  # σ(z) > 1/2
        probabilities=_yes_and_no,
        metrics={"accuracy": metrics.accuracy, "f1": metrics.f1}, form="{:.1f}"),
    "scale": Kind(
        outputs=lambda task: 1,
        loss=lambda task, logits, labels: mean_squared_error(logits, _points(task, labels)),
        decode=lambda task, logits: on_scale(task, logits).clamp(*task.range),
        probabilities=None,
        metrics={"pearson": metrics.pearson, "spearman": metrics.spearman},
        form="{:.9g}"),  # float32 to the last digit
}
