"""Lesson 11: what a score does not say.

A dev score is one number; this lesson takes it apart as the paper's section 6 does. You learn how
sure a score is (Wilson's and Fisher's intervals, the bootstrap), how to ask whether a model does
worse on long sentences without being fooled by ties, what a confusion matrix, calibration and a
regression line say about its errors, and how much of a dev set already occurs in the training file.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

from multitask.analysis import dev_set as analysis
from multitask.analysis import intervals, paper_results
from multitask.analysis.dev_set import (
    DevPredictions,
    analyse,
    quantile_bins,
    sentence_length,
    word_commonality,
    word_counts,
)
from multitask.analysis.log import conflict_statistics, moving_average, speed
from multitask.data.examples import Example, load_dataset
from multitask.data.sample import write_sample
from multitask.evaluation import scores_of
from multitask.tasks import PARA, SST, STS, TASKS


def generator():
    return np.random.default_rng(0)


def example(*sentences, label=None):
    return Example("x", sentences, label)


# ------------------------------------------------------------------------------ how sure is a score


def test_what_cannot_be_said_is_none():
    constant = np.full(7, 0.1)  # its mean is not exactly 0.1
    assert np.isnan(intervals.correlations(constant, np.arange(7.0)))
    assert intervals.of_correlation(constant, np.arange(7.0)) is None
    assert intervals.of_correlation(np.array([1.0, 2.0, 4.0]), np.arange(3.0)) is None
    assert intervals.of_correlation(np.arange(50.0), np.arange(50.0)) is None
    assert intervals.wilson(0, 0) is None
    assert intervals.of_mean(np.array([1.0])) is None
    assert intervals.trend(np.ones(5), np.arange(5.0), 10, generator())["spearman"] is None
    assert intervals.percentiles(np.full(5, np.nan)) is None


def test_resamples_are_pairs():
    """Resampling keeps pairs together: x stays with its y."""
    x = np.arange(40.0)
    draws = intervals.bootstrap(lambda x, y, axis: np.abs(y - x - 1).max(axis), (x, x + 1), 50,
                                generator())
    assert draws.shape == (50,)
    assert not draws.any()


def test_correlations_are_scipys():
    # far from 0: sums of squares must not cancel
    x, y = np.random.default_rng(2).normal(size=(2, 7, 40)) + 1e6
    y += 0.5 * x
    plain = [stats.pearsonr(*rows).statistic for rows in zip(x, y, strict=True)]
    # a million leaves ten digits
    np.testing.assert_allclose(intervals.correlations(x, y), plain, atol=1e-8)


def test_the_trend_is_spearmans_and_its_interval_lies_around_it():
    random = generator()
    x = random.integers(1, 20, 400).astype(float)  # ties, as in lengths
    quality = (random.random(400) < 0.3 + 0.02 * x).astype(float)
    found = intervals.trend(x, quality, 500, random)
    theirs = stats.spearmanr(x, quality)
    assert found["spearman"] == pytest.approx(theirs.statistic, abs=1e-12)
    assert found["p"] == pytest.approx(theirs.pvalue)
    assert found["interval"][0] < found["spearman"] < found["interval"][1]
    assert found["interval"][0] > 0  # more is better, as made
    # every answer is right, so there is no trend
    assert intervals.trend(x, np.ones(400), 500, random)["spearman"] is None
    # one wrong answer shows none, though every resample that has it does
    quality = (np.arange(400) != x.argmax()).astype(float)
    low, high = intervals.trend(x, quality, 500, random)["interval"]
    assert low < 0 == high


# ------------------------------------------------------------------------------- sentences and bins


def test_length_and_commonality_by_hand():
    train = [example("a good film"), example("a bad film"), example("a dog")]
    counts = word_counts(train)
    assert counts == {"a": 3, "film": 2, "good": 1, "bad": 1, "dog": 1}
    assert sentence_length(example("A dog runs .", "Dogs!")) == 2  # 3 and 1 words
    expected = (math.log(4) + math.log(2) + math.log(1)) / 3  # a: 3 times, dog: once, runs: never
    assert word_commonality(example("A dog runs ."), counts) == pytest.approx(expected)
    both = word_commonality(example("a", "zebra zebra"), counts)
    # words of both together, not the mean of two means
    assert both == pytest.approx(math.log(4) / 3)
    assert word_commonality(example("?!"), counts) == 0


@given(st.lists(st.integers(0, 12).map(float), min_size=1, max_size=80), st.integers(1, 10))
def test_no_bin_is_empty_and_equal_values_share_one(values, bins):
    values = np.array(values)
    numbers = quantile_bins(values, bins)
    assert set(numbers) == set(range(numbers.max() + 1))  # none empty
    assert numbers.max() < bins
    order = np.argsort(values, kind="stable")
    assert (np.diff(numbers[order]) >= 0).all()  # a larger value is never in an earlier bin
    for value in set(values.tolist()):
        assert len(set(numbers[values == value])) == 1


@given(st.integers(8, 300))
def test_without_ties_bins_are_equally_full(n):
    sizes = np.bincount(quantile_bins(np.random.default_rng(n).permutation(n).astype(float), 8))
    assert len(sizes) == 8
    assert sizes.max() - sizes.min() <= 2


# --------------------------------------------------------------------------------- one task by hand


def answers_of(task, labels, logits):
    """The answers of a head to sentences with these labels."""
    examples = [example(*["a"] * len(task.text), label=label) for label in labels]
    return DevPredictions.of(task, examples, logits)


def test_a_confusion_matrix_by_hand():
    """Labels 0 0 1 2; answers 0 1 1 4, each with nearly all probability."""
    logits = torch.full((4, 5), -10.0)
    logits[range(4), [0, 1, 1, 4]] = 0.0
    answers = answers_of(SST, [0.0, 0.0, 1.0, 2.0], logits)
    found = analysis.confusion(answers)["counts"]
    assert found[0] == [1, 1, 0, 0, 0]
    assert found[1] == [0, 1, 0, 0, 0]
    assert found[2] == [0, 0, 0, 0, 1]
    assert np.sum(found) == 4
    assert answers.score() == 0.5


def test_the_worst_errors_are_wrong_and_the_surest_come_first():
    logits = torch.tensor([[3.0], [-1.0], [-4.0], [2.0]])  # duplicate, no, no, duplicate
    examples = [Example(str(number), ("a", "b"), label)
                for number, label in enumerate((0.0, 1.0, 1.0, 1.0))]
    found = analysis.worst_errors(DevPredictions.of(PARA, examples, logits), examples)
    assert [error["id"] for error in found] == ["2", "0", "1"]  # the fourth is right
    assert found[0]["wrong"] == pytest.approx(1 - 1 / (1 + math.exp(4)))
    assert found[0]["answer"] == 0
    assert found[0]["sentences"] == ["a", "b"]


def test_calibration_by_hand():
    """At 0.25 one of two pairs is a duplicate, at 0.75 both are: each bin is off by 0.25."""
    labels, given_probability = [0.0, 1.0, 1.0, 1.0], torch.tensor([0.25, 0.25, 0.75, 0.75])
    found = analysis.calibration(answers_of(PARA, labels, torch.logit(given_probability)[:, None]))
    assert [(row["n"], row["share"]) for row in found["bins"]] == [(2, 0.5), (2, 1.0)]
    assert found["expected_error"] == pytest.approx(0.25, abs=1e-6)  # float32 logits
    # a probability of 1 has a bin too
    certain = analysis.calibration(answers_of(PARA, labels, torch.full((4, 1), 100.0)))
    assert [row["n"] for row in certain["bins"]] == [4]


def test_undershooting_by_hand():
    labels, answers = [0.0, 1.0, 2.5, 5.0], [0.5, 1.0, 2.0, 4.0]
    predictions = answers_of(STS, labels, torch.tensor(answers)[:, None])
    assert predictions.wrong.tolist() == pytest.approx([0.5, 0, 0.5, 1])
    found = analysis.scatter(predictions)
    errors = found["signed_error"]
    assert (errors["all"]["n"], errors["all"]["mean"]) == (4, pytest.approx(-0.25))
    assert (errors["upper"]["n"], errors["upper"]["mean"]) == (2, pytest.approx(-0.75))
    assert (errors["lower"]["n"], errors["lower"]["mean"]) == (2, pytest.approx(0.25))
    slope, intercept = np.polyfit(labels, answers, 1)
    assert (found["line"]["slope"], found["line"]["intercept"]) == pytest.approx((slope, intercept))
    low, high = found["line"]["slope_interval"]
    assert low < slope < high


def test_shared_sentences_by_hand():
    train = [example("A dog runs.", "A cat."), example("One.", "Two.")]
    dev = [example("a  dog RUNS.", "New.", label=1.0),  # one sentence, up to case and spaces
           example("A cat.", "A dog runs.", label=1.0),  # whole, in the other order
           example("One.", "A cat.", label=0.0),  # both sentences, but never together
           example("Fresh.", "New.", label=0.0)]
    answers = DevPredictions.of(PARA, dev, torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]))
    found = analysis.leakage(answers, dev, train, 100, generator())
    assert (found["shared"]["n"], found["shared"]["score"]) == (3, pytest.approx(2 / 3))
    assert (found["apart"]["n"], found["apart"]["score"]) == (1, 0.0)
    assert found["whole"] == 1


def test_the_real_dev_sets_share_sentences_with_training(course_data):
    with pytest.warns(UserWarning, match="blank"):
        dataset = load_dataset(course_data)
    counts, exact = {}, {}
    for name, splits in dataset.items():
        answers = DevPredictions.of(TASKS[name], splits["dev"],
                                    torch.zeros(len(splits["dev"]), TASKS[name].outputs))
        found = analysis.leakage(answers, splits["dev"], splits["train"], 1, generator())
        counts[name] = found["shared"]["n"], found["whole"]
        seen = {sentence for row in splits["train"] for sentence in row.sentences}
        exact[name] = sum(not seen.isdisjoint(row.sentences) for row in splits["dev"])
    assert counts["sts"] == (194, 16)
    assert counts["para"] == (5093, 0)
    assert exact["para"] == 5088  # character by character
    assert counts["sst"] == (2, 2)


# -------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The bundled sample, and invented outputs that are partly right."""
    dataset = load_dataset(write_sample(tmp_path_factory.mktemp("sample")))
    torch.manual_seed(0)
    logits = {}
    for name, task in TASKS.items():
        labels = torch.tensor([row.label for row in dataset[name]["dev"]])
        noise = torch.randn(len(labels), task.outputs)
        known = F.one_hot(labels.long(), 5) * 2.0 if task.outputs > 1 else labels[:, None] - 0.5
        logits[name] = known + noise
    return dataset, logits


