"""Does gradient surgery help? Arms that differ only in gradient weights, paired by seed.

Every arm of a seed starts from the same weights and sees the same batches in the same order. All
are scored at a fixed final step, so no epoch is selected on dev. Controls show what explains a
gain: `constant` has PCGrad's mean weights, so the rest of PCGrad's gain is surgery;
`best-constant` has the best weights of a grid; `rgw` has random ones; `single` is one model per
task.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy

from minbert.files import read_object, replacing, write_json, write_text
from minbert.progress import Progress
from multitask.analysis.comparisons import (
    holm,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    verdict_of,
)
from multitask.data.examples import Dataset
from multitask.data.sampling import ANNEAL
from multitask.runs.folder import REPORT_FILE
from multitask.runs.inputs import build_model, load_data
from multitask.system.console import say
from multitask.system.environment import invocation
from multitask.tasks import TASKS
from optim import Method

from .arms import (
    ALWAYS,
    BEST,
    CONSTANT,
    CONTROLS,
    DEFAULT_ARMS,
    GRID,
    GRID_SEEDS,
    MOMENTS,
    PCGRAD,
    PLAIN_SUM,
    SINGLES,
    TRIALS,
    Arm,
    Question,
    check_arm,
    code_of,
    is_control,
    steps_of,
    train_arm,
    training_of,
    trainings_of,
    trial_file,
)
from .question_report import write_question_report
from .question_tables import AVERAGE, question_markdown
from .request import claim_folder

QUESTION_FILE, TIMES_FILE = "question.json", "times.json"
TIMED_STEPS, UNTIMED_STEPS = 15, 3
RESAMPLES = 1000


def ask(question: Question, out: Path, seeds: list[int],
        arms: Sequence[str] | None = None) -> dict:
    """Trains what is missing, then compares; after each seed writes the three result files.

    Args:
        arms: surgery methods, with options if need be, and controls. PCGrad, the plain sum and the
            arms that the folder was asked for before are always among them. Without any, those of
            DEFAULT_ARMS.

    Raises:
        ValueError: the folder holds results of another question, or of a method whose file has
            changed since, or there is no such arm.
        FloatingPointError: an arm diverges; the message says how to go on without it.
    """
    arms = claim(question, out, arms)
    codes = {arm: code_of(arm) for arm in arms}  # now: a file may change while it is used
    settings = question.settings(seeds[0])
    dataset = load_data(settings)
    model = build_model(settings, dataset)
    tokens = {name: {split: model.tokenize(splits[split]) for split in ("train", "dev")}
              for name, splits in dataset.items()}
    labels = {name: splits["dev"].labels for name, splits in tokens.items()}
    steps = steps_at_equal_time(question, arms, out, dataset, tokens, seeds[0])

    def train_missing(seed: int, trainings: Sequence[str]) -> None:
        for training in trainings:
            path = trial_file(out, seed, training)
            # a file of an earlier version may be that of another arm
            if path.is_file() and read_trial(out, seed, training)["training"] == training:
                continue
            say(f"seed {seed}: {training}")
            try:
                trial, predictions = train_arm(question, training, seed, dataset, tokens,
                                               steps[training], constant_of(training, seed, out),
                                               probe=seed == seeds[0] and training == PCGRAD)
            except FloatingPointError as error:
                raise FloatingPointError(f"{training}, seed {seed}: {error}; "
                                         f"{remedy(training, arms, out)}") from None
            with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
                np.savez(file, **predictions)
            write_json(path, {**trial, "code": codes.get(training)})
            scores = ", ".join(f"{name} {score:.3f}"
                               for name, score in trial["scores"]["equal_steps"].items())
            say(f"  {scores}  ({trial['seconds']:.0f} s)")

    for seed in GRID_SEEDS if BEST in arms else ():
        train_missing(seed, GRID)
    results: dict = {}
    for count, seed in enumerate(seeds, start=1):
        train_missing(seed, trainings_of(arms))
        results = compare(question, arms, out, seeds[:count], labels)
        write_json(out / QUESTION_FILE, results)
        write_text(out / "question.md", question_markdown(results))
        write_question_report(out / REPORT_FILE, results)
    return results


def claim(question: Question, out: Path, arms: Sequence[str] | None) -> tuple[str, ...]:
    """Saves what is asked; returns all arms of the folder, those of earlier calls too."""
    path, has_results = out / "asked.json", any((out / TRIALS).glob("*.json"))
    begun = read_object(path).get("arms", DEFAULT_ARMS) if has_results else ()
    others = (*begun, *(arms or ())) or DEFAULT_ARMS
    asked = tuple(dict.fromkeys((*ALWAYS, *others)))
    for arm in asked:
        check_arm(arm)
    check_codes(asked, out)
    claim_folder(path, dataclasses.asdict(question), has_results, arms=asked)
    if not has_results:
        (out / TIMES_FILE).unlink(missing_ok=True)  # it may be of another question
    (out / TRIALS).mkdir(exist_ok=True)
    return asked


def check_codes(arms: Sequence[str], out: Path) -> None:
    """Raises ValueError if an arm was trained with other code than its file holds now."""
    changed: dict[str, list[str]] = {}
    for path in sorted((out / TRIALS).glob("*.json")):
        trial = read_object(path)
        arm, code = trial.get("training"), trial.get("code")
        if code is not None and arm in arms and code != code_of(arm):
            changed.setdefault(arm, []).append(str(path))
    for arm, files in changed.items():
        raise ValueError(f"the code of {arm} has changed since it was trained: remove "
                         f"{', '.join(files)} to train it again, or give the new method another "
                         "name")


def remedy(training: str, arms: Sequence[str], out: Path) -> str:
    """What to do about a training that diverges, since it would diverge again."""
    arm = next((arm for arm in arms if training in trainings_of([arm])), BEST)  # a row of its grid
    if arm in ALWAYS:
        return (f"{arm} is part of every question: take another --model or --batch-size, and "
                "another --out")
    return f"to continue without {arm}, delete it from {out / 'asked.json'} and from --arms"


def read_trial(out: Path, seed: int, training: str) -> dict:
    return read_object(trial_file(out, seed, training))


def constant_of(training: str, seed: int, out: Path) -> list[float] | None:
    """The constant weights of a control; None for a method that finds its own."""
    if training == CONSTANT:
        return list(read_trial(out, seed, PCGRAD)["conflicts"]["mean_weights"].values())
    if training == BEST:
        averages = grid_averages(out)
        training = max(averages, key=averages.__getitem__)
    if training in GRID:
        return [float(weight) for weight in training.removeprefix("grid-").split("+")]
    return None


def grid_averages(out: Path) -> dict[str, float]:
    """The mean over tasks and seeds of each row of the grid."""
    found = {}
    for training in GRID:
        trials = [read_trial(out, seed, training)["scores"]["equal_steps"] for seed in GRID_SEEDS]
        found[training] = statistics.mean(score for trial in trials for score in trial.values())
    return found


def steps_at_equal_time(question: Question, arms: Sequence[str], out: Path, dataset: Dataset,
                        tokens: dict, seed: int) -> dict[str, dict[str, int]]:
    """Training → moment → steps; timed once and kept in times.json, since each measurement differs.

    The multi-task arms differ only in arithmetic on a (tasks, tasks) table, so they share one time
    per step. A method with a second forward pass has its own, and takes fewer steps in the others'
    time. So has `anneal`, whose steps are of one task. The single-task models together get the time
    of one multi-task model, in proportion to the cost of their steps. The grid runs for half the
    steps.
    """
    others = [arm for arm in arms
              if arm == ANNEAL or (arm not in CONTROLS and Method(arm).observe)]
    path = out / TIMES_FILE
    seconds = read_object(path) if path.is_file() else {}
    missing = [name for name in (PCGRAD, *SINGLES, *others) if name not in seconds]
    if missing:
        new = {}
        for training in Progress(dict.fromkeys((PCGRAD, *missing)), desc="timing the arms",
                                 leave=False):
            arm = Arm(question, training, seed, dataset, tokens)
            for _ in range(UNTIMED_STEPS + TIMED_STEPS):
                arm.step()
            new[training] = statistics.median(step["seconds"] for step in arm.log[UNTIMED_STEPS:])
        pace = seconds.get(PCGRAD, new[PCGRAD]) / new[PCGRAD]  # the machine may be busier today
        seconds |= {name: pace * new[name] for name in missing}
        write_json(path, seconds)

    multitask_cost = seconds[PCGRAD]
    single_cost = sum(seconds[training] for training in SINGLES)
    budget = question.steps * max(multitask_cost, single_cost)

    steps = dict.fromkeys(GRID, dict.fromkeys(MOMENTS, math.ceil(question.steps / 2)))
    for training in trainings_of(arms):
        cost = single_cost if training in SINGLES else seconds.get(training, multitask_cost)
        steps[training] = {
            "equal_steps": steps_of(question, training),
            # 1e-9: so that the slowest arm loses no step to rounding
            "equal_time": int(budget / cost + 1e-9)}
    return steps


# -------------------------------------------------------------------------------------------
# comparing


def compare(question: Question, arms: Sequence[str], out: Path, seeds: list[int],
            labels: dict[str, np.ndarray]) -> dict:
    """Content of question.json: scores, differences with intervals, ranks, conflict statistics."""
    trainings = trainings_of(arms)
    trials = {(seed, training): read_trial(out, seed, training)
              for seed in seeds for training in trainings}

    scores: dict = {moment: {arm: {} for arm in arms} for moment in MOMENTS}
    for moment, by_arm in scores.items():
        for arm, by_task in by_arm.items():
            for task in TASKS:
                training = training_of(arm, task)
                by_task[task] = [trials[seed, training]["scores"][moment][task] for seed in seeds]

    comparisons: dict = {moment: {} for moment in MOMENTS}
    ranks = {}
    for moment, by_control in comparisons.items():
        averages = {arm: {AVERAGE: np.mean(list(by_task.values()), axis=0)}
                    for arm, by_task in scores[moment].items()}
        ranks[moment] = ranks_of({arm: values[AVERAGE] for arm, values in averages.items()})
        for control, against in families(arms).items():
            by_control[control] = {"differences": differences_from(control, against,
                                                                   scores[moment]),
                                   "average": differences_from(control, against, averages)}

    first = trials[seeds[0], PCGRAD]
    return {
        "environment": invocation(),
        "asked": dataclasses.asdict(question),
        "seeds": seeds,
        "dev": {name: len(values) for name, values in labels.items()},
        "steps": {training: trials[seeds[0], training]["steps"] for training in trainings},
        "scores": scores,
        "ranks": ranks,
        "comparisons": comparisons,
        "within_seed": {str(seed): within_seed(out, seed, labels) for seed in seeds},
        "conflicts": {str(seed): trials[seed, PCGRAD]["conflicts"] for seed in seeds},
        "grid": grid_averages(out) if BEST in arms else {},
        "probes": first["probes"],
        "cosines": {pair: values[:question.steps] for pair, values in first["cosines"].items()},
        "seconds": read_object(out / TIMES_FILE),
    }


def families(arms: Sequence[str]) -> dict[str, list[str]]:
    """Control → the arms that are compared with it."""
    methods = [arm for arm in arms if not is_control(arm)]
    against = {PLAIN_SUM: [arm for arm in arms if arm != PLAIN_SUM], CONSTANT: [PCGRAD],
               BEST: methods}
    return {control: found for control, found in against.items() if control in arms}


def ranks_of(averages: Mapping[str, Sequence[float]]) -> dict[str, dict]:
    """Arm → its rank in each seed, 1 for the highest, and their mean with its t interval.

    Equal scores share the mean of their ranks. The interval is cut where ranks end.
    """
    table = scipy.stats.rankdata(-np.array(list(averages.values())), axis=0)
    found = {}
    for arm, ranks in zip(averages, table.tolist(), strict=True):
        mean, low, high = mean_interval(ranks)
        found[arm] = {"ranks": ranks, "mean": mean, "low": None if low is None else max(low, 1.0),
                      "high": None if high is None else min(high, float(len(averages)))}
    return found


def differences_from(control: str, arms: Sequence[str], scores: Mapping) -> list[dict]:
    """One family: differences from the control paired by seed, with p values adjusted by Holm."""
    differences = {(arm, task): paired_difference(scores[arm][task], values)
                   for arm in arms for task, values in scores[control].items()}
    adjusted = holm({key: difference.p for key, difference in differences.items()})
    rows = []
    for (arm, task), difference in differences.items():
        p = adjusted[arm, task]
        rows.append({"arm": arm, "task": task, **dataclasses.asdict(difference), "holm": p,
                     "verdict": verdict_of(difference, p)})
    return rows


def within_seed(out: Path, seed: int, labels: dict[str, np.ndarray]) -> dict:
    """Paired bootstrap of pcgrad − sum over dev items: chance in the items, not in training."""
    with (np.load(trial_file(out, seed, PCGRAD).with_suffix(".npz")) as pcgrad,
          np.load(trial_file(out, seed, PLAIN_SUM).with_suffix(".npz")) as plain_sum):
        found = {}
        for name, task in TASKS.items():
            low, high, undefined = paired_bootstrap(task.measure, pcgrad[name], plain_sum[name],
                                                    labels[name], RESAMPLES, seed)
            found[name] = {"low": low, "high": high, "undefined": undefined}
        return found
