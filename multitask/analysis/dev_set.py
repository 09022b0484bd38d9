"""Where a model succeeds and fails on the dev set: the paper's section 6, with intervals."""

import dataclasses
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import scipy
import torch

from multitask import metrics
from multitask.data.examples import Dataset, Example
from multitask.tasks import Task

from . import intervals

ANALYSIS_FILE = "analysis.json"
BINS = 8
EXAMPLES_A_BIN = 20  # fewer bins where there would be fewer examples in one
CALIBRATION_BINS = 10
WORST = 10
SEED, RESAMPLES = 11711, 1000
WORD = re.compile(r"\w+(?:['’]\w+)*")

# ------------------------------------------------------------------------------------- of sentences


def words(sentence: str) -> list[str]:
    """Lower-case words; punctuation does not count.

    >>> words("It's a so-so film , really .")
    ["it's", 'a', 'so', 'so', 'film', 'really']
    """
    return WORD.findall(sentence.lower())


def sentence_length(example: Example) -> float:
    """Words per sentence; for a pair, the mean of both (the paper, Figure 4)."""
    return sum(len(words(sentence)) for sentence in example.sentences) / len(example.sentences)


def word_counts(examples: Sequence[Example]) -> Counter[str]:
    """How often each word occurs in these examples."""
    return Counter(word for example in examples for sentence in example.sentences
                   for word in words(sentence))


def word_commonality(example: Example, counts: Mapping[str, int]) -> float:
    """Mean of log(1 + count) over the words of all sentences (paper, Figure 5); 0 without words."""
    found = [math.log1p(counts.get(word, 0)) for sentence in example.sentences
             for word in words(sentence)]
    return sum(found) / len(found) if found else 0.0


def normalised(sentence: str) -> str:
    """Lower case, single spaces: what counts as the same sentence.

    >>> normalised(" A  dog runs.")
    'a dog runs.'
    """
    return " ".join(sentence.lower().split())


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """(n,) numbers → (n,) bin numbers from 0: at most `bins`, about equally full, none empty.

    Edges are values that occur, and equal values share a bin, so many ties make fewer bins.

    >>> quantile_bins(np.array([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), 3)
    array([0, 0, 0, 0, 1, 1])
    """
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher"))
    edges = edges[edges > values.min()]  # the first bin begins at the least value
    return np.searchsorted(edges, values, side="right")


# -------------------------------------------------------------------------------------- of one task


