"""How sure a number is: 95 % intervals for shares, means and correlations.

All of them treat the examples as independent draws and the trained model as given: they say how a score would move
with other dev examples, not with another seed.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from .comparisons import LEVEL, mean_interval

QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
NORMAL_QUANTILE = float(special.ndtri(QUANTILES[1]))  # 1.96
DRAWS_AT_ONCE = 2**22  # indices of resampled examples in memory at once: 32 MB

Interval = list[float] | None  # [low, high]; None where it is undefined


def wilson(successes: int, n: int) -> Interval:
    """The interval of a share, (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927).

    It never leaves [0, 1] and, unlike p ± z √(p(1 − p)/n), has a width at p = 0 and 1 too; n = 0 gives None.

    >>> [round(value, 3) for value in wilson(0, 10)]
    [0.0, 0.278]
    """
    if n == 0:
        return None
    share, z2 = successes / n, NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def of_mean(values: np.ndarray) -> Interval:
    """The interval of a mean by Student's t (statistics.mean_interval); None where no spread was seen."""
    if len(values) < 2:
        return None
    _, low, high = mean_interval(values.tolist())
    return None if low is None else [low, high]


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation of two (n,) arrays; None, in silence, where a side is constant or n < 2."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.pearsonr(x.astype(np.float64), y.astype(np.float64)).statistic)


def fisher(r: float | None, n: int) -> Interval:
    """The interval of a correlation, tanh(artanh r ± z/√(n − 3)) (Fisher 1921); None for n ≤ 3 or |r| = 1.

    >>> [round(value, 3) for value in fisher(0.5, 28)]
    [0.156, 0.736]
    """
    if r is None or n <= 3 or abs(r) >= 1:
        return None
    half = NORMAL_QUANTILE / math.sqrt(n - 3)
    return [math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)]


def resampled_shares(successes: int, n: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(resamples,) shares of bootstrap samples; n draws with replacement hit Binomial(n, successes/n) successes."""
    return generator.binomial(n, successes / n, resamples) / n


def resampled_correlations(x: np.ndarray, y: np.ndarray, resamples: int, generator: np.random.Generator
                           ) -> np.ndarray:
    """(resamples,) Pearson correlations of bootstrap samples of pairs (x, y); NaN where a sample is constant.

    A sample is how often it holds each pair, (resamples, n), and the correlation needs five sums: one product.
    """
    n = len(x)
    x, y = x - x.mean(), y - y.mean()  # else the differences of sums below would cancel
    terms = np.stack([x, y, x * x, y * y, x * y], axis=1)  # (n, 5)
    sums = np.empty((resamples, 5))
    rows_at_once = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        draws = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        sums[start:start + rows] = counts @ terms
    mean_x, mean_y, xx, yy, xy = (sums / n).T
    variances = np.maximum(xx - mean_x**2, 0) * np.maximum(yy - mean_y**2, 0)
    return np.divide(xy - mean_x * mean_y, np.sqrt(variances), out=np.full(resamples, np.nan),
                     where=variances > 1e-24 * max(1e-300, float((x * x).mean() * (y * y).mean())))


def percentiles(draws: np.ndarray) -> Interval:
    """The bootstrap interval: the 2.5 % and 97.5 % quantiles of the draws that are defined (Efron 1979)."""
    defined = draws[~np.isnan(draws)]
    return np.quantile(defined, QUANTILES).tolist() if len(defined) else None


def trend(x: np.ndarray, quality: np.ndarray, resamples: int, generator: np.random.Generator) -> dict:
    """Spearman's rank correlation of x with quality, its bootstrap interval and p value; positive: larger x, better.

    The interval resamples pairs of ranks and takes Pearson's correlation of them, ranked once.
    """
    result = {"n": len(x), "spearman": None, "interval": None, "p": None}
    ranks = stats.rankdata(x), stats.rankdata(quality)
    rho = correlation(*ranks)
    if rho is None or len(x) < 3:
        return result
    p = float(stats.spearmanr(x, quality).pvalue)
    return {**result, "spearman": rho, "p": p,
            "interval": percentiles(resampled_correlations(*ranks, resamples, generator))}
