"""Lesson 12: does gradient surgery help?

Run two methods with one seed each, and one of them wins. That is not an answer, because the next
seed may reverse it. You learn what several seeds can say (Student's t, on differences of runs that
share a seed) and what it costs to ask many questions at once (Holm). You also learn what the dev
set's size adds (the bootstrap), and how to say what was *not* shown.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from multitask.analysis.comparisons import (
    PairedDifference,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    verdict_of,
)
from multitask.metrics import accuracy, pearson

# --------------------------------------------------------------------------------------- over seeds


def test_three_paired_seeds_by_hand():
    """Differences .01, .02, .03 give t = √12; with 2 degrees of freedom, p = 1 − t/√(t² + 2)."""
    result = paired_difference([0.51, 0.72, 0.33], [0.50, 0.70, 0.30])
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert result.n == 3
    assert (result.mean, result.low, result.high) == pytest.approx((0.02, 0.02 - half, 0.02 + half),
                                                                   abs=1e-7)
    assert result.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)


def test_without_spread_there_is_no_interval_rather_than_one_of_width_zero():
    """.2 − .1 and .3 − .2 differ by 3e-17: that is rounding, not evidence with p = 1e-16."""
    assert 0.2 - 0.1 != 0.3 - 0.2
    for a, b in (([0.5], [0.4]), ([0.5, 0.6], [0.5, 0.6]), ([0.2, 0.3], [0.1, 0.2])):
        result = paired_difference(a, b)
        assert (result.n, result.low, result.high, result.p) == (len(a), None, None, None)
        assert result.mean == pytest.approx(a[0] - b[0])
    assert mean_interval([0.7]) == (0.7, None, None)
    assert mean_interval([0.1, 0.1, 0.1])[1:] == (None, None)
    assert paired_difference([0.5, 0.6], [0.5, 0.6 - 1e-9]).p is not None  # small is not rounding


def test_undefined_scores_are_refused():
    for bad in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match="a score is not a finite number"):
            paired_difference([0.1, bad], [0.1, 0.2])
    with pytest.raises(ValueError, match="1 scores against 2"):
        paired_difference([0.1], [0.1, 0.2])


# ----------------------------------------------------------------------------------- many questions


def test_a_comparison_without_a_p_value_still_counts():
    assert holm({1: 0.01, 2: None, 3: 0.03}) == {1: pytest.approx(0.03), 2: None,
                                                 3: pytest.approx(0.06)}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_bonferroni_in_every_subset_that_holds_the_comparison(values):
    """Holm's p is the largest Bonferroni p of all subsets that hold the comparison.

    That is the closure principle (Marcus et al. 1976): a null hypothesis is rejected if every
    intersection of nulls that contains it is rejected.
    """
    subsets = [subset for size in range(1, len(values) + 1)
               for subset in itertools.combinations(range(len(values)), size)]
    expected = [max(min(1, len(subset) * min(values[k] for k in subset)) for subset in subsets
                    if i in subset)
                for i in range(len(values))]
    assert list(holm(dict(enumerate(values))).values()) == pytest.approx(expected, rel=1e-12)


# ----------------------------------------------------------------------------------- over dev items


def test_bootstrap_is_binomial():
    """If b fails on 30 % of n items and a on none, the difference is Binomial(n, .3) / n."""
    labels = np.zeros(400)
    b = (np.arange(400) % 10 < 3).astype(float)
    low, high, undefined = paired_bootstrap(accuracy, labels, b, labels, 4000, seed=1)
    expected = stats.binom(400, 0.3).ppf([0.025, 0.975]) / 400
    # 2 items of 400: how far a 2.5 % quantile of 4,000 draws may be off
    assert (low, high) == pytest.approx(expected, abs=0.005)
    assert undefined == 0


def test_any_metric_is_resampled():
    """A metric without a vectorised form gives the same interval, computed draw by draw."""
    generator = np.random.default_rng(2)
    labels, a, b = generator.normal(size=(3, 60))

    def slow(x, y):
        return pearson(x, y)

    fast = paired_bootstrap(pearson, a, b, labels, 100, seed=4)
    assert paired_bootstrap(slow, a, b, labels, 100, seed=4) == pytest.approx(fast, abs=1e-12)


def test_undefined_resamples_are_counted():
    """Half of all resamples of two items hold one item twice, where Pearson's r is undefined."""
    x, y = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    low, high, undefined = paired_bootstrap(pearson, x, y, np.array([2.0, 3.0]), 1000, seed=0)
    assert (low, high) == pytest.approx((2, 2))
    assert 400 < undefined < 600
    for models in ((np.zeros(5), np.arange(5.0)), (np.arange(5.0), np.zeros(5))):
        assert paired_bootstrap(pearson, *models, np.arange(5.0) ** 2, 10,
                                seed=0) == (None, None, 10)


def test_pairing_items_sharpens():
    """Paired, a difference of 8 errors in 200 items shows; unpaired intervals of ± .06 hide it."""
    labels = np.zeros(200)
    a, b = (np.arange(200) < 40).astype(float), (np.arange(200) < 48).astype(float)
    low, high, _ = paired_bootstrap(accuracy, a, b, labels, 2000, seed=0)
    assert 0 < low < 0.04 < high < 0.08
    mirrored = paired_bootstrap(accuracy, b, a, labels, 2000, seed=0)
    assert mirrored[:2] == pytest.approx((-high, -low))


def test_bootstrap_follows_its_seed():
    labels = np.arange(30) % 2
    a, b = labels[::-1] * (np.arange(30) < 20), np.ones(30)
    first, again, other = (paired_bootstrap(accuracy, a, b, labels, 50, seed=seed)
                           for seed in (1, 1, 2))
    assert first == again != other


# -------------------------------------------------------------------------------------- in one word


@pytest.mark.parametrize(("difference", "adjusted_p", "expected"), [
    (PairedDifference(5, 0.012, 0.004, 0.020, 0.001), 0.006, "better"),
    (PairedDifference(5, -0.03, -0.04, -0.02, 0.0001), 0.0006, "worse"),
    (PairedDifference(5, 0.004, -0.013, 0.021, 0.55), 1.0, "not shown"),
    # taken alone, it would be shown
    (PairedDifference(5, 0.008, 0.001, 0.015, 0.03), 0.12, "not shown"),
    (PairedDifference(4, 0.0, None, None, None), None, "no spread"),
    (PairedDifference(1, -0.01, None, None, None), None, "one seed")])
def test_a_verdict_is_one_word(difference, adjusted_p, expected):
    assert verdict_of(difference, adjusted_p) == expected
