"""Does gradient surgery help? Arms that differ only in gradient weights, paired by seed.

Every arm of a seed starts from the same weights and sees the same batches in the same order. All
are scored at a fixed final step, so no epoch is selected on dev. `constant` multiplies the
gradients by PCGrad's weights of that seed, averaged over its steps: it shows what reweighting alone
gains, and the rest of PCGrad's gain is surgery. `single` is one model per task, trained alone.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minbert.files import replacing, user_path, write_json, write_text
from minbert.progress import Progress
from multitask.analysis.comparisons import holm, paired_bootstrap, paired_difference, verdict_of
from multitask.data.examples import Dataset
from multitask.runs import run
from multitask.system import console
from multitask.system.environment import invocation
from multitask.tasks import TASKS

from .arms import (
    MOMENTS,
    MULTITASK_ARMS,
    SINGLE,
    TRAININGS,
    TRIALS,
    Arm,
    Question,
    train_arm,
    training_of,
    trial_file,
)
from .question_report import write_question_report
from .question_tables import about, question_markdown
from .request import claim_folder

QUESTION_FILE = "question.json"
# arms against a control: Holm's correction covers each family's arms × tasks
FAMILIES = {"sum": ("pcgrad", "paper", "constant", SINGLE), "constant": ("pcgrad",)}
TIMED_STEPS, UNTIMED_STEPS = 15, 3
RESAMPLES = 1000


def ask(question: Question, out: Path, seeds: list[int],
        say: Callable[[str], None] = console.say) -> dict:
    """Trains what is missing, then compares; after each seed writes the three result files.

    Raises:
        ValueError: the folder holds results of another question.
    """
    out = user_path(out)
    claim_folder(out / "asked.json", dataclasses.asdict(question),
                 has_results=any((out / TRIALS).glob("*.json")))
    (out / TRIALS).mkdir(exist_ok=True)
    settings = question.settings(seeds[0])
    dataset = run.load_data(settings)
    model = run.build_model(settings, dataset)
    tokens = {name: {split: model.tokenize(splits[split]) for split in ("train", "dev")}
              for name, splits in dataset.items()}
    labels = {name: splits["dev"].labels for name, splits in tokens.items()}
    steps = steps_at_equal_time(question, out, dataset, tokens, seeds[0])

    results: dict = {}
    for count, seed in enumerate(seeds, start=1):
        for training in TRAININGS:
            path = trial_file(out, seed, training)
            if path.is_file():
                continue
            say(f"seed {seed}: {training}")
            trial, predictions = train_arm(question, training, seed, dataset, tokens,
                                           steps[training], out,
                                           probe=seed == seeds[0] and training == "pcgrad")
            with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
                np.savez(file, **predictions)
            write_json(path, trial)
            scores = ", ".join(f"{name} {score:.3f}"
                               for name, score in trial["scores"]["equal_steps"].items())
            say(f"  {scores}  ({trial['seconds']:.0f} s)")

        results = compare(question, out, seeds[:count], labels)
        write_json(out / QUESTION_FILE, results)
        write_text(out / "question.md", question_markdown(results))
        write_question_report(out / run.REPORT_FILE, results, about(results))
    return results


def steps_at_equal_time(question: Question, out: Path, dataset: Dataset, tokens: dict,
                        seed: int) -> dict[str, dict[str, int]]:
    """Training → moment → steps; timed once and kept in times.json, since each measurement differs.

    The multi-task arms differ only in arithmetic on a (tasks, tasks) table, so they share one time
    per step. The single-task models together get the time of one multi-task model, in proportion to
    the cost of their steps.
    """
    singles = [training for training in TRAININGS if training.startswith(SINGLE)]
    path = out / "times.json"
    if not path.is_file():
        seconds = {}
        for training in Progress(("pcgrad", *singles), desc="timing the arms", leave=False):
            arm = Arm(question, training, seed, dataset, tokens)
            for _ in range(UNTIMED_STEPS + TIMED_STEPS):
                arm.step()
            seconds[training] = statistics.median(step["seconds"]
                                                  for step in arm.log[UNTIMED_STEPS:])
        write_json(path, seconds)

    seconds = json.loads(path.read_text(encoding="utf-8"))
    multitask_cost = seconds["pcgrad"]
    single_cost = sum(seconds[training] for training in singles)
    budget = question.steps * max(multitask_cost, single_cost)

    steps = {}
    for training in TRAININGS:
        cost = single_cost if training in singles else multitask_cost
        # 1e-9: the slowest arm is not to lose a step by rounding
        steps[training] = {"equal_steps": question.steps, "equal_time": int(budget / cost + 1e-9)}
    return steps


# -------------------------------------------------------------------------------------------
# comparing


def compare(question: Question, out: Path, seeds: list[int], labels: dict[str, np.ndarray]) -> dict:
    """Content of question.json: scores, differences with intervals, conflict statistics."""
    trials = {}
    for seed in seeds:
        for training in TRAININGS:
            text = trial_file(out, seed, training).read_text(encoding="utf-8")
            trials[seed, training] = json.loads(text)

    scores: dict = {moment: {arm: {} for arm in (*MULTITASK_ARMS, SINGLE)} for moment in MOMENTS}
    for moment, by_arm in scores.items():
        for arm, by_task in by_arm.items():
            for task in TASKS:
                training = training_of(arm, task)
                by_task[task] = [trials[seed, training]["scores"][moment][task] for seed in seeds]

    comparisons: dict = {moment: {} for moment in MOMENTS}
    for moment, by_control in comparisons.items():
        for control, arms in FAMILIES.items():
            by_control[control] = {"differences": differences_from(control, arms, scores[moment])}

    first = trials[seeds[0], "pcgrad"]
    step_seconds = {training: statistics.median(trials[seed, training]["step_seconds"]
                                                for seed in seeds)
                    for training in TRAININGS}
    return {
        "environment": invocation(),
        "asked": dataclasses.asdict(question),
        "seeds": seeds,
        "dev": {name: len(values) for name, values in labels.items()},
        "steps": {training: trials[seeds[0], training]["steps"] for training in TRAININGS},
        "step_seconds": step_seconds,
        "scores": scores,
        "comparisons": comparisons,
        "within_seed": {str(seed): within_seed(out, seed, labels) for seed in seeds},
        "conflicts": {str(seed): trials[seed, "pcgrad"]["conflicts"] for seed in seeds},
        "probes": first["probes"],
        "cosines": first["cosines"],
    }


def differences_from(control: str, arms: tuple[str, ...], scores: dict) -> list[dict]:
    """One family: differences from the control paired by seed, with p values adjusted by Holm."""
    differences = {(arm, task): paired_difference(scores[arm][task], scores[control][task])
                   for arm in arms for task in TASKS}
    adjusted = holm({key: difference.p for key, difference in differences.items()})
    rows = []
    for (arm, task), difference in differences.items():
        p = adjusted[arm, task]
        rows.append({"arm": arm, "task": task, **dataclasses.asdict(difference), "holm": p,
                     "verdict": verdict_of(difference, p)})
    return rows


def within_seed(out: Path, seed: int, labels: dict[str, np.ndarray]) -> dict:
    """Paired bootstrap of pcgrad − sum over dev items: chance in the items, not in training."""
    with (np.load(trial_file(out, seed, "pcgrad").with_suffix(".npz")) as pcgrad,
          np.load(trial_file(out, seed, "sum").with_suffix(".npz")) as plain_sum):
        found = {}
        for name, task in TASKS.items():
            interval = paired_bootstrap(task.measure, pcgrad[name], plain_sum[name], labels[name],
                                        RESAMPLES, seed)
            found[name] = interval._asdict()
        return found
