"""Is one arm of an experiment better than another? Intervals, p values, and a verdict in one word.

Two kinds of chance are kept apart. Another *seed* shuffles, initialises and drops out differently:
`mean_interval` and `paired_difference` measure that, and need several runs. Other *dev items* would
be easier or harder: `paired_bootstrap` measures that for the trained models of one seed, and says
nothing about the next seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy

from .intervals import LEVEL, Metric, bootstrap, of_mean, percentiles, statistic_of

# Scores below 1 are known to half a unit in their last place, a difference of two to twice that,
# and subtracting the mean adds as much again. Values closer than this are equal up to rounding.
ROUNDING = 8 * np.finfo(np.float64).eps

Key = TypeVar("Key")


@dataclass(frozen=True)
class PairedDifference:
    """a − b over n seeds: mean, interval [low, high], and two-sided p value of no difference.

    low, high and p are None if there is no spread to measure: one seed, or equal differences.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


# ---------------------------------------------------------------------------- over seeds


def mean_interval(values: Sequence[float],
                  level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """The mean and its interval x̄ ± t s/√n with n − 1 degrees of freedom (Student 1908).

    >>> [round(value, 3) for value in mean_interval([0.50, 0.52, 0.54])]
    [0.52, 0.47, 0.57]

    Args:
        values: One score per seed.

    Returns:
        (mean, low, high). low and high are None for one value, and for values that are all equal:
        seeing no spread does not make it 0.

    Raises:
        ValueError: A value is not finite.
    """
    scores = _finite_scores(values)
    mean = float(scores.mean())
    if not _has_spread(scores, np.abs(scores).max()):
        return mean, None, None

    return mean, *of_mean(scores, level)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """a − b by Student's paired t test: what two runs of one seed have in common cancels out.

    It assumes that the differences are independent and roughly normal.

    >>> paired_difference([0.51, 0.53, 0.56], [0.50, 0.51, 0.53]).n
    3

    Args:
        a, b: Scores of two arms, (seeds,), in the same order of seeds.

    Raises:
        ValueError: A score is not finite, or the arms have different numbers of seeds.
    """
    first, second = _finite_scores(a), _finite_scores(b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores against {len(second)}; expected one per seed")
    differences = first - second
    n, mean = len(differences), float(differences.mean())

    largest = max(np.abs(first).max(), np.abs(second).max())
    if not _has_spread(differences, largest):
        return PairedDifference(n, mean, None, None, None)

    test = scipy.stats.ttest_rel(first, second)
    interval = test.confidence_interval(LEVEL)
    return PairedDifference(n, mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """p values adjusted for their number, so that a false claim in the family stays rare.

    The k-th smallest of m is multiplied by m − k + 1, is at least its predecessor, and at most 1
    (Holm 1979). A comparison without a p value (None) stays None but counts among the m: it was
    planned.

    >>> holm({"sst": 0.01, "para": 0.04, "sts": 0.03})
    {'sst': 0.03, 'para': 0.06, 'sts': 0.06}
    """
    known = {key: p for key, p in p_values.items() if p is not None}
    adjusted: dict[Key, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, key in enumerate(sorted(known, key=known.__getitem__)):
        corrected = min(1.0, (len(p_values) - rank) * known[key])
        largest = max(largest, corrected)
        adjusted[key] = largest
    return adjusted


def verdict_of(difference: PairedDifference, adjusted_p: float | None) -> str:
    """What a difference supports: "better", "worse", "not shown", "one seed" or "no spread".

    "not shown" does not mean that there is no effect: anything inside the interval remains
    possible. "one seed" and "no spread" (every seed gave the same difference) allow no answer.

    Args:
        difference: An arm's scores minus the control's.
        adjusted_p: Its p value after `holm` over all comparisons made together.
    """
    if difference.n == 1:
        return "one seed"
    if adjusted_p is None:
        return "no spread"
    if adjusted_p > 1 - LEVEL:
        return "not shown"
    return "better" if difference.mean > 0 else "worse"


def _finite_scores(values: Sequence[float]) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)  # None becomes NaN
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number: count an undefined score as 0, or leave "
                         "its seed out of every arm")
    return scores


def _has_spread(values: np.ndarray, largest: float) -> bool:
    """Do values got from numbers up to `largest` differ by more than rounding?"""
    return len(values) > 1 and bool(np.ptp(values) > ROUNDING * largest)


# ---------------------------------------------------------------------------- over dev items


def paired_bootstrap(metric: Metric, a: np.ndarray, b: np.ndarray, labels: np.ndarray,
                     resamples: int, seed: int) -> tuple[float | None, float | None, int]:
    """How the score of a minus that of b would move with other dev items, within one seed.

    It takes both models as given, so it cannot say which *method* is better: for that, use
    `paired_difference` over seeds. Every resample draws the same items for both models. A resample
    in which either score is undefined is left out and counted.

    Args:
        metric: (predictions, labels) → score, or None where it is undefined.
        a, b: The two models' predictions of the same items, (n,).
        labels: (n,).

    Returns:
        (low, high, undefined): the interval, None and None if no resample was defined; and the
        number of resamples left out.
    """
    score = statistic_of(metric)

    def difference(a: np.ndarray, b: np.ndarray, labels: np.ndarray, axis: int) -> np.ndarray:
        return score(a, labels, axis) - score(b, labels, axis)

    draws = bootstrap(difference, (a, b, labels), resamples, np.random.default_rng(seed))
    low, high = percentiles(draws) or (None, None)
    return low, high, int(np.isnan(draws).sum())
