"""Does gradient surgery help? Arms that differ in the weights of the tasks' gradients alone, paired by seed.

Every arm of a seed starts from the same weights and sees the same batches in the same order; all are scored at a
fixed final step, so that no epoch is picked on dev. `constant` multiplies the gradients by PCGrad's own weights of that
seed, averaged over its steps: what it reaches is reweighting, what PCGrad reaches beyond it is surgery. `single` is a
model a task, trained alone.
"""

from __future__ import annotations

import dataclasses
import json
import statistics as plain
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minbert.files import replacing
from multitask.analysis.comparisons import (
    PairedDifference,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    verdict_of,
)
from multitask.analysis.log import conflict_statistics, pairs_of, upper_triangle
from multitask.analysis.probe import conflict_probe, summarise
from multitask.data.course import Dataset
from multitask.data.sampling import WRAP, RoundRobin
from multitask.model import MultitaskBert
from multitask.runs import run
from multitask.runs.settings import Settings
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import SCHEDULES, constant_weights, cosines

from .question_report import write_question_report

QUESTION_FILE, TRIALS = "question.json", "trials"
SINGLE = "single"
# what is trained in a seed, in this order: constant needs PCGrad's weights
MULTITASK_ARMS = ("pcgrad", "sum", "paper", "constant")
TRAININGS = (*MULTITASK_ARMS, *(f"{SINGLE}-{name}" for name in TASKS))
# arms against a control: Holm's correction runs over each family's arms × tasks
FAMILIES = {"sum": ("pcgrad", "paper", "constant", SINGLE), "constant": ("pcgrad",)}
MOMENTS = ("equal_steps", "equal_time")
TIMED_STEPS, UNTIMED_STEPS = 15, 3
RESAMPLES = 1000
PROBE_DRAWS = 8
ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Question:
    """What is asked, saved in question.json: only the same goes on in its folder.

    steps: of every arm at `equal_steps`; at `equal_time` each has had the time that the slowest took for them.
    """

    model: str
    data: str | None
    steps: int
    arch: str = "concatB"
    lr: float = 1e-4
    head_lr: float | None = 3e-3
    warmup: float = 0.1
    batch_size: int = 8
    eval_limit: int | None = 2000
    device: str = "auto"
    precision: str = "auto"

    def settings(self, seed: int) -> Settings:
        values = {key: value for key, value in dataclasses.asdict(self).items() if key != "steps"}
        return Settings(gs=WRAP, seed=seed, max_steps=self.steps, **values)


def ask(question: Question, out: Path, seeds: list[int], say: Callable[[str], None] = print) -> dict:
    """Trains what is still missing, then compares; writes question.json and question.md after every seed."""
    check(question, out)
    dataset = run.load_data(question.settings(seeds[0]))
    tokens = run.build_model(question.settings(seeds[0]), dataset)
    tokens = {name: {split: tokens.tokenize(splits[split]) for split in ("train", "dev")}
              for name, splits in dataset.items()}
    steps = steps_at_equal_time(question, out, dataset, tokens, seeds[0])
    results: dict = {}
    for seed in seeds:
        for training in TRAININGS:
            path = trial_file(out, seed, training)
            if path.is_file():
                continue
            say(f"seed {seed}: {training}")
            trial, predictions = train(question, training, seed, dataset, tokens, steps[training], out,
                                       probe=seed == seeds[0] and training == "pcgrad")
            with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
                np.savez(file, **predictions)
            save(path, trial)
            say("  " + ", ".join(f"{name} {score:.3f}" for name, score in trial["scores"]["equal_steps"].items())
                + f"  ({trial['seconds']:.0f} s)")
        done = seeds[:seeds.index(seed) + 1]
        results = compare(question, out, done, {name: splits["dev"].labels for name, splits in tokens.items()})
        save(out / QUESTION_FILE, results)
        with replacing(out / "question.md") as partial:
            partial.write_text(markdown(results), encoding="utf-8")
        write_question_report(out / run.REPORT_FILE, results, about(results))
    return results


def check(question: Question, out: Path) -> None:
    """Raises ValueError if the folder holds results of another question."""
    path = out / "asked.json"
    asked = dataclasses.asdict(question)
    begun = json.loads(path.read_text(encoding="utf-8")) if any((out / TRIALS).glob("*.json")) else asked
    if begun != asked:
        other = next(key for key in asked if begun.get(key) != asked[key])
        raise ValueError(f"{out} holds a comparison with another {other} ({begun.get(other)}, not {asked[other]}); "
                         "name another --out")
    (out / TRIALS).mkdir(parents=True, exist_ok=True)
    save(path, asked)


