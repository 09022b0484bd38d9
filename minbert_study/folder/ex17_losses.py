"""Losses and metrics: what training makes small, and what the report shows.

    cross-entropy, for classes           −log softmax(z)[y]
    binary cross-entropy, for yes or no  −y log σ(z) − (1 − y) log(1 − σ(z)),  σ(z) = 1/(1 + e⁻ᶻ)
    squared error, for similarity        (z − y)²

Each loss is the mean over the batch. So a task with a large batch does not pull more than one with
a small batch: that is Eq. 7 of the paper. z are the outputs of a head, any numbers at all. For
z = 1000, e¹⁰⁰⁰ is infinite, and for z = −1000 the logarithm of σ(z) is that of 0. So work with
logarithms that never meet these: log softmax(z) = z − log Σ eᶻ, where torch.logsumexp is safe, and
log σ(z) = −log(1 + e⁻ᶻ), where torch.nn.functional.logsigmoid is. 1 − σ(z) is σ(−z).

By hand: for z = (0, ln 3), softmax is (1/4, 3/4); the loss is ln 4 for class 0 and ln 4/3 for class
1. For z = ln 3, σ(z) is 3/4: ln 4/3 for yes, ln 4 for no.

    accuracy   share of predictions that are right
    F1         2 TP/(2 TP + FP + FN) of class 1, the harmonic mean of precision and recall
    Pearson    Σ (x − x̄)(y − ȳ) / √(Σ (x − x̄)² · Σ (y − ȳ)²)

By hand: predictions 1 1 1 0 0 0 0 and labels 1 1 0 1 1 1 0 have TP = 2, FP = 1, FN = 3, so F1 is
4/8, while the accuracy is 3/7. (1, 2, 3) and (1, 3, 2) less their means are (−1, 0, 1) and
(−1, 1, 0): Pearson is 1/√(2 · 2) = 1/2.

Read tests/lessons/test_10_training.py. Check: minbert study check . losses
"""

import numpy as np
import torch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[label], mean over the batch.

    Args:
        logits: (batch, classes).
        labels: (batch,), numbers of classes, as floats: 0.0, 1.0, …

    Returns:
        A tensor of shape (), one number.
    """
    raise NotImplementedError


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log σ(z) for yes and −log(1 − σ(z)) for no, mean over the batch.

    Args:
        logits: (batch, 1); mind the 1.
        labels: (batch,), 1.0 for yes and 0.0 for no.
    """
    raise NotImplementedError


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(z − label)², mean over the batch.

    Args:
        logits: (batch, 1).
        labels: (batch,), any numbers.
    """
    raise NotImplementedError


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions equal to their label, 0 to 1; both (n,)."""
    raise NotImplementedError


def f1(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """F1 of class 1; both (n,), of 0 and 1. None if neither has a 1: it is 0/0 then."""
    raise NotImplementedError


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson's correlation, −1 to 1; both (n,).

    None where all predictions, or all labels, are one and the same number: it is 0/0 then.
    """
    raise NotImplementedError