def test_an_analysis_is_json_and_the_same_each_time(sample):
    first = analyse(TASKS, *sample, resamples=50)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert analyse(TASKS, *sample, resamples=50) == first
    assert analyse(TASKS, *sample, resamples=50, seed=1) != first


def test_an_analysis_agrees_with_the_scores_of_the_main_job(sample):
    dataset, logits = sample
    found = analyse(TASKS, dataset, logits, resamples=200)
    answers = {name: task.decode(logits[name]).numpy() for name, task in TASKS.items()}
    labels = {name: np.array([row.label for row in dataset[name]["dev"]]) for name in TASKS}
    scores = scores_of(TASKS, answers, labels)
    for name, task in TASKS.items():
        one = found["tasks"][name]
        # float32 against float64
        assert one["score"] == pytest.approx(scores[name][task.metric], abs=1e-6)
        assert one["interval"][0] < one["score"] < one["interval"][1]
        for predictor in ("length", "commonality"):
            assert sum(row["n"] for row in one[predictor]["bins"]) == one["n"]
            assert all(row["low"] <= row["high"] for row in one[predictor]["bins"])
        assert one["leakage"]["apart"]["n"] + one["leakage"]["shared"]["n"] == one["n"]
    assert found["average"]["score"] == pytest.approx(scores["average"], abs=1e-6)
    low, high = found["average"]["interval"]
    assert low < scores["average"] < high
    widths = [found["tasks"][name]["interval"][1] - found["tasks"][name]["interval"][0]
              for name in TASKS]
    # the mean of three independent scores: deviations add in squares, divided by three
    assert high - low == pytest.approx(math.sqrt(sum(width**2 for width in widths)) / 3, rel=0.2)


