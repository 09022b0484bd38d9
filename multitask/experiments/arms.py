"""The arms: their table, and one arm of one seed, step by step, with its file in trials/."""

import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minbert.files import sha256_of
from minbert.progress import Progress
from multitask.analysis.log import conflict_statistics, cosines_by_pair
from multitask.analysis.probe import conflict_probe, summarise
from multitask.data.examples import Dataset
from multitask.data.sampling import ANNEAL, WRAP, RoundRobin
from multitask.runs.inputs import build_model
from multitask.runs.settings import HINT, Settings, try_method
from multitask.system.command import IMPORTED
from multitask.system.device import pick_device, pick_precision
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import SCHEDULES, SURGERY, constant_weights

TRIALS = "trials"
PCGRAD, PLAIN_SUM = ALWAYS = ("pcgrad", "sum")  # PCGrad's run has the conflicts and mean weights
CONSTANT, BEST, SINGLE = "constant", "best-constant", "single"
# every other arm is a surgery method, named as for --surgery
CONTROLS = {
    PLAIN_SUM: "the plain sum of the tasks' gradients",
    CONSTANT: "constant weights: PCGrad's of that seed, averaged over its steps",
    BEST: "constant weights: the best of a grid, chosen on other seeds",
    "rgw": "random weights of the gradients at every step",
    "rlw": "random weights of the losses at every step; for the encoder the same as rgw",
    SINGLE: "one model per task, trained alone",
    ANNEAL: "no gradients are combined: one task per step, drawn as with --gs anneal, so three "
            "steps where the others take one",
}
DEFAULT_ARMS = ("paper", CONSTANT, SINGLE)
SINGLES = {f"{SINGLE}-{name}": (name,) for name in TASKS}  # the trainings of `single`: their tasks
MOMENTS = ("equal_steps", "equal_time")
PROBE_DRAWS = 8
# The weights that best-constant chooses from; only their ratios matter to AdamW, and the paper's
# tasks have gradients whose lengths differ tenfold. The seeds are never judged, so the choice does
# not flatter the arm.
GRID = tuple(f"grid-{'+'.join(map(str, weights))}"
             for weights in itertools.product((1, 10), repeat=len(TASKS)) if 1 in weights)
GRID_SEEDS = (711, 712)


@dataclass(frozen=True)
class Question:
    """The settings that all arms share, saved in asked.json.

    Args:
        steps: of every arm at `equal_steps`. At `equal_time` each has had as much time as the
            single-task models together need for them, or one multi-task model if that is slower.
    """

    model: str
    data: str | None
    steps: int = 160
    arch: str = "concatB"
    lr: float = 1e-4
    head_lr: float = 3e-3
    warmup: float = 0.1
    batch_size: int = 8
    eval_limit: int | None = 2000
    device: str = "auto"
    precision: str = "auto"

    def settings(self, seed: int) -> Settings:
        values = dataclasses.asdict(self)
        return Settings(gs=WRAP, seed=seed, max_steps=values.pop("steps"), **values)


def arms_from(text: str) -> tuple[str, ...]:
    """What --arms names; `all` is every surgery method and control.

    >>> arms_from("mgda,gradnorm:alpha=1,lr=0.1,single")
    ('mgda', 'gradnorm:alpha=1,lr=0.1', 'single')
    """
    arms: list[str] = []
    for arm in re.split(r",(?![^:,]*=)", text):  # a comma before key=value is of a method's options
        arms += (*SURGERY, *CONTROLS) if arm == "all" else [arm.strip()]
    return tuple(dict.fromkeys(arms))


def is_control(arm: str) -> bool:
    return arm.partition(":")[0] in CONTROLS


def check_arm(arm: str) -> None:
    """Tries a method once. Raises ValueError for one that does not exist or fails."""
    if arm in CONTROLS:
        return
    try:
        try_method(arm, len(TASKS))
    except ValueError as error:
        hint = "" if arm.partition(":")[0] in SURGERY else HINT
        raise ValueError(f"arm {arm}: {error}; controls: {', '.join(CONTROLS)}{hint}") from None


def trainings_of(arms: Sequence[str]) -> tuple[str, ...]:
    """What is trained for each seed, in this order: `constant` needs PCGrad's weights."""
    return tuple(training for arm in arms for training in (SINGLES if arm == SINGLE else [arm]))


def steps_of(question: Question, training: str) -> int:
    """How many steps make as many batches as the question's steps of all tasks."""
    return question.steps * (len(TASKS) if training == ANNEAL else 1)


