"""Losses and metrics: what training minimises, and what the report shows.

    cross-entropy, for classes           −log softmax(z)[y]
    binary cross-entropy, for yes or no  −y log σ(z) − (1 − y) log(1 − σ(z)),  σ(z) = 1/(1 + e⁻ᶻ)
    squared error, for similarity        (z − y)²

Each loss is the mean over the batch, so a task with a large batch does not weigh more than one with
a small batch (Eq. 7 of the paper). The raw outputs z of a head can be any numbers. For z = 1000, eᶻ
overflows to infinity. For z = −1000, σ(z) becomes 0 and its logarithm −∞. So compute the logarithms
directly, with torch.logsumexp and torch.nn.functional.logsigmoid, which are safe:

    log softmax(z) = z − log Σ eᶻ        log σ(z) = −log(1 + e⁻ᶻ)        1 − σ(z) = σ(−z)

By hand: for z = (0, ln 3), softmax is (1/4, 3/4). The loss is ln 4 for class 0 and ln(4/3) for
class 1. For z = ln 3, σ(z) is 3/4. The loss is ln(4/3) for yes and ln 4 for no.

    accuracy   share of correct predictions
    F1         2 TP/(2 TP + FP + FN) of class 1, the harmonic mean of precision and recall
    Pearson    Σ (x − x̄)(y − ȳ) / √(Σ (x − x̄)² · Σ (y − ȳ)²)

By hand: predictions 1 1 1 0 0 0 0 and labels 1 1 0 1 1 1 0 have TP = 2, FP = 1, FN = 3, so F1 is
4/8, while the accuracy is 3/7. (1, 2, 3) and (1, 3, 2) minus their means are (−1, 0, 1) and
(−1, 1, 0), so Pearson is 1/√(2 · 2) = 1/2.

Read tests/lessons/test_10_training.py. Check: minbert study check . losses
"""

import numpy as np
import torch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log softmax(logits)[label], mean over the batch.

    Args:
        logits: (batch, classes).
        labels: (batch,), class numbers as floats: 0.0, 1.0, …

    Returns:
        One number, as a tensor of shape ().
    """
    raise NotImplementedError


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log σ(z) for yes and −log(1 − σ(z)) for no, mean over the batch.

    Args:
        logits: (batch, 1); note the second dimension.
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
    """Share of predictions equal to their label, from 0 to 1. Both are (n,)."""
    raise NotImplementedError


def f1(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """F1 of class 1. Both are (n,) and hold 0 or 1. None if neither has a 1: F1 is then 0/0."""
    raise NotImplementedError


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson's correlation, from −1 to 1. Both are (n,).

    None if all predictions are equal or all labels are equal, where it is 0/0.
    """
    raise NotImplementedError
