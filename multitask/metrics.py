"""Accuracy, Pearson's correlation, and the two ways to average over tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import scipy  # scipy.stats loads at its first use, which keeps `--help` fast


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions equal to their label; both (n,)."""
    return float(np.mean(predictions == labels))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson's correlation of two (n,) arrays.

    Returns:
        None, with a warning, where it is undefined: one side is constant.
    """
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        warnings.warn("Pearson's correlation is undefined for constant values; it counts as 0",
                      stacklevel=2)
        return None
    return float(scipy.stats.pearsonr(np.float64(predictions), np.float64(labels)).statistic)


def average(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The paper's average, by which the best epoch is chosen.

    Args:
        scores: task → (name of the metric, value). An undefined value counts 0.
    """
    return sum(value or 0.0 for _, value in scores.values()) / len(scores)


def overall(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The course's average: as `average`, but Pearson's −1 … 1 is first mapped to 0 … 1."""
    total = 0.0
    for metric, value in scores.values():
        value = value or 0.0
        total += (value + 1) / 2 if metric == "pearson" else value
    return total / len(scores)
