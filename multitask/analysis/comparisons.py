"""Do the data say that one arm of an experiment is better than another? Intervals, p values, and a verdict in words.

Two kinds of chance are kept apart. Another *seed* shuffles, initialises and drops out otherwise: `mean_interval` and
`paired_difference` measure that, and need several runs. Other *dev items* would be easier or harder: the bootstrap
measures that, for the trained models of one seed, and says nothing about the next seed.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import special

LEVEL = 0.95
# Scores below 1 are known to half a unit of their last place, a difference of two to twice that, and subtracting the
# mean adds as much again: differences closer than this are one difference, rounded.
ROUNDING = 8 * np.finfo(np.float64).eps

Key = TypeVar("Key")
Metric = Callable[[np.ndarray, np.ndarray], float | None]


@dataclass(frozen=True)
class PairedDifference:
    """a − b over n seeds: its mean, its interval [low, high] at `level`, and the two-sided p value of no difference.

    low, high and p are None where the seeds have no spread to measure: one seed, or the same difference in all.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    level: float = LEVEL


class WithinSeedInterval(NamedTuple):
    """A bootstrap interval over dev items, for the models of one seed; undefined: resamples left out.

    low and high are None if no resample was defined.
    """

    low: float | None
    high: float | None
    undefined: int


# ------------------------------------------------------------------------------------------- over seeds


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """(mean, low, high) with x̄ ± t s/√n, t the quantile of n − 1 degrees of freedom (Student 1908).

    values: one score a seed. low and high are None for one value and for values that are all the same: no spread was
    seen, which is not a spread of 0. Raises ValueError for no values or values that are not finite.

    >>> [round(value, 3) for value in mean_interval([0.50, 0.52, 0.54])]
    [0.52, 0.47, 0.57]
    """
    scores = _finite_scores(values)
    _check_level(level)
    mean, error = float(scores.mean()), _standard_error(scores, np.abs(scores).max())
    if error is None:
        return mean, None, None
    half = float(special.stdtrit(len(scores) - 1, (1 + level) / 2)) * error
    return mean, mean - half, mean + half


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> PairedDifference:
    """a − b, seed by seed, by Student's paired t test: what two runs of a seed share cancels out.

    a, b: scores of two arms, (seeds,), in the same order of seeds. It assumes that the differences are independent
    and roughly normal. Raises ValueError for unequal lengths, no seeds, or scores that are not finite: an undefined
    score must be counted as 0 or its seed left out of both arms before.

    >>> paired_difference([0.51, 0.53, 0.56], [0.50, 0.51, 0.53]).n
    3
    """
    if len(a) != len(b):
        raise ValueError(f"scores paired by seed must be as many on both sides, got {len(a)} and {len(b)}: "
                         "leave out the seeds that only one arm has")
    first, second = _finite_scores(a), _finite_scores(b)
    _check_level(level)
    differences = first - second
    n, mean = len(differences), float(differences.mean())
    error = _standard_error(differences, max(np.abs(first).max(), np.abs(second).max()))
    if error is None:
        return PairedDifference(n, mean, None, None, None, level)
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    p = 2 * float(special.stdtr(n - 1, -abs(mean / error)))
    return PairedDifference(n, mean, mean - half, mean + half, p, level)


