"""One arm of one seed: what it trains, step by step, and what its file in trials/ holds."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minbert.progress import Progress
from multitask.analysis.log import conflict_statistics, pairs_of, upper_triangle
from multitask.analysis.probe import conflict_probe, summarise
from multitask.data.examples import Dataset
from multitask.data.sampling import WRAP, RoundRobin
from multitask.model import MultitaskBert
from multitask.runs import run
from multitask.runs.settings import Settings
from multitask.system.device import pick_device, pick_precision
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import SCHEDULES, constant_weights, cosines

TRIALS = "trials"
SINGLE = "single"
MULTITASK_ARMS = ("pcgrad", "sum", "paper", "constant")
# trained for each seed, in this order: constant needs PCGrad's weights
TRAININGS = (*MULTITASK_ARMS, *(f"{SINGLE}-{name}" for name in TASKS))
MOMENTS = ("equal_steps", "equal_time")
PROBE_DRAWS = 8


@dataclass(frozen=True)
class Question:
    """The settings that all arms share, saved in asked.json.

    Args:
        steps: of every arm at `equal_steps`. At `equal_time` each has had the time of the slowest
            one.
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
        values = dataclasses.asdict(self)
        return Settings(gs=WRAP, seed=seed, max_steps=values.pop("steps"), **values)


def tasks_of(training: str) -> tuple[str, ...]:
    """single-sst → ("sst",); all tasks for the other arms."""
    if training.startswith(SINGLE):
        return (training.removeprefix(f"{SINGLE}-"),)
    return tuple(TASKS)


def training_of(arm: str, task: str) -> str:
    """The training that gives an arm's score on a task."""
    return f"{SINGLE}-{task}" if arm == SINGLE else arm


def trial_file(out: Path, seed: int, training: str) -> Path:
    return out / TRIALS / f"{seed}-{training}.json"


class Arm:
    """One arm of one seed, step by step."""

    def __init__(self, question: Question, training: str, seed: int, dataset: Dataset, tokens: dict,
                 weights: list[float] | None = None) -> None:
        """weights: one per task, for the arm `constant`."""
        settings = question.settings(seed)
        self.question, self.tokens, self.tasks = question, tokens, tasks_of(training)
        self.model: MultitaskBert = run.build_model(settings,
                                                    dataset).to(pick_device(settings.device))
        self.model.precision = pick_precision(settings.precision, self.model.device,
                                              self.model.encoder.config.hidden_size)

        # drawn for all tasks, even if one is trained: every arm of a seed sees the same batches
        sizes = {name: len(tokens[name]["train"]) for name in TASKS}
        self.sampler = RoundRobin(sizes, dict.fromkeys(TASKS, question.batch_size), WRAP, seed)

        surgery = constant_weights(weights) if training == "constant" else training
        self.trainer = SurgeryTrainer(self.model, surgery, settings.lr, seed=seed, tasks=self.tasks,
                                      head_lr=settings.head_lr)
        self.log: list[dict] = []
        torch.manual_seed(seed)  # for dropout
        self.sampler.start_epoch()

    def step(self) -> None:
        started = time.perf_counter()
        number, steps = len(self.log), self.question.steps
        if number and number % self.sampler.steps_per_epoch == 0:
            self.sampler.start_epoch()
        rows = self.sampler.next_step()
        batches = {name: self.tokens[name]["train"].batch(rows[name]) for name in self.tasks}

        self.model.train()
        scale = SCHEDULES["constant"](number, round(self.question.warmup * steps), steps)
        result = self.trainer.step(batches, scale)
        self.log.append({
            "seconds": time.perf_counter() - started,
            "losses": result.losses,
            "cosines": dict(zip(pairs_of(self.tasks), upper_triangle(cosines(result.gram)),
                                strict=True)),
            "weights": dict(zip(self.tasks, result.weights.tolist(), strict=True)),
        })

    def predictions(self) -> dict[str, np.ndarray]:
        """Task → decoded predictions on its dev set."""
        found = {}
        for name in self.tasks:
            logits = self.model.predict_logits(name, self.tokens[name]["dev"])
            found[name] = TASKS[name].decode(logits).numpy()
        return found


def train_arm(question: Question, training: str, seed: int, dataset: Dataset, tokens: dict,
              steps: dict[str, int], out: Path, probe: bool) -> tuple[dict, dict[str, np.ndarray]]:
    """Trains one arm to the last of its moments.

    Args:
        steps: moment → number of steps.
        probe: measure conflicts between and within tasks at three moments.

    Returns:
        The content of its file, and its dev predictions at equal steps.
    """
    started = time.perf_counter()
    weights = None
    if training == "constant":
        pcgrad = json.loads(trial_file(out, seed, "pcgrad").read_text(encoding="utf-8"))
        weights = list(pcgrad["conflicts"]["mean_weights"].values())
    arm = Arm(question, training, seed, dataset, tokens, weights)
    train_tokens = {name: tokens[name]["train"] for name in TASKS}
    probed = {0, question.steps // 2, question.steps} if probe else set()

    scores: dict[str, dict] = {}
    probes: dict[int, dict] = {}
    kept: dict[str, np.ndarray] = {}
    last = max(steps.values())
    with Progress(total=last, desc=f"{training}, seed {seed}", unit="step", leave=False) as bar:
        for number in range(last + 1):
            if number:
                arm.step()
                bar.update()
            if number in probed:
                found = conflict_probe(arm.model, train_tokens, question.batch_size, PROBE_DRAWS,
                                       seed)
                probes[number] = summarise(found)
            if number not in steps.values():
                continue

            predictions = arm.predictions()
            kept = kept or predictions  # equal steps come first
            for moment in MOMENTS:
                if steps[moment] == number:
                    scores[moment] = {name: _score(name, values, tokens)
                                      for name, values in predictions.items()}

    trial = {
        "seed": seed, "training": training, "scores": scores, "steps": steps,
        "conflicts": conflict_statistics(arm.log[:question.steps]) if len(arm.tasks) > 1 else {},
        "cosines": {pair: [round(step["cosines"][pair], 5) for step in arm.log]
                    for pair in pairs_of(arm.tasks)},
        "probes": probes,
        "step_seconds": statistics.median(step["seconds"] for step in arm.log),
        "seconds": time.perf_counter() - started,
    }
    return trial, kept


def _score(name: str, predictions: np.ndarray, tokens: dict) -> float:
    """An undefined Pearson correlation counts 0."""
    return TASKS[name].measure(predictions, tokens[name]["dev"].labels) or 0.0