def test_constant_answers_have_no_correlation_and_nothing_breaks(sample):
    dataset, logits = sample
    zeros = {name: torch.zeros_like(values) for name, values in logits.items()}
    found = analyse(TASKS, dataset, zeros, resamples=20)
    sts = found["tasks"]["sts"]
    assert sts["score"] is None
    assert sts["interval"] is None
    assert found["tasks"]["para"]["confusion"]["counts"][0][1] == 0  # a logit of 0 is no duplicate
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("n", [1, 2, 3, 25])
def test_a_few_examples_suffice(sample, n):
    dataset, logits = sample
    few = {name: {**splits, "dev": splits["dev"][:n]} for name, splits in dataset.items()}
    found = analyse(TASKS, few, {name: values[:n] for name, values in logits.items()}, resamples=20)
    assert [len(one["length"]["bins"]) for one in found["tasks"].values()] == [1, 1, 1]
    json.dumps(found, allow_nan=False)


# ------------------------------------------------------------------------------- the log, the paper


def test_conflicts_and_speed_by_hand():
    steps = [{"cosines": {"sst-para": cosine, "sst-sts": 0.5, "para-sts": -0.5}, "examples": 48,
              "seconds": 9.0,
              "weights": {"sst": 1.0, "para": 2.0, "sts": cosine + 2}}
             for cosine in (-0.2, 0.0, 0.6)]
    found = conflict_statistics(steps)
    # a cosine of 0 is not a conflict
    assert found["conflict_rate"] == {"sst-para": pytest.approx(1 / 3), "sst-sts": 0, "para-sts": 1}
    assert found["mean_cosine"]["sst-para"] == pytest.approx(0.4 / 3)
    assert found["mean_weights"] == {"sst": 1, "para": 2, "sts": pytest.approx(2 + 0.4 / 3)}
    assert speed([*steps, *steps, {"examples": 48, "seconds": 2.0},
                  {"examples": 48, "seconds": 4.0}]) == 48 / 4
    assert moving_average([1, 2, 3, 4], 2).tolist() == [1, 1.5, 2.5, 3.5]