def save(path: Path, values: dict) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def trial_file(out: Path, seed: int, training: str) -> Path:
    return out / TRIALS / f"{seed}-{training}.json"


# ------------------------------------------------------------------------------------------- one training


class Training:
    """One arm of one seed, step by step."""

    def __init__(self, question: Question, training: str, seed: int, dataset: Dataset, tokens: dict,
                 weights: list[float] | None = None) -> None:
        """weights: of the arm `constant`, one a task."""
        settings = question.settings(seed)
        self.question, self.tokens, self.tasks = question, tokens, tasks_of(training)
        self.model: MultitaskBert = run.build_model(settings, dataset).to(run.pick_device(settings.device))
        self.model.precision = run.pick_precision(settings.precision, self.model.device,
                                                  self.model.encoder.config.hidden_size)
        # drawn for all tasks, whichever are trained: every arm of a seed meets the same batches
        self.sampler = RoundRobin({name: len(tokens[name]["train"]) for name in TASKS},
                                  dict.fromkeys(TASKS, question.batch_size), WRAP, seed)
        surgery = constant_weights(weights) if training == "constant" else training
        self.trainer = SurgeryTrainer(self.model, surgery if len(self.tasks) > 1 else "sum", settings.lr,
                                      seed=seed, tasks=self.tasks, head_lr=settings.head_lr)
        self.log: list[dict] = []
        torch.manual_seed(seed)  # of dropout
        self.sampler.start_epoch()

    def step(self) -> None:
        question, started = self.question, time.perf_counter()
        if self.log and len(self.log) % self.sampler.steps_per_epoch == 0:
            self.sampler.start_epoch()
        rows = self.sampler.next_step()
        batches = {name: self.tokens[name]["train"].batch(rows[name]) for name in self.tasks}
        scale = SCHEDULES["constant"](len(self.log), round(question.warmup * question.steps), question.steps)
        self.model.train()
        result = self.trainer.step(batches, scale)
        self.log.append({
            "seconds": time.perf_counter() - started,
            "losses": result.losses,
            "cosines": dict(zip(pairs_of(self.tasks), upper_triangle(cosines(result.gram)), strict=True)),
            "weights": dict(zip(self.tasks, result.weights.tolist(), strict=True)),
        })

    def predictions(self) -> dict[str, np.ndarray]:
        return {name: TASKS[name].decode(self.model.predict_logits(name, self.tokens[name]["dev"])).numpy()
                for name in self.tasks}


def tasks_of(training: str) -> tuple[str, ...]:
    """single-sst → ("sst",); all tasks for the other arms."""
    return (training.removeprefix(f"{SINGLE}-"),) if training.startswith(SINGLE) else tuple(TASKS)


