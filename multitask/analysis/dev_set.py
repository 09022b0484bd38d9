"""Where a trained model succeeds and fails on the dev set: the paper's section 6, Figures 4-6, with intervals.

    python -m multitask.analysis RUN [--data FOLDER]

asks RUN's model again and writes RUN/analysis.json and a fresh RUN/report.html.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats

from multitask import metrics
from multitask.data.course import Dataset, Example
from multitask.tasks import TASKS, Task

from . import intervals

ANALYSIS_FILE = "analysis.json"
BINS = 8
EXAMPLES_A_BIN = 20  # fewer bins where there would be fewer examples in one
CALIBRATION_BINS = 10
WORST = 10
SEED, RESAMPLES = 11711, 1000
WORD = re.compile(r"\w+(?:['’]\w+)*")
UPPER_HALF = 2.5  # of the scale of similarity, 0 to 5

# ------------------------------------------------------------------------------------------- of sentences


def words(sentence: str) -> list[str]:
    """Lower-case words; punctuation is none.

    >>> words("It's a so-so film , really .")
    ["it's", 'a', 'so', 'so', 'film', 'really']
    """
    return WORD.findall(sentence.lower())


def sentence_length(example: Example) -> float:
    """Words a sentence; of a pair, the mean of both (the paper, Figure 4)."""
    return sum(len(words(sentence)) for sentence in example.sentences) / len(example.sentences)


def word_counts(examples: Sequence[Example]) -> Counter[str]:
    """How often each word stands in these examples."""
    return Counter(word for example in examples for sentence in example.sentences for word in words(sentence))


def word_commonality(example: Example, counts: Mapping[str, int]) -> float:
    """The mean of log(1 + count) over the words of all its sentences (the paper, Figure 5); 0 without any word."""
    found = [math.log1p(counts.get(word, 0)) for sentence in example.sentences for word in words(sentence)]
    return sum(found) / len(found) if found else 0.0


def normalised(sentence: str) -> str:
    """Lower case, single spaces: what counts as the same sentence.

    >>> normalised(" A  dog runs.")
    'a dog runs.'
    """
    return " ".join(sentence.lower().split())


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """(n,) numbers → (n,) bin numbers from 0, at most `bins` of them, about equally full, none empty.

    Edges are values that occur, and equal values share a bin, so many ties make fewer bins.

    >>> quantile_bins(np.array([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), 3)
    array([0, 0, 0, 0, 1, 1])
    """
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher"))
    edges = edges[edges > values.min()]  # the first bin begins at the least value
    return np.searchsorted(edges, values, side="right")


# ------------------------------------------------------------------------------------------- of one task


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model made of one task's dev set; all arrays (n,) in its order.

    predictions: as the metric takes them. quality: 1 or 0, right or wrong, or minus the absolute error; more is better.
    wrong: 1 − the probability given to the label, or the absolute error.
    """

    task: Task
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray | None  # (n, classes), of a task with classes
    quality: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, task: Task, examples: Sequence[Example], logits: torch.Tensor) -> Answers:
        """Raises ValueError unless logits are (len(examples), outputs) and every example has its label."""
        if tuple(logits.shape) != (len(examples), task.outputs) or not examples:
            raise ValueError(f"{task.name}: logits have shape {tuple(logits.shape)}, expected "
                             f"({len(examples)}, {task.outputs}), a row for each dev example, and at least one")
        if any(example.label is None for example in examples):
            raise ValueError(f"{task.name}: a dev example has no label; the analysis needs all of them")
        labels = np.array([example.label for example in examples], dtype=np.float64)
        logits = logits.detach().cpu().double()
        predictions = task.decode(logits).double().numpy()
        if not task.classes:
            error = np.abs(predictions - labels)
            return cls(task, labels, predictions, None, -error, error)
        if task.outputs == 1:
            positive = logits.squeeze(1).sigmoid().numpy()
            probabilities = np.stack([1 - positive, positive], axis=1)
        else:
            probabilities = logits.softmax(1).numpy()
        given = probabilities[np.arange(len(labels)), labels.astype(int)]
        return cls(task, labels, predictions, probabilities, (predictions == labels).astype(np.float64), 1 - given)

    def score(self, where: np.ndarray | slice = slice(None)) -> float | None:
        """The task's metric on some of the examples; None where it is undefined."""
        predictions, labels = self.predictions[where], self.labels[where]
        if not len(labels):
            return None
        if self.task.metric is metrics.pearson:
            return intervals.correlation(predictions, labels)  # the same, in silence where it is undefined
        return self.task.metric(predictions, labels)

    def draws(self, resamples: int, generator: np.random.Generator, where: np.ndarray | slice = slice(None)
              ) -> np.ndarray:
        """(resamples,) scores of bootstrap samples of some of the examples; the paper's two metrics are fast."""
        predictions, labels = self.predictions[where], self.labels[where]
        n = len(labels)
        if n == 0:
            return np.full(resamples, np.nan)
        if self.task.metric is metrics.accuracy:
            return intervals.resampled_shares(int((predictions == labels).sum()), n, resamples, generator)
        if self.task.metric is metrics.pearson:
            return intervals.resampled_correlations(predictions, labels, resamples, generator)
        items = generator.integers(n, size=(resamples, n))
        scores = [self.task.metric(predictions[row], labels[row]) for row in items]
        return np.array([np.nan if score is None else score for score in scores])

    def interval(self, inside: np.ndarray, resamples: int, generator: np.random.Generator) -> intervals.Interval:
        """Of the score of a few examples: Wilson's of an accuracy, Fisher's of a correlation, else the bootstrap's."""
        n = int(inside.sum())
        if self.task.metric is metrics.accuracy:
            return intervals.wilson(int((self.predictions == self.labels)[inside].sum()), n)
        if self.task.metric is metrics.pearson:
            return intervals.fisher(self.score(inside), n)
        return intervals.percentiles(self.draws(resamples, generator, inside))