def test_the_papers_table_says_what_the_paper_says():
    """The paper's sentences about its numbers, and column sums computed by another program."""
    table = paper_results.PAPER_TABLE_1
    assert len(table) == 30
    best = {task: max(table, key=lambda key: table[key][task]) for task in ("sst", "sts")}
    assert best == {"sst": ("nli+gs_bd+fl", "concatA"), "sts": ("nli+gs_bd", "concatB_al")}
    averages = {key: sum(row.values()) / 3 for key, row in table.items()}
    assert max(averages, key=averages.get) in {("nli+gs_wrap", "concatB_al"),
                                               ("nli+gs_wrap+fl", "concatB_al")}
    sums = {(arch, task): sum(row[task] for (_, name), row in table.items() if name == arch)
            for arch in ("concatA", "concatB", "concatB_al") for task in ("sst", "para", "sts")}
    assert {key: round(value, 3) for key, value in sums.items()} == {
        ("concatA", "sst"): 4.787, ("concatA", "para"): 7.119, ("concatA", "sts"): 3.190,
        ("concatB", "sst"): 4.691, ("concatB", "para"): 8.163, ("concatB", "sts"): 7.722,
        ("concatB_al", "sst"): 4.765, ("concatB_al", "para"): 8.283, ("concatB_al", "sts"): 7.998}


def test_a_run_finds_its_place_in_the_papers_table():
    settings = {"arch": "concatB", "gs": "wrap", "data": "data"}
    assert paper_results.paper_scores(settings) == {"sst": .511, "para": .843, "sts": .850}
    assert paper_results.method_of({**settings, "nli": True, "fl": True}) == "nli+gs_wrap+fl"
    assert paper_results.paper_scores({"arch": "concatA", "gs": "none",
                                       "data": "data"}) == paper_results.PAPER_BASELINE
    # no such row
    assert paper_results.paper_scores({**settings, "gs": "none", "nli": True}) is None
    assert paper_results.paper_scores({**settings, "data": None}) is None  # the sample
    assert paper_results.paper_scores({**settings, "surgery": "mgda"}) is None
    baseline = {**settings, "gs": "none", "arch": "concatA", "surgery": "mgda"}  # not used
    assert paper_results.paper_scores(baseline) == paper_results.PAPER_BASELINE
