"""95 % intervals for shares, means and correlations, and the bootstrap over examples.

All of them take the trained model as given and the examples as independent draws. They say how a
score would move with other dev examples, not with another seed.
"""

import warnings
from collections.abc import Callable

import numpy as np
import scipy  # scipy.stats loads at its first use, which keeps `--help` fast

from multitask import metrics

LEVEL = 0.95
DRAWS_AT_ONCE = 2**21  # resampled examples in memory at once: 16 MB per array

Interval = list[float] | None  # [low, high]; None where it is undefined
Metric = Callable[[np.ndarray, np.ndarray], float | None]


def wilson(successes: int, n: int) -> Interval:
    """Wilson's interval of a share (Wilson 1927), which has a width at 0 and 1 too; None for n = 0.

    >>> [round(value, 3) for value in wilson(0, 10)]
    [0.0, 0.278]
    """
    if n == 0:
        return None

    interval = scipy.stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return [float(interval.low), float(interval.high)]


def of_mean(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Student's interval of a mean, x̄ ± t s/√n; None for fewer than two different values."""
    if len(values) < 2 or np.ptp(values) == 0:
        return None

    error = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(level, len(values) - 1, values.mean(), error)
    return [float(low), float(high)]


def of_correlation(x: np.ndarray, y: np.ndarray) -> Interval:
    """Fisher's interval of Pearson's correlation (Fisher 1921); None for n ≤ 3 or |r| = 1."""
    r = metrics.correlation(scipy.stats.pearsonr, x, y)
    if r is None or len(x) <= 3 or abs(r) >= 1:
        return None

    interval = scipy.stats.pearsonr(np.float64(x), np.float64(y)).confidence_interval(LEVEL)
    return [float(interval.low), float(interval.high)]


# ---------------------------------------------------------------------------- bootstrap


def bootstrap(statistic: Callable, arrays: tuple[np.ndarray, ...], resamples: int,
              generator: np.random.Generator) -> np.ndarray:
    """The statistic on `resamples` draws of the examples with replacement (Efron 1979).

    Args:
        statistic: Maps arrays of shape (..., n) to scores (...), NaN where they are undefined. It
            takes the keyword `axis`, always -1.
        arrays: Arrays of shape (n,). One draw takes the same examples from each of them.

    Returns:
        (resamples,) scores.
    """
    n = len(arrays[0])
    if n == 0:
        return np.full(resamples, np.nan)
    if n == 1:  # scipy asks for two examples; every draw of one is that one
        return np.full(resamples, statistic(*arrays, axis=-1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined draws are counted; do not warn for each
        result = scipy.stats.bootstrap(
            arrays, statistic, n_resamples=resamples, batch=max(1, DRAWS_AT_ONCE // n),
            vectorized=True, paired=True, method="percentile", random_state=generator)
    return result.bootstrap_distribution


def statistic_of(metric: Metric) -> Callable:
    """The metric over the last axis, as `bootstrap` takes it; the paper's two metrics are fast."""
    if metric is metrics.accuracy:
        return share_right
    if metric is metrics.pearson:
        return correlations
    # float turns None into NaN
    of_rows = np.vectorize(metric, signature="(n),(n)->()", otypes=[float])
    return lambda predictions, labels, axis=-1: of_rows(predictions, labels)


def share_right(predictions: np.ndarray, labels: np.ndarray, axis: int = -1) -> np.ndarray:
    """Accuracy over the last axis."""
    return (predictions == labels).mean(axis)


def correlations(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson's correlation over the last axis, NaN where a side is constant."""
    constant = (np.ptp(x, axis) == 0) | (np.ptp(y, axis) == 0)
    x = x - x.mean(axis, keepdims=True)
    y = y - y.mean(axis, keepdims=True)

    lengths = np.sqrt((x * x).sum(axis) * (y * y).sum(axis))
    # divide by 1 where there is no correlation to compute
    return np.where(constant, np.nan, (x * y).sum(axis) / np.where(constant, 1.0, lengths))


def percentiles(draws: np.ndarray, level: float = LEVEL) -> Interval:
    """The quantiles around the middle `level` of the draws that are defined; None without any."""
    defined = draws[~np.isnan(draws)]
    ends = (1 - level) / 2, (1 + level) / 2
    return np.quantile(defined, ends).tolist() if len(defined) else None


def trend(x: np.ndarray, quality: np.ndarray, resamples: int,
          generator: np.random.Generator) -> dict:
    """Spearman's rank correlation of x with quality; positive means: larger x, better.

    Its bootstrap interval takes Pearson's correlation of resampled ranks, ranked once. A resample
    without any difference, say one that drew no error, has no trend: 0.
    """
    result = {"n": len(x), "spearman": None, "interval": None, "p": None}
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(quality) == 0:
        return result

    spearman = scipy.stats.spearmanr(x, quality)
    ranks = scipy.stats.rankdata(x), scipy.stats.rankdata(quality)
    draws = bootstrap(correlations, ranks, resamples, generator)
    return {**result, "spearman": float(spearman.statistic), "p": float(spearman.pvalue),
            "interval": percentiles(np.nan_to_num(draws))}