def training_of(arm: str, task: str) -> str:
    """The training that gives an arm's score on a task."""
    return f"{SINGLE}-{task}" if arm == SINGLE else arm


def code_of(training: str) -> str | None:
    """SHA-256 of the --import file that defines a training's method; None for minbert's own."""
    method = SURGERY.get(training.partition(":")[0])
    module = getattr(getattr(method, "func", method), "__module__", "")  # func: of a partial
    return sha256_of(Path(sys.modules[module].__file__)) if module.startswith(IMPORTED) else None


def trial_file(out: Path, seed: int, training: str) -> Path:
    # of options: cagrad:c=0.4; one _ per character, so that lr=.1 and lr=1 have two files
    name = re.sub(r"[^\w+-]", "_", training, flags=re.ASCII)
    return out / TRIALS / f"{seed}-{name}.json"


class Arm:
    """One arm of one seed, step by step."""

    def __init__(self, question: Question, training: str, seed: int, dataset: Dataset, tokens: dict,
                 weights: Sequence[float] | None = None) -> None:
        """weights: one per task, constant; None leaves them to the method `training`."""
        settings = question.settings(seed)
        self.question, self.tokens = question, tokens
        self.tasks = SINGLES.get(training, tuple(TASKS))
        self.steps, is_annealed = steps_of(question, training), training == ANNEAL
        self.model = build_model(settings, dataset).to(pick_device(settings.device))
        self.model.precision = pick_precision(settings.precision, self.model.device,
                                              self.model.encoder.config.hidden_size)

        # drawn for all tasks, even if one is trained: every arm of a seed sees the same batches
        sizes = {name: len(tokens[name]["train"]) for name in TASKS}
        self.sampler = RoundRobin(sizes, dict.fromkeys(TASKS, question.batch_size),
                                  ANNEAL if is_annealed else WRAP, seed)

        surgery = training if weights is None else constant_weights(weights)
        self.trainer = SurgeryTrainer(self.model, surgery, settings.lr, seed=seed, tasks=self.tasks,
                                      head_lr=settings.head_lr, at_once=1 if is_annealed else None)
        self.log: list[dict] = []
        torch.manual_seed(seed)  # for dropout
        self.sampler.start_epoch()

    def step(self) -> None:
        started = time.perf_counter()
        number = len(self.log)
        if number and number % self.sampler.steps_per_epoch == 0:
            self.sampler.start_epoch()
            self.trainer.epoch += 1
        rows = self.sampler.next_step(min(1.0, number / self.steps))
        batches = {name: self.tokens[name]["train"].batch(rows[name]) for name in self.tasks
                   if name in rows}

        self.model.train()
        scale = SCHEDULES["constant"](number, round(self.question.warmup * self.steps), self.steps)
        result = self.trainer.step(batches, scale)
        self.log.append({
            "seconds": time.perf_counter() - started,
            "cosines": cosines_by_pair(batches, result.gram),
            "weights": dict(zip(batches, result.weights.tolist(), strict=True)),
        })

    def predictions(self) -> dict[str, np.ndarray]:
        """Task → decoded predictions on its dev set."""
        found = {}
        for name in self.tasks:
            logits = self.model.predict_logits(name, self.tokens[name]["dev"])
            found[name] = TASKS[name].decode(logits).numpy()
        return found


def train_arm(question: Question, training: str, seed: int, dataset: Dataset, tokens: dict,
              steps: dict[str, int], weights: Sequence[float] | None,
              probe: bool) -> tuple[dict, dict[str, np.ndarray]]:
    """Trains one arm to the last of its moments.

    Args:
        steps: moment → number of steps.
        weights: see Arm.
        probe: measure conflicts between and within tasks at three moments.

    Returns:
        The content of its file, and its dev predictions at equal steps.
    """
    started = time.perf_counter()
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
            if number == steps["equal_steps"]:
                kept = predictions
            for moment in MOMENTS:
                if steps[moment] == number:  # an undefined correlation counts 0
                    scores[moment] = {
                        name: TASKS[name].score(values, tokens[name]["dev"].labels) or 0.0
                        for name, values in predictions.items()}

    pairs = list(arm.log[0]["cosines"])  # none of a single task
    trial = {
        "seed": seed, "training": training, "scores": scores, "steps": steps,
        "conflicts": conflict_statistics(arm.log[:question.steps]) if pairs else {},
        "cosines": {pair: [round(step["cosines"][pair], 5) for step in arm.log] for pair in pairs},
        "probes": probes,
        "seconds": time.perf_counter() - started,
    }
    return trial, kept