def binned(answers: Answers, values: np.ndarray, resamples: int, generator: np.random.Generator) -> dict:
    """Score by quantile of `values`, and the trend over all examples. A bin's interval: Wilson or Fisher.

    A scale's bins hold the mean absolute error too, with Student's interval: a bin's labels span less than all do,
    and that alone lowers Pearson's correlation.
    """
    numbers = quantile_bins(values, min(BINS, max(1, len(values) // EXAMPLES_A_BIN)))
    rows = []
    for number in range(numbers.max() + 1):
        inside = numbers == number
        n, score = int(inside.sum()), answers.score(inside)
        row = {"n": n, "low": float(values[inside].min()), "high": float(values[inside].max()),
               "mean": float(values[inside].mean()), "score": score,
               "interval": answers.interval(inside, resamples, generator)}
        if not answers.task.classes:
            error = answers.wrong[inside]
            row |= {"absolute_error": float(error.mean()), "absolute_error_interval": intervals.of_mean(error)}
        rows.append(row)
    return {"bins": rows, "trend": intervals.trend(values, answers.quality, resamples, generator)}


def confusion(answers: Answers) -> dict:
    """counts[i][j]: examples of class i answered as class j (the paper, Figure 6 a, b)."""
    classes = answers.probabilities.shape[1]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (answers.labels.astype(int), answers.predictions.astype(int)), 1)
    return {"classes": list(range(classes)), "counts": counts.tolist()}


def calibration(answers: Answers) -> dict:
    """Of pairs given a probability about p, how many are duplicates? Ten bins of p, empty ones left out.

    expected_error: Σ n_b/n · |share of duplicates − mean probability| (Naeini et al. 2015; Guo et al. 2017, Eq. 3).
    """
    given = answers.probabilities[:, 1]
    numbers = np.minimum((given * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = []
    for number in np.unique(numbers):
        inside = numbers == number
        n, positive = int(inside.sum()), int(answers.labels[inside].sum())
        rows.append({"n": n, "low": float(number / CALIBRATION_BINS), "high": float((number + 1) / CALIBRATION_BINS),
                     "mean": float(given[inside].mean()), "share": positive / n,
                     "interval": intervals.wilson(positive, n)})
    error = sum(row["n"] * abs(row["share"] - row["mean"]) for row in rows) / len(given)
    return {"bins": rows, "expected_error": error}


def scatter(answers: Answers) -> dict:
    """Prediction against label on a scale (the paper, Figure 6 c): points, the fitted line, the mean signed error.

    signed_error: prediction − label; below 0 is undershooting. "upper" and "lower": labels in that half of the scale.
    """
    labels, predictions = answers.labels, answers.predictions
    signed, upper = predictions - labels, labels >= UPPER_HALF
    groups = {"all": np.full(len(labels), True), "upper": upper, "lower": ~upper}
    return {"labels": labels.tolist(), "predictions": [round(value, 4) for value in predictions.tolist()],
            "line": fitted_line(labels, predictions),
            "signed_error": {name: {"n": int(inside.sum()),
                                    "mean": float(signed[inside].mean()) if inside.any() else None,
                                    "interval": intervals.of_mean(signed[inside])}
                             for name, inside in groups.items()}}


def fitted_line(labels: np.ndarray, predictions: np.ndarray) -> dict | None:
    """prediction ≈ intercept + slope · label by least squares, the slope's interval by Student's t; else None."""
    if len(labels) < 3 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return None
    line = stats.linregress(labels, predictions)
    half = float(stats.t.ppf(intervals.QUANTILES[1], len(labels) - 2) * line.stderr)
    return {"slope": float(line.slope), "intercept": float(line.intercept),
            "slope_interval": [float(line.slope) - half, float(line.slope) + half]}


def worst_errors(answers: Answers, examples: Sequence[Example]) -> list[dict]:
    """The answers furthest from their labels, the worst first; of classes, those given the label least probability."""
    order = np.argsort(-answers.wrong, kind="stable")
    if answers.task.classes:
        order = order[answers.quality[order] == 0]
    return [{"id": examples[index].id, "sentences": list(examples[index].sentences),
             "label": float(answers.labels[index]), "answer": float(answers.predictions[index]),
             "wrong": float(answers.wrong[index])} for index in order[:WORST].tolist()]


def leakage(answers: Answers, dev: Sequence[Example], train: Sequence[Example], resamples: int,
            generator: np.random.Generator) -> dict:
    """Scores apart for dev examples of which a sentence stands in the task's training file, and for the others.

    whole: dev examples that stand there with all their sentences together, in either order.
    """
    seen = {normalised(sentence) for example in train for sentence in example.sentences}
    whole = {frozenset(map(normalised, example.sentences)) for example in train}
    shares = np.array([any(normalised(sentence) in seen for sentence in example.sentences) for example in dev])
    parts = {name: {"n": int(inside.sum()), "score": answers.score(inside),
                    "interval": intervals.percentiles(answers.draws(resamples, generator, inside))}
             for name, inside in (("apart", ~shares), ("shared", shares))}
    return {**parts, "whole": sum(frozenset(map(normalised, example.sentences)) in whole for example in dev)}


def analyse_task(answers: Answers, splits: Mapping[str, Sequence[Example]], resamples: int,
                 generator: np.random.Generator) -> dict:
    """Everything about one task but its score's interval; see `analyse`."""
    dev, train = splits["dev"], splits["train"]
    counts = word_counts(train)
    _, sizes = np.unique(answers.labels, return_counts=True)
    found = {
        "metric": answers.task.metric_name, "n": len(dev), "score": answers.score(),
        "trivial": float(sizes.max() / len(dev)) if answers.task.classes else 0.0,
        "length": binned(answers, np.array([sentence_length(example) for example in dev]), resamples, generator),
        "commonality": binned(answers, np.array([word_commonality(example, counts) for example in dev]), resamples,
                              generator),
        "leakage": leakage(answers, dev, train, resamples, generator),
        "worst_errors": worst_errors(answers, dev),
    }
    if not answers.task.classes:
        return {**found, "scatter": scatter(answers)}
    found["confusion"] = confusion(answers)
    return {**found, "calibration": calibration(answers)} if answers.task.outputs == 1 else found


# ------------------------------------------------------------------------------------------- of a run


def analyse(dataset: Dataset, logits: Mapping[str, torch.Tensor], seed: int = SEED, resamples: int = RESAMPLES) -> dict:
    """The dev set through a model's raw outputs → {"average", "tasks": {task: {…}}}, ready for JSON.

    dataset[task][split]: train (for word counts and shared sentences) and dev. logits[task]: (dev examples, outputs).
    Of each task: score with bootstrap interval, `trivial` (the most frequent class's share, or 0), score by length and
    commonality, worst errors, leakage; with classes the confusion matrix, with two also calibration; on a scale the
    scatter plot. An undefined score is None. The same seed gives the same numbers. Raises ValueError for a wrong shape.
    """
    generator = np.random.default_rng(seed)
    tasks, draws = {}, []
    for name, task in TASKS.items():
        answers = Answers.of(task, dataset[name]["dev"], logits[name])
        scores = answers.draws(resamples, generator)
        draws.append(np.nan_to_num(scores))  # an undefined score counts 0 in the average
        tasks[name] = {**analyse_task(answers, dataset[name], resamples, generator),
                       "interval": intervals.percentiles(scores)}
    value = sum(found["score"] or 0.0 for found in tasks.values()) / len(tasks)
    return {"seed": seed, "resamples": resamples, "tasks": tasks,
            "average": {"score": value, "interval": intervals.percentiles(np.mean(draws, axis=0))}}
