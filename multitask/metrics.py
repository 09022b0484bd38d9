"""Accuracy, Pearson's correlation, and the two ways to average over tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from scipy import stats


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions equal to their label; both (n,)."""
    return float(np.mean(predictions == labels))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson's correlation of two (n,) arrays; None, with a warning, where it is undefined (a constant side)."""
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        warnings.warn("Pearson's correlation is undefined for constant values; it counts as 0", stacklevel=2)
        return None
    return float(stats.pearsonr(predictions.astype(np.float64), labels.astype(np.float64)).statistic)


def average(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The paper's average, by which the best epoch is chosen; scores: task → (metric, value). Undefined counts 0."""
    return sum(value or 0.0 for _, value in scores.values()) / len(scores)


def overall(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The course's average: the same with Pearson's −1 … 1 brought to 0 … 1 first."""
    return sum(((value or 0.0) + 1) / 2 if metric == "pearson" else value
               for metric, value in scores.values()) / len(scores)