def train(question: Question, training: str, seed: int, dataset: Dataset, tokens: dict, steps: dict[str, int],
          out: Path, probe: bool) -> tuple[dict, dict[str, np.ndarray]]:
    """One arm to the last of its moments. Returns what its file holds, and the dev predictions at equal steps."""
    started = time.perf_counter()
    weights = None
    if training == "constant":
        weights = list(json.loads(trial_file(out, seed, "pcgrad").read_text())["conflicts"]["mean_weights"].values())
    arm = Training(question, training, seed, dataset, tokens, weights)
    scores: dict[str, dict] = {}
    probes, kept = {}, {}
    probed = {0, question.steps // 2, question.steps} if probe else set()
    train_tokens = {name: tokens[name]["train"] for name in TASKS}
    with tqdm(total=max(steps.values()), desc=f"{training}, seed {seed}", unit="step", leave=False) as bar:
        for number in range(max(steps.values()) + 1):
            if number:
                arm.step()
                bar.update()
            if number in probed:
                probes[number] = summarise(conflict_probe(arm.model, train_tokens, question.batch_size, PROBE_DRAWS,
                                                          seed))
            moments = [moment for moment in MOMENTS if steps[moment] == number]
            if moments:
                predictions = arm.predictions()
                kept = kept or predictions
                found = {name: TASKS[name].metric(values, tokens[name]["dev"].labels) or 0.0
                         for name, values in predictions.items()}
                scores |= dict.fromkeys(moments, found)
    conflicts = conflict_statistics(arm.log[:question.steps]) if len(arm.tasks) > 1 else {}
    trial = {"seed": seed, "training": training, "scores": scores, "steps": steps, "conflicts": conflicts,
             "cosines": {pair: [round(step["cosines"][pair], 5) for step in arm.log] for pair in pairs_of(arm.tasks)},
             "probes": probes, "step_seconds": plain.median(step["seconds"] for step in arm.log),
             "seconds": time.perf_counter() - started}
    return trial, kept


def steps_at_equal_time(question: Question, out: Path, dataset: Dataset, tokens: dict,
                        seed: int) -> dict[str, dict[str, int]]:
    """training → moment → steps; timed once, kept in times.json, since another measurement would differ a little.

    The multi-task arms differ in arithmetic on a (tasks, tasks) table, so they share one time a step. The single-task
    models share the time of one multi-task model between them, in proportion to what their steps cost.
    """
    path = out / "times.json"
    if not path.is_file():
        timed = ("pcgrad", *(training for training in TRAININGS if training.startswith(SINGLE)))
        seconds = {}
        for training in tqdm(timed, desc="timing the arms", leave=False):
            arm = Training(question, training, seed, dataset, tokens)
            for _ in range(UNTIMED_STEPS + TIMED_STEPS):
                arm.step()
            seconds[training] = plain.median(step["seconds"] for step in arm.log[UNTIMED_STEPS:])
        save(path, seconds)
    seconds = json.loads(path.read_text(encoding="utf-8"))
    singles = sum(value for training, value in seconds.items() if training.startswith(SINGLE))
    budget = question.steps * max(seconds["pcgrad"], singles)
    at_equal_time = {kind: int(budget / cost + 1e-9) for kind, cost in ((True, singles), (False, seconds["pcgrad"]))}
    return {training: {"equal_steps": question.steps, "equal_time": at_equal_time[training.startswith(SINGLE)]}
            for training in TRAININGS}


# ------------------------------------------------------------------------------------------- comparing


def compare(question: Question, out: Path, seeds: list[int], labels: dict[str, np.ndarray]) -> dict:
    """question.json: scores, differences with intervals, verdicts, conflict statistics."""
    trials = {(seed, training): json.loads(trial_file(out, seed, training).read_text(encoding="utf-8"))
              for seed in seeds for training in TRAININGS}
    scores = {moment: {arm: {task: [trials[seed, training_of(arm, task)]["scores"][moment][task] for seed in seeds]
                             for task in TASKS} for arm in (*MULTITASK_ARMS, SINGLE)} for moment in MOMENTS}
    return {
        "asked": dataclasses.asdict(question), "seeds": seeds, "dev": {name: len(values) for name, values in
                                                                       labels.items()},
        "steps": {training: trials[seeds[0], training]["steps"] for training in TRAININGS},
        "step_seconds": {training: plain.median(trials[seed, training]["step_seconds"] for seed in seeds)
                         for training in TRAININGS},
        "scores": scores,
        "comparisons": {moment: {control: compared(scores[moment], arms, control)
                                 for control, arms in FAMILIES.items()} for moment in MOMENTS},
        "within_seed": {str(seed): within_seed(out, seed, labels) for seed in seeds},
        "conflicts": {str(seed): trials[seed, "pcgrad"]["conflicts"] for seed in seeds},
        "probes": trials[seeds[0], "pcgrad"]["probes"],
        "cosines": trials[seeds[0], "pcgrad"]["cosines"],
    }


def training_of(arm: str, task: str) -> str:
    return f"{SINGLE}-{task}" if arm == SINGLE else arm


def compared(scores: dict, arms: tuple[str, ...], control: str) -> dict:
    """One family: differences from the control paired by seed, p values by Holm, and what may be said."""
    differences: dict[tuple[str, str], PairedDifference] = {
        (arm, task): paired_difference(scores[arm][task], scores[control][task]) for arm in arms for task in TASKS}
    adjusted = holm({key: difference.p for key, difference in differences.items()})
    return {
        "differences": [{"arm": arm, "task": task, **dataclasses.asdict(difference), "holm": adjusted[arm, task],
                         "verdict": verdict_of(difference, adjusted[arm, task])}
                        for (arm, task), difference in differences.items()],
    }


def within_seed(out: Path, seed: int, labels: dict[str, np.ndarray]) -> dict:
    """The paired bootstrap over dev items of pcgrad − sum: chance of the items, not of the training."""
    with (np.load(trial_file(out, seed, "pcgrad").with_suffix(".npz")) as pcgrad,
          np.load(trial_file(out, seed, "sum").with_suffix(".npz")) as plain_sum):
        return {name: paired_bootstrap(task.metric, pcgrad[name], plain_sum[name], labels[name], RESAMPLES,
                                       seed)._asdict() for name, task in TASKS.items()}


# ------------------------------------------------------------------------------------------- in words


def about(results: dict) -> str:
    """What was trained and on what it was scored."""
    asked, seeds = results["asked"], results["seeds"]
    dev = ", ".join(f"{name} {count:,}" for name, count in results["dev"].items())
    return (f"{asked['arch']}, wrap, {asked['model']} on {asked['data'] or 'the embedded sample'}; {asked['steps']} "
            f"steps of 3 × {asked['batch_size']} examples, learning rate {asked['lr']:g}, of the heads "
            f"{asked['head_lr']:g}, {asked['warmup']:.0%} warm-up, no clipping (it would scale each arm's heads "
            f"otherwise); {len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}); dev items: {dev}.")


def markdown(results: dict) -> str:
    seeds, parts = results["seeds"], ["# Does gradient surgery help?", about(results)]
    if len(seeds) < ENOUGH_SEEDS:
        parts.append(f"**A trial run: {len(seeds)} seeds are too few to conclude from, whatever the verdicts say; "
                     f"take at least {ENOUGH_SEEDS}.**")
    parts.append("The comparison with `sum` at equal steps is the one planned to answer the question, corrected for "
                 "its arms × tasks. The others are beside it to explain it: each is corrected within itself, not with "
                 "the rest.")
    for moment in MOMENTS:
        parts += [f"## At {moment.replace('_', ' ')}", score_table(results, moment)]
        for control, family in results["comparisons"][moment].items():
            parts += [f"### Against {control}", difference_table(family["differences"])]
    parts += ["## Within a seed: other dev items, the same models",
              "Paired bootstrap over dev items of pcgrad − sum at equal steps. It takes the trained models as given, "
              "so it says nothing about another seed.", within_table(results["within_seed"]),
              "## Conflicts", conflict_table(results)]
    return "\n\n".join(parts) + "\n"


def _lines(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def score_table(results: dict, moment: str) -> str:
    rows = []
    for arm, by_task in results["scores"][moment].items():
        steps = [results["steps"][training_of(arm, task)][moment] for task in TASKS]
        cells = []
        for values in by_task.values():
            mean, _, high = mean_interval(values)
            cells.append(f"{mean:.3f}" + ("" if high is None else f" ± {high - mean:.3f}"))
        rows.append([arm, f"{steps[0]:,}", *cells])
    return _lines(["arm", "steps", *(f"{name} {task.metric_name}" for name, task in TASKS.items())], rows)


def difference_table(differences: list[dict]) -> str:
    return _lines(["arm", "task", "difference", "95 % interval", "p", "p, Holm", "verdict"], [
        [row["arm"], row["task"], f"{row['mean']:+.4f}",
         "none" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
         *("none" if row[key] is None else f"{row[key]:.3f}" for key in ("p", "holm")), row["verdict"]]
        for row in differences])


def within_table(within: dict) -> str:
    return _lines(["seed", *TASKS], [
        [seed, *("undefined" if row[name]["low"] is None else f"{row[name]['low']:+.3f} to {row[name]['high']:+.3f}"
                 for name in TASKS)] for seed, row in within.items()])


def conflict_table(results: dict) -> str:
    """Over the steps of all seeds; then between and within tasks at the probed moments of the first seed."""
    rates = _lines(["pair", "steps in conflict", "mean cosine"], [
        [pair, *(f"{np.mean([seed[key][pair] for seed in results['conflicts'].values()]):{form}}"
                 for key, form in (("conflict_rate", ".1%"), ("mean_cosine", "+.4f")))] for pair in pairs_of(TASKS)])
    rows = [[f"after {step} steps", key, f"{values['mean_cosine']:+.4f}",
             f"{values['conflict_rate']:.0%}" if kind == "pairs" else "",
             "" if values["low"] is None else f"{values['low']:+.3f} to {values['high']:+.3f}"]
            for step, probe in results["probes"].items() for kind in ("pairs", "same_task")
            for key, values in probe[kind].items()]
    floor = _lines(["moment", "pair, or one task twice", "mean cosine", "draws in conflict", "95 % interval"], rows)
    return (f"{rates}\n\nThe noise floor: the cosine of two batches of one task would be 1 without sampling noise. "
            f"What it lacks is noise, and the pairs' cosines stand beside it.\n\n{floor}")