@dataclasses.dataclass(frozen=True)
class DevPredictions:
    """A model's predictions on one task's dev set; all arrays (n,) in its order.

    predictions: as the metric takes them. quality: 1 or 0, right or wrong, or minus the absolute
        error; more is better.
    wrong: 1 − the probability given to the label, or the absolute error.
    """

    task: Task
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray | None  # (n, classes), of a task with classes
    quality: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, task: Task, examples: Sequence[Example], logits: torch.Tensor) -> "DevPredictions":
        """logits: (examples, outputs). Every example has a label."""
        labels = np.array([example.label for example in examples], dtype=np.float64)
        logits = logits.detach().cpu().double()
        predictions = task.decode(logits).double().numpy()
        if not task.classes:
            error = np.abs(predictions - labels)
            return cls(task, labels, predictions, None, -error, error)
        probabilities = task.probabilities(logits).numpy()
        given = probabilities[np.arange(len(labels)), labels.astype(int)]
        return cls(task, labels, predictions, probabilities,
                   (predictions == labels).astype(np.float64), 1 - given)

    def score(self, where: np.ndarray | slice = slice(None)) -> float | None:
        """The task's metric on some of the examples; None where it is undefined."""
        predictions, labels = self.predictions[where], self.labels[where]
        if not len(labels):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may be undefined on a few of the examples
            return self.task.score(predictions, labels)

    def draws(self, resamples: int, generator: np.random.Generator,
              where: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(resamples,) scores of bootstrap samples of some of the examples."""
        arrays = self.predictions[where], self.labels[where]
        return intervals.bootstrap(intervals.statistic_of(self.task.measure), arrays, resamples,
                                   generator)

    def interval(self, inside: np.ndarray, resamples: int,
                 generator: np.random.Generator) -> intervals.Interval:
        """The interval of a score: Wilson for accuracy, Fisher for Pearson, else bootstrap."""
        predictions, labels = self.predictions[inside], self.labels[inside]
        if self.task.measure is metrics.accuracy:
            return intervals.wilson(int((predictions == labels).sum()), len(labels))
        if self.task.measure is metrics.pearson:
            return intervals.of_correlation(predictions, labels)
        return intervals.percentiles(self.draws(resamples, generator, inside))


def binned(results: DevPredictions, values: np.ndarray, resamples: int,
           generator: np.random.Generator) -> dict:
    """Score by quantile of `values` with Wilson or Fisher intervals, and the overall trend.

    A scale's bins hold the mean absolute error too, with Student's interval: a bin's labels span
    less than all do, and that alone lowers Pearson's correlation.
    """
    numbers = quantile_bins(values, min(BINS, max(1, len(values) // EXAMPLES_A_BIN)))
    rows = []
    for number in range(numbers.max() + 1):
        inside = numbers == number
        n, score = int(inside.sum()), results.score(inside)
        row = {"n": n, "low": float(values[inside].min()), "high": float(values[inside].max()),
               "score": score, "interval": results.interval(inside, resamples, generator)}
        if not results.task.classes:
            error = results.wrong[inside]
            row |= {"absolute_error": float(error.mean()),
                    "absolute_error_interval": intervals.of_mean(error)}
        rows.append(row)
    return {"bins": rows, "trend": intervals.trend(values, results.quality, resamples, generator)}


def confusion(results: DevPredictions) -> dict:
    """counts[i][j]: examples of class i answered as class j (the paper, Figure 6 a, b)."""
    classes = results.probabilities.shape[1]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (results.labels.astype(int), results.predictions.astype(int)), 1)
    return {"counts": counts.tolist()}


def calibration(results: DevPredictions) -> dict:
    """Reliability of the probabilities: share of class 1 in ten bins of p, empty ones left out.

    expected_error: Σ n_b/n · |share of class 1 − mean probability| (Naeini et al. 2015; Guo et
        al. 2017, Eq. 3).
    """
    given = results.probabilities[:, 1]
    numbers = np.minimum((given * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = []
    for number in np.unique(numbers):
        inside = numbers == number
        n, positive = int(inside.sum()), int(results.labels[inside].sum())
        rows.append({"n": n, "mean": float(given[inside].mean()), "share": positive / n,
                     "interval": intervals.wilson(positive, n)})
    error = sum(row["n"] * abs(row["share"] - row["mean"]) for row in rows) / len(given)
    return {"bins": rows, "expected_error": error}


def scatter(results: DevPredictions) -> dict:
    """Prediction against label on a scale (paper, Figure 6c): points, fitted line, mean error.

    signed_error: prediction − label; below 0 is undershooting. "upper" and "lower": labels in that
        half of the scale.
    """
    labels, predictions = results.labels, results.predictions
    signed, upper = predictions - labels, labels >= sum(results.task.range) / 2
    groups = {"all": np.full(len(labels), True), "upper": upper, "lower": ~upper}
    return {"labels": labels.tolist(),
            "predictions": [round(value, 4) for value in predictions.tolist()],
            "line": fitted_line(labels, predictions),
            "signed_error": {name: {"n": int(inside.sum()),
                                    "mean": float(signed[inside].mean()) if inside.any() else None,
                                    "interval": intervals.of_mean(signed[inside])}
                             for name, inside in groups.items()}}


def fitted_line(labels: np.ndarray, predictions: np.ndarray) -> dict | None:
    """Least squares: prediction ≈ intercept + slope · label, with a t interval, or None."""
    if len(labels) < 3 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return None
    line = scipy.stats.linregress(labels, predictions)
    # not t.interval: it has no value for the error of 0 of a perfect fit
    half = float(scipy.stats.t.ppf((1 + intervals.LEVEL) / 2, len(labels) - 2) * line.stderr)
    return {"slope": float(line.slope), "intercept": float(line.intercept),
            "slope_interval": [float(line.slope) - half, float(line.slope) + half]}


def worst_errors(results: DevPredictions, examples: Sequence[Example]) -> list[dict]:
    """The worst answers: furthest from the label, or with the least probability for it."""
    order = np.argsort(-results.wrong, kind="stable")
    if results.task.classes:
        order = order[results.quality[order] == 0]
    return [{"id": examples[index].id, "sentences": list(examples[index].sentences),
             "label": float(results.labels[index]), "answer": float(results.predictions[index]),
             "wrong": float(results.wrong[index])} for index in order[:WORST].tolist()]


def leakage(results: DevPredictions, dev: Sequence[Example], train: Sequence[Example],
            resamples: int, generator: np.random.Generator) -> dict:
    """Scores of dev examples that share a sentence with the training file, and of the others.

    whole: number of dev examples whose sentences all occur in one training example.
    """
    seen = {normalised(sentence) for example in train for sentence in example.sentences}
    whole = {frozenset(map(normalised, example.sentences)) for example in train}
    shares = np.array([any(normalised(sentence) in seen for sentence in example.sentences)
                       for example in dev])
    parts = {name: {"n": int(inside.sum()), "score": results.score(inside),
                    "interval": intervals.percentiles(results.draws(resamples, generator, inside))}
             for name, inside in (("apart", ~shares), ("shared", shares))}
    return {**parts, "whole": sum(frozenset(map(normalised, example.sentences)) in whole
                                  for example in dev)}


def trivial_score(results: DevPredictions) -> float:
    """The score of the most frequent class for every example; 0 on a scale."""
    if not results.task.classes:
        return 0.0
    classes, sizes = np.unique(results.labels, return_counts=True)
    constant = np.full(len(results.labels), classes[sizes.argmax()])
    return dataclasses.replace(results, predictions=constant).score() or 0.0


def analyse_task(results: DevPredictions, splits: Mapping[str, Sequence[Example]], resamples: int,
                 generator: np.random.Generator) -> dict:
    """Everything about one task but its score's interval; see `analyse`."""
    dev, train = splits["dev"], splits["train"]
    counts = word_counts(train)
    lengths = np.array([sentence_length(example) for example in dev])
    commonalities = np.array([word_commonality(example, counts) for example in dev])

    found = {
        "metric": results.task.metric, "n": len(dev), "score": results.score(),
        "trivial": trivial_score(results),
        "length": binned(results, lengths, resamples, generator),
        "commonality": binned(results, commonalities, resamples, generator),
        "leakage": leakage(results, dev, train, resamples, generator),
        "worst_errors": worst_errors(results, dev),
    }
    if not results.task.classes:
        return {**found, "scatter": scatter(results)}
    found["confusion"] = confusion(results)
    return {**found, "calibration": calibration(results)} if results.task.classes == 2 else found


# ----------------------------------------------------------------------------------------- of a run


def analyse(tasks: Mapping[str, Task], dataset: Dataset, logits: Mapping[str, torch.Tensor],
            seed: int = SEED, resamples: int = RESAMPLES) -> dict:
    """A model's raw dev outputs → {"average", "tasks": {task: {…}}}, ready for JSON.

    Of each task: score with bootstrap interval, `trivial` (that of the most frequent class, or 0),
    score by length and commonality, worst errors, leakage; with classes the confusion matrix, with
    two also calibration; on a scale the scatter plot. An undefined score is None. The same seed
    gives the same numbers.

    Args:
        dataset: task → split → examples: train (for word counts and shared sentences) and dev.
        logits: task → (dev examples, outputs).
    """
    generator = np.random.default_rng(seed)
    of_tasks, draws = {}, []
    for name, task in tasks.items():
        results = DevPredictions.of(task, dataset[name]["dev"], logits[name])
        scores = results.draws(resamples, generator)
        draws.append(np.nan_to_num(scores))  # an undefined score counts 0 in the average
        of_tasks[name] = {**analyse_task(results, dataset[name], resamples, generator),
                          "interval": intervals.percentiles(scores)}
    value = sum(found["score"] or 0.0 for found in of_tasks.values()) / len(of_tasks)
    return {"seed": seed, "resamples": resamples, "tasks": of_tasks,
            "average": {"score": value, "interval": intervals.percentiles(np.mean(draws, axis=0))}}
