"""Finished runs against a reference, task by task, on the dev examples that both were scored on.

The intervals are those of other dev examples, for the models as they are trained. They say nothing
about another seed: for that, train several and ask multitask.experiments.
"""

from collections.abc import Mapping, Sequence
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

    task: Task
    ids: list[str]
    labels: np.ndarray
    predictions: np.ndarray | None


Named = tuple[str, Mapping[str, Answers]]  # a run's folder, and task → answers


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
    reference, *others = [(str(run), answers_of(run, data, tasks)) for run in runs]
    found, left_out = [], []
    for other in others:
        shared = [task for task in reference[1] if task in other[1]]
        if not shared:
            tasks = " and ".join(f"{run} has {', '.join(answers)}"
                                 for run, answers in (reference, other))
            raise ValueError(f"there is no task in common: {tasks}")

        reasons = {task: why_not(task, reference, other) for task in shared}
        found += [difference(task, reference, other) for task in shared if not reasons[task]]
        left_out += filter(None, reasons.values())
    if not found:
        raise ValueError(f"nothing can be compared: {'; '.join(left_out)}")
    order = list(reference[1])
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
        found[task.name] = Answers(task, ids, labels.astype(np.float64), predictions)
    return found


def why_not(task: str, reference: Named, run: Named) -> str:
    """Why two runs cannot be compared on a task, in one line; "" if they can."""
    first, second = reference[1][task], run[1][task]
    where = f"{task} is left out for {run[0]}"
    for key in MUST_AGREE:
        if getattr(first.task, key) != getattr(second.task, key):
            return f"{where}: {reference[0]} and {run[0]} disagree on its {key}"
    for name, answers in ((reference[0], first), (run[0], second)):
        if answers.predictions is None:
            return f"{where}: {name} has no dev predictions of it"
    if first.ids != second.ids or not np.array_equal(first.labels, second.labels):
        return (f"{where}: its {len(second.ids):,} dev examples are not the {len(first.ids):,} of "
                f"{reference[0]} (other ids or labels)")
    return ""


def difference(task: str, reference: Named, run: Named) -> Difference:
    a, b = reference[1][task], run[1][task]
    first, second = (each.task.score(each.predictions, each.labels) for each in (a, b))
    low, high, undefined = paired_bootstrap(a.task.measure, b.predictions, a.predictions, a.labels,
                                            RESAMPLES, SEED)
    gained = lost = None
    if a.task.classes:
        was_right, is_right = a.predictions == a.labels, b.predictions == a.labels
        gained, lost = int((is_right & ~was_right).sum()), int((was_right & ~is_right).sum())
    return Difference(
        task=task, metric=a.task.metric, reference=reference[0], run=run[0], n=len(a.ids),
        reference_score=first, score=second,
        difference=None if first is None or second is None else second - first,
        low=low, high=high, undefined=undefined, gained=gained, lost=lost)
