"""The stages of a run; so far gradient-surgery fine-tuning, GS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from optim import SCHEDULES, cosines

from . import checkpoint
from .analysis import PAIRS, upper_triangle
from .batching import TokenizedExamples
from .data import Dataset, fingerprint
from .evaluation import PREDICTIONS_FOLDER, predict, scores_of, write_predictions
from .model import MODEL_FOLDER, MultitaskBert
from .runlog import RunLog
from .sampling import BATCH_DIFFERENT, RoundRobin, batch_different_sizes
from .settings import Settings
from .tasks import TASKS
from .training import StepResult, SurgeryTrainer


@dataclass
class Run:
    """What the stages of one run share. tokens[task][split]: the data, tokenized for this architecture."""

    folder: Path
    settings: Settings
    model: MultitaskBert
    dataset: Dataset
    log: RunLog
    say: Callable[[str], None] = print
    tokens: dict[str, dict[str, TokenizedExamples]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = {name: {split: self.model.tokenize(examples) for split, examples in splits.items()}
                       for name, splits in self.dataset.items()}

    def predict_dev(self) -> dict[str, np.ndarray]:
        return {name: predict(self.model, task, self.tokens[name]["dev"]) for name, task in TASKS.items()}

    def score(self, predictions: dict[str, np.ndarray]) -> dict:
        return scores_of(predictions, {name: self.tokens[name]["dev"].labels for name in TASKS})


class GradientSurgeryStage:
    """Fine-tuning on all tasks at once; the epoch with the best dev average is kept in RUN/model."""

    name = "gs"

    def __init__(self, run: Run) -> None:
        self.run, settings = run, run.settings
        lengths = {name: len(run.tokens[name]["train"]) for name in TASKS}
        if settings.gs == BATCH_DIFFERENT:
            sizes = settings.batch_sizes or batch_different_sizes(lengths)
        else:
            sizes = dict.fromkeys(TASKS, settings.batch_size)
        self.sampler = RoundRobin(lengths, sizes, settings.gs, settings.seed)
        self.trainer = SurgeryTrainer(run.model, settings.surgery, settings.lr, settings.weight_decay,
                                      settings.clip, settings.seed)
        self.total_steps = min(settings.epochs * self.sampler.steps_per_epoch, settings.max_steps or math.inf)
        self.epoch = self.steps = 0
        self.best: dict | None = None  # the "epoch" event of the best epoch

    def fit(self) -> dict:
        """Trains to the end from wherever it stands; returns the best epoch's event."""
        while self.steps < self.total_steps:
            self._train_epoch()
            self._evaluate()
            self._save()
        return self.best

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint, whose log position is where the log goes on too.

        Raises ValueError if it is damaged, or if the data are not those it was made with.
        """
        try:
            if saved.values["data"] != fingerprint(self.run.dataset):
                raise ValueError(f"{saved.folder} was made with other training examples: the data have changed since")
            self.trainer.load_state_dict(saved.part("trainer"))
            self.sampler.load_state_dict(saved.part("sampler"))
            checkpoint.restore_random_state(saved.part("random"))
            self.epoch, self.steps, self.best = (saved.values[key] for key in ("epoch", "steps", "best"))
            self.run.log.rewind(saved.values["log"])
        except KeyError as error:
            raise ValueError(f"{saved.folder} is damaged: it lacks {error}") from None

    def _train_epoch(self) -> None:
        self.epoch += 1
        self.sampler.start_epoch()
        self.run.model.train()
        epochs = math.ceil(self.total_steps / self.sampler.steps_per_epoch)
        steps = min(self.sampler.steps_per_epoch, self.total_steps - self.steps)
        smooth: dict[str, float] = {}
        with tqdm(total=steps, desc=f"epoch {self.epoch}/{epochs}", unit="step") as bar:
            for _ in range(steps):
                losses, examples_per_second = self._train_step()
                smooth = {name: 0.95 * smooth.get(name, loss) + 0.05 * loss for name, loss in losses.items()}
                bar.set_postfix_str(" ".join(f"{name} {loss:.3f}" for name, loss in smooth.items())
                                    + f", {examples_per_second:.0f} ex/s", refresh=False)
                bar.update()

    def _train_step(self) -> tuple[dict[str, float], float]:
        """One step, logged: the tasks' losses, and examples a second."""
        settings, started = self.run.settings, time.perf_counter()
        indices = self.sampler.next_step()
        batches = {name: self.run.tokens[name]["train"].batch(rows) for name, rows in indices.items()}
        lr_scale = SCHEDULES[settings.schedule](self.steps, round(settings.warmup * self.total_steps),
                                                self.total_steps)
        try:
            result = self.trainer.step(batches, lr_scale)
        except FloatingPointError as error:
            ids = {name: [self.run.dataset[name]["train"][row].id for row in rows] for name, rows in indices.items()}
            raise FloatingPointError(f"step {self.steps + 1}: {error}; its examples are {ids}") from None
        self.steps += 1
        seconds = time.perf_counter() - started
        examples = sum(len(rows) for rows in indices.values())
        self._log_step(result, seconds, examples, lr_scale)
        return result.losses, examples / seconds

    def _log_step(self, result: StepResult, seconds: float, examples: int, lr_scale: float) -> None:
        names = list(TASKS)
        by_pair = dict(zip(PAIRS, upper_triangle(cosines(result.gram)), strict=True))
        self.run.log.write(
            "step", stage=self.name, epoch=self.epoch, step=self.steps, lr=self.run.settings.lr * lr_scale,
            losses=_rounded(result.losses), cosines=_rounded(by_pair),
            conflicts=[pair for pair, value in by_pair.items() if value < 0],
            gradient_norms=_rounded(dict(zip(names, result.gram.diagonal().sqrt().tolist(), strict=True))),
            weights=_rounded(dict(zip(names, result.weights.tolist(), strict=True))),
            examples=examples, seconds=round(seconds, 6))

    def _evaluate(self) -> None:
        run = self.run
        predictions = run.predict_dev()
        dev = run.score(predictions)
        event = {"stage": self.name, "epoch": self.epoch, "step": self.steps, "dev": dev}
        run.log.write("epoch", **event)
        better = self.best is None or dev["average"] > self.best["dev"]["average"]
        run.say(f"  epoch {self.epoch}: dev {describe(dev)}{'  (best so far)' if better else ''}")
        if better:
            self.best = event
            run.model.save_pretrained(run.folder / MODEL_FOLDER)
            for name, task in TASKS.items():
                write_predictions(run.folder / PREDICTIONS_FOLDER, task, "dev", run.dataset[name]["dev"],
                                  predictions[name])

    def _save(self) -> None:
        tensors = {f"trainer.{name}": value for name, value in self.trainer.state_dict().items()}
        tensors |= {f"sampler.{name}": value for name, value in self.sampler.state_dict().items()}
        tensors |= {f"random.{name}": value for name, value in checkpoint.random_state().items()}
        values = {"stage": self.name, "epoch": self.epoch, "steps": self.steps, "best": self.best,
                  "log": self.run.log.position, "data": fingerprint(self.run.dataset)}
        checkpoint.save(self.run.folder, self.steps, self.run.model, tensors, values)


def describe(scores: dict) -> str:
    """sst .500  para .800  sts .700  average .667"""
    parts = [f"{name} {_score(scores[name][task.metric_name])}" for name, task in TASKS.items()]
    return "  ".join([*parts, f"average {_score(scores['average'])}"])


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    """Seven digits: what float32 holds."""
    return {name: float(f"{value:.7g}") for name, value in values.items()}
