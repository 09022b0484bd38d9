"""Finished runs against a reference, task by task, on the dev examples that both were scored on.

The intervals are those of other dev examples, for the models as they are trained. They say nothing
about another seed: for that, train several and ask multitask.experiments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from multitask.analysis.comparisons import paired_bootstrap
from multitask.analysis.dev_set import RESAMPLES, SEED
from multitask.commands import command_line
from multitask.evaluation import PREDICTIONS_FOLDER, prediction_file, read_predictions
from multitask.tasks import Task

from .folder import is_finished, load_settings
from .inputs import load_data, settings_of_run

MUST_AGREE = ("kind", "labels", "range", "metric")  # of two tasks of one name


@dataclass(frozen=True)
class Answers:
    """What a run predicted for one task's dev set, in its order; None if it predicted nothing."""

    run: str
    task: Task
    ids: list[str]
    labels: np.ndarray
    predictions: np.ndarray | None


@dataclass(frozen=True)
class Difference:
    """One task's score in a run minus that in the reference.

    Attributes:
        n: dev examples.
        low, high: of the 95 % interval; None, as a score is, where it is undefined.
        undefined: resamples left out of the interval, since a score was undefined in them.
        gained, lost: examples that only the run, or only the reference, has right; None on a scale.
    """

    task: str
    metric: str
    reference: str
    run: str
    n: int
    reference_score: float | None
    score: float | None
    difference: float | None
    low: float | None
    high: float | None
    undefined: int
    gained: int | None
    lost: int | None


def compare(runs: Sequence[Path], data: Path | None = None,
            tasks: str | None = None) -> tuple[list[Difference], list[str]]:
    """Every run against the first one.

    Args:
        runs: folders of finished runs, at least two.
        data: a folder in place of the runs' own data.
        tasks: as --tasks names them, if their files have moved.

    Returns:
        The differences, task by task, and one line for each task that cannot be compared.

    Raises:
        ValueError, OSError: a folder is not a finished run, its data cannot be read, or it has no
            task that can be compared.
    """
    reference, *others = [answers_of(run, data, tasks) for run in runs]
    found, left_out = [], []
    for run, answers in zip(runs[1:], others, strict=True):
        shared = [task for task in reference if task in answers]
        if not shared:
            raise ValueError(f"there is no task in common: {runs[0]} has {', '.join(reference)} "
                             f"and {run} has {', '.join(answers)}")

        for task in shared:
            reason = why_not(reference[task], answers[task])
            if reason:
                left_out.append(reason)
            else:
                found.append(difference(reference[task], answers[task]))
    if not found:
        raise ValueError(f"nothing can be compared: {'; '.join(left_out)}")
    order = list(reference)
    return sorted(found, key=lambda one: order.index(one.task)), left_out


def answers_of(run: Path, data: Path | None, tasks: str | None) -> dict[str, Answers]:
    """Task → what the run predicted and what is right. Raises ValueError or OSError."""
    settings = load_settings(run, "compare")
    if not is_finished(run):
        raise ValueError(f"compare {run}: the run is not finished; resume it with: "
                         f"{command_line('train')} --resume {quote(str(run))}")

    dataset = load_data(settings_of_run(run, data, tasks))
    found = {}
    for task in settings.tasks:
        examples = dataset[task.name]["dev"]
        ids = [example.id for example in examples]
        path = prediction_file(run / PREDICTIONS_FOLDER, task, "dev")
        predictions = None
        if path.is_file():
            predicted, predictions = read_predictions(path, task)
            if predicted != ids:
                flag = "--tasks" if task.has_own_files else "--data"
                raise ValueError(f"{path} is of other examples than the run's data have now: name "
                                 f"the data that it was trained on with {flag}")
        labels = np.array([example.label for example in examples], dtype=np.float32)  # as in a run
        found[task.name] = Answers(str(run), task, ids, labels.astype(np.float64), predictions)
    return found


def why_not(reference: Answers, other: Answers) -> str:
    """Why two runs cannot be compared on a task, in one line; "" if they can."""
    where = f"{reference.task.name} is left out for {other.run}"
    for key in MUST_AGREE:
        if getattr(reference.task, key) != getattr(other.task, key):
            return f"{where}: {reference.run} and {other.run} disagree on its {key}"
    for answers in (reference, other):
        if answers.predictions is None:
            return f"{where}: {answers.run} has no dev predictions of it"
    if reference.ids != other.ids or not np.array_equal(reference.labels, other.labels):
        return (f"{where}: its {len(other.ids):,} dev examples are not the {len(reference.ids):,} "
                f"of {reference.run} (other ids or labels)")
    return ""


def difference(a: Answers, b: Answers) -> Difference:
    """b's score minus that of a, the reference."""
    first, second = (each.task.score(each.predictions, each.labels) for each in (a, b))
    low, high, undefined = paired_bootstrap(a.task.measure, b.predictions, a.predictions, a.labels,
                                            RESAMPLES, SEED)
    gained = lost = None
    if a.task.classes:
        was_right, is_right = a.predictions == a.labels, b.predictions == a.labels
        gained, lost = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    return Difference(
        task=a.task.name, metric=a.task.metric, reference=a.run, run=b.run, n=len(a.ids),
        reference_score=first, score=second,
        difference=None if first is None or second is None else second - first,
        low=low, high=high, undefined=undefined, gained=gained, lost=lost)
