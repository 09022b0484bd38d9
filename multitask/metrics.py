"""Accuracy, F1, correlations, and the two ways to average over tasks.

A metric takes predictions and labels, both (n,), and returns None, with a warning, where it is
undefined.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import scipy  # scipy.stats loads at its first use, which keeps `--help` fast

UNDEFINED = "{}'s correlation is undefined for constant values"


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of predictions equal to their label."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """F1 of class 1, the harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    return _defined("F1 is undefined without a positive label or prediction",
                    _f1_of(1, predictions, labels))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The mean of each class's F1, over the classes that occur in either.

    Rare classes count as much as frequent ones.
    """
    classes = np.union1d(predictions, labels)
    return float(np.mean([_f1_of(number, predictions, labels) for number in classes]))


def _f1_of(number: float, predictions: np.ndarray, labels: np.ndarray) -> float | None:
    found, true = predictions == number, labels == number
    total = found.sum() + true.sum()
    return float(2 * (found & true).sum() / total) if total else None


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Pearson's correlation; undefined where one side is constant."""
    return _defined(UNDEFINED.format("Pearson"),
                    correlation(scipy.stats.pearsonr, predictions, labels))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """Spearman's rank correlation; undefined where one side is constant."""
    return _defined(UNDEFINED.format("Spearman"),
                    correlation(scipy.stats.spearmanr, predictions, labels))


def correlation(of: Callable, x: np.ndarray, y: np.ndarray) -> float | None:
    """One of scipy's correlations of two (n,) arrays; None, in silence, where it is undefined."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(of(np.float64(x), np.float64(y)).statistic)


def _defined(reason: str, value: float | None) -> float | None:
    if value is None:
        warnings.warn(f"{reason}; it counts as 0", stacklevel=3)
    return value


def average(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The mean over tasks, as in the paper, by which the best epoch is chosen.

    Args:
        scores: task → (name of the metric, value). An undefined value counts as 0.
    """
    return sum(value or 0.0 for _, value in scores.values()) / len(scores)


def overall(scores: Mapping[str, tuple[str, float | None]]) -> float:
    """The course's average: as `average`, but Pearson's −1 … 1 is first mapped to 0 … 1."""
    total = 0.0
    for metric, value in scores.values():
        value = value or 0.0
        total += (value + 1) / 2 if metric == "pearson" else value
    return total / len(scores)