def holm(p_values: Mapping[Key, float | None] | Sequence[float | None]) -> dict[Key, float | None] | list[float | None]:
    """p values adjusted for their number, so that one below α among true nulls is as rare as α (Holm 1979).

    The k-th smallest of m is multiplied by m − k + 1, is at least its predecessor, and at most 1. What was a mapping
    stays one, with its keys in order; a sequence becomes a list. A comparison without a p value (None) stays None but
    counts among the m: it was planned. Raises ValueError for what is no probability.

    >>> holm({"sst": 0.01, "para": 0.04, "sts": 0.03})
    {'sst': 0.03, 'para': 0.06, 'sts': 0.06}
    """
    values = list(p_values.values() if isinstance(p_values, Mapping) else p_values)
    known = [index for index, p in enumerate(values) if p is not None]
    for index in known:
        if not 0 <= values[index] <= 1:
            raise ValueError(f"a p value lies between 0 and 1, got {values[index]}")
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(known, key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return dict(zip(p_values, adjusted, strict=True)) if isinstance(p_values, Mapping) else adjusted


def _finite_scores(values: Sequence[float]) -> np.ndarray:
    scores = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if not len(scores):
        raise ValueError("no scores were given; one a seed is expected")
    if not np.isfinite(scores).all():
        raise ValueError(f"score {int(np.argmin(np.isfinite(scores)))} of {len(scores)} is not a finite number: "
                         "count an undefined score as 0, or leave its seed out of every arm")
    return scores


def _standard_error(values: np.ndarray, size: float) -> float | None:
    """s/√n; None for one value and for values that differ by no more than rounding at numbers of this size."""
    if len(values) < 2 or np.ptp(values) <= ROUNDING * size:
        return None
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, got {level}")


# ------------------------------------------------------------------------------------------- over dev items


def bootstrap_interval(metric: Metric, predictions: np.ndarray, labels: np.ndarray, resamples: int, seed: int,
                       level: float = LEVEL) -> WithinSeedInterval:
    """How a score would move with other dev items: the percentile bootstrap (Efron 1979), for one trained model.

    metric: (predictions, labels) → score, or None where it is undefined, as Pearson's correlation of a constant;
    such resamples are left out and counted. predictions, labels: (n,). Raises ValueError for unequal lengths, no
    items, or no resamples.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    scores = [_score(metric, predictions, labels, items) for items in _resampled(labels, resamples, seed, predictions)]
    return _percentiles(scores, level)


def paired_bootstrap(metric: Metric, a: np.ndarray, b: np.ndarray, labels: np.ndarray, resamples: int, seed: int,
                     level: float = LEVEL) -> WithinSeedInterval:
    """Within one seed: how the difference of two models, a's score − b's, would move with other dev items.

    a, b: the two models' predictions on the same items, (n,); every resample draws the same items for both. It takes
    both models as given, so it cannot say which *method* is better: for that, `paired_difference` over seeds. A
    resample in which either score is undefined is left out and counted. Raises as `bootstrap_interval`.
    """
    a, b, labels = np.asarray(a), np.asarray(b), np.asarray(labels)
    differences = []
    for items in _resampled(labels, resamples, seed, a, b):
        first, second = (_score(metric, predictions, labels, items) for predictions in (a, b))
        differences.append(None if first is None or second is None else first - second)
    return _percentiles(differences, level)


def _resampled(labels: np.ndarray, resamples: int, seed: int, *predictions: np.ndarray) -> Iterator[np.ndarray]:
    """Yields indices of n items drawn from n with replacement, after checking that all arrays are (n,)."""
    for values in (labels, *predictions):
        if values.ndim != 1 or len(values) != len(labels) or not len(values):
            raise ValueError(f"predictions and labels must be of one length and not empty, got shapes "
                             f"{[part.shape for part in predictions]} and {labels.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(len(labels), size=len(labels))


def _score(metric: Metric, predictions: np.ndarray, labels: np.ndarray, items: np.ndarray) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an undefined resample is counted; a warning for each would be thousands
        value = metric(predictions[items], labels[items])
    return None if value is None or math.isnan(value) else value


def _percentiles(scores: Sequence[float | None], level: float) -> WithinSeedInterval:
    _check_level(level)
    defined = [score for score in scores if score is not None]
    if not defined:
        return WithinSeedInterval(None, None, len(scores))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return WithinSeedInterval(low, high, len(scores) - len(defined))


# ------------------------------------------------------------------------------------------- in words

# A finding → the sentence that reports it.
SENTENCES = {
    "helps": "{arm} helps {task}: a gain of {mean} over {control} on average, between {low} and {high} ({evidence}).",
    "hurts": "{arm} hurts {task}: a loss of {mean} against {control} on average, between {low} and {high} "
             "({evidence}).",
    "not shown": "{arm} on {task}: no difference from {control} shown; the data cannot tell a gain of up to {gain} "
                 "from a loss of up to {loss} ({evidence}).",
    "not shown among so many": "{arm} on {task}: no difference from {control} shown; taken alone, this would be a "
                               "{direction} between {low} and {high}, but not as one of {comparisons} comparisons "
                               "({evidence}).",
    "no spread": "{arm} on {task}: nothing can be said; the {n} seeds all gave the same {signed} against {control}, so "
                 "chance cannot be measured.",
    "one seed": "{arm} on {task}: nothing can be said; one seed gave {signed} against {control}, and chance cannot be "
                "measured from one.",
}
NOT_SHOWN = ("not shown", "not shown among so many")
CANNOT_SAY = ("no spread", "one seed")


def verdict(differences: Mapping[tuple[str, str], PairedDifference], control: str = "sum") -> list[str]:
    """What a table of arms against a control supports, in sentences: a count, one for each cell, and how to read them.

    differences: (arm, task) → paired difference of the arm's scores and the control's, over seeds. "helps" and
    "hurts" need a p value of at most 1 − level after `holm` over the whole table. Where no difference is shown, the
    interval says how large a gain and a loss are still possible. Raises ValueError for an empty table.

    >>> verdict({("pcgrad", "sst"): PairedDifference(5, 0.004, -0.013, 0.021, 0.55)})[1]
    'pcgrad on sst: no difference from sum shown; the data cannot tell a gain of up to .021 from a loss of up to .013 \
(mean +.004, 95 % interval, 5 seeds, p = .550).'
    """
    if not differences:
        raise ValueError("verdict: the table of differences is empty; give at least one arm and task")
    adjusted = holm({key: difference.p for key, difference in differences.items()})
    findings = [_finding(difference, adjusted[key]) for key, difference in differences.items()]
    cells = [SENTENCES[finding].format(arm=arm, task=task, control=control, n=difference.n,
                                       comparisons=len(differences),
                                       **_numbers(difference, adjusted[arm, task], len(differences)))
             for finding, ((arm, task), difference) in zip(findings, differences.items(), strict=True)]
    return [_count(findings, control), *cells, *_how_to_read(findings)]


def _finding(difference: PairedDifference, adjusted: float | None) -> str:
    """A key of SENTENCES."""
    if adjusted is None:
        return "one seed" if difference.n == 1 else "no spread"
    if adjusted <= 1 - difference.level:
        return "helps" if difference.mean > 0 else "hurts"
    return "not shown" if difference.low <= 0 <= difference.high else "not shown among so many"


def _numbers(difference: PairedDifference, adjusted: float | None, comparisons: int) -> dict[str, str]:
    """The fields of SENTENCES. low and high are sizes of a gain or a loss, the smaller first."""
    signed = ("-" if difference.mean < 0 else "+") + _size(difference.mean)
    if adjusted is None:
        return {"signed": signed}
    near, far = sorted((difference.low, difference.high), key=abs)
    p = "p < .001" if adjusted < 0.001 else f"p = {_size(adjusted)}"
    after = f" after Holm over {comparisons} comparisons" if comparisons > 1 else ""
    mean = "" if adjusted <= 1 - difference.level else f"mean {signed}, "
    return {"mean": _size(difference.mean), "low": _size(near), "high": _size(far), "gain": _size(difference.high),
            "loss": _size(difference.low), "direction": "gain" if difference.mean > 0 else "loss",
            "evidence": f"{mean}{100 * difference.level:g} % interval, {difference.n} seeds, {p}{after}"}


def _size(value: float) -> str:
    """The absolute value as scores are printed, .021; to one significant digit where three places would show .000,
    but for what is left of equal scores by rounding."""
    value = abs(value)
    small = ROUNDING < value < 0.0005
    text = np.format_float_positional(value, 1, fractional=False) if small else f"{value:.3f}"
    return text.removeprefix("0")


def _count(findings: Sequence[str], control: str) -> str:
    count = Counter(findings)
    shown, silent = (sum(count[key] for key in keys) for keys in (NOT_SHOWN, CANNOT_SAY))
    return (f"Of {len(findings)} comparison{'s' * (len(findings) > 1)} with {control}: {count['helps']} in favour, "
            f"{count['hurts']} against, {shown} without a difference shown"
            + (f", {silent} without an answer." if silent else "."))


def _how_to_read(findings: Sequence[str]) -> list[str]:
    """What follows the sentences of the cells; each where it applies."""
    if all(finding in CANNOT_SAY for finding in findings):
        return []
    sentences = ["All of it holds for this model, these data and this length of training."]
    if len(findings) > 1:
        sentences.append("The p values are adjusted for the number of comparisons; each interval stands for its own "
                         "comparison alone.")
    if any(finding in NOT_SHOWN for finding in findings):
        sentences.append("No difference shown does not mean no effect: whatever lies inside an interval remains "
                         "possible, and more seeds would narrow it.")
    return sentences


def verdict_of(difference: PairedDifference, adjusted_p: float | None) -> str:
    """better, worse, not shown, one seed or no spread. adjusted_p: by `holm` over the table."""
    if adjusted_p is None:
        return "one seed" if difference.n == 1 else "no spread"
    if adjusted_p > 1 - difference.level:
        return "not shown"
    return "better" if difference.mean > 0 else "worse"
