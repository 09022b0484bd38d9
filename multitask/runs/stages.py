"""The training loop of a stage: epochs, each evaluated and saved.

A stage starts from the best epoch of the stage before it, with a new optimizer, and leaves its
own best epoch behind.
"""

import math
import time
import warnings
from pathlib import Path

import torch

from minbert.files import rename_folder
from minbert.progress import Progress
from multitask.analysis.log import cosines_by_pair
from multitask.evaluation import describe, scores_of
from multitask.model import MODEL_FOLDER
from multitask.system import checkpoint
from multitask.system.distributed import checksum
from multitask.system.interruption import Interruption, defer_signals
from multitask.system.state import check_like, random_part, random_state, restore_random_state
from multitask.training.step import StepResult
from optim import SCHEDULES

from .plans import STAGES, Run
from .settings import STOP


class DivergedError(FloatingPointError):
    """The model itself is unusable. A resumed run would come to the same point."""


class Stage:
    """One stage of a run. The epoch with the best dev average is kept.

    Attributes:
        epoch: the epoch in progress, or the last one; from 1.
        evaluated: the number of epochs that are evaluated.
        steps: the number of steps made.
        seconds: training time of the current epoch.
        best: the "epoch" event of the best epoch.
        logits: task → its dev logits in the best epoch.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        torch.manual_seed(run.settings.seed)  # what a stage draws does not depend on earlier stages
        self.plan = STAGES[name].plan(run)
        self.steps_per_epoch = self.plan.sampler.steps_per_epoch
        self.total_steps = run.settings.epochs * self.steps_per_epoch
        if run.settings.max_steps is not None:
            self.total_steps = min(self.total_steps, run.settings.max_steps)

        self.epoch = self.steps = self.evaluated = 0
        self.seconds = 0.0
        self.best: dict | None = None
        self.logits: dict[str, torch.Tensor] = {}
        self.next_save = time.monotonic() + checkpoint.FIRST_SECONDS

    def fit(self) -> dict:
        """Trains to the end from the current step. An interruption is saved before it is raised.

        Returns:
            {"dev": scores, "best_epoch": …, "steps": …, "batch_sizes": {task: examples per step}}
        """
        try:
            while self.evaluated < self.epoch or self.steps < self.total_steps:
                self._train_epoch()
                self._evaluate()
        except Interruption:
            if self.run.ranks.size == 1:  # several processes are not interrupted at the same step
                self._save()
            raise
        return {"dev": self.best["dev"], "best_epoch": self.best["epoch"], "steps": self.steps,
                "batch_sizes": self.plan.sampler.batch_sizes}

    # Training

    def _train_epoch(self) -> None:
        """Trains a new epoch, or the rest of the one in progress."""
        if self.evaluated == self.epoch:
            with defer_signals():
                self.epoch, self.seconds = self.epoch + 1, 0.0
                self.plan.sampler.start_epoch()

        first = (self.epoch - 1) * self.steps_per_epoch
        end = min(self.epoch * self.steps_per_epoch, self.total_steps)
        started = time.perf_counter()
        self.plan.prepare()
        self.seconds += time.perf_counter() - started

        self.plan.trainer.epoch = self.epoch
        self.run.model.train()
        epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        smooth: dict[str, float] = {}
        with Progress(total=end - first, initial=self.steps - first, unit="step",
                      desc=f"{self.name} epoch {self.epoch}/{epochs}",
                      disable=not self.run.ranks.writes) as bar:
            while self.steps < end:
                with defer_signals():
                    losses, examples_per_second = self._train_step()

                for name, loss in losses.items():
                    smooth[name] = 0.95 * smooth.get(name, loss) + 0.05 * loss
                shown = " ".join(f"{name} {loss:.3f}" for name, loss in smooth.items())
                bar.set_postfix_str(f"{shown}, {examples_per_second:.0f} ex/s", refresh=False)
                bar.update()

                if self.steps < end and self._is_due():
                    self._save()

    def _is_due(self) -> bool:
        """Whether to save a checkpoint within the epoch; it changes nothing that is computed."""
        every, ranks = self.run.settings.checkpoint_every, self.run.ranks
        if every is not None:
            return self.steps % every == 0

        if ranks.size > 1 and self.steps % 10:  # asking the others takes time
            return False
        return ranks.broadcast_from_writer(lambda: time.monotonic() >= self.next_save)

    def _train_step(self) -> tuple[dict[str, float], float]:
        """One logged step. Returns the tasks' losses, {} if skipped, and examples per second."""
        settings, started = self.run.settings, time.perf_counter()
        indices = self.plan.sampler.next_step(self.steps / self.total_steps)
        batches = {name: self.plan.fetch(name, rows) for name, rows in indices.items()}
        examples = sum(len(rows) for rows in indices.values())
        warmup_steps = round(settings.warmup * self.total_steps)
        lr_scale = SCHEDULES[settings.schedule](self.steps, warmup_steps, self.total_steps)

        result = None
        try:
            result = self.plan.trainer.step(batches, lr_scale)
        except FloatingPointError as error:
            self._on_nonfinite(error, indices)

        self.steps += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if result is None:
            return {}, examples / seconds
        self._log_step(result, seconds, examples)
        return result.losses, examples / seconds

    def _on_nonfinite(self, error: FloatingPointError, indices: dict[str, list[int]]) -> None:
        """Stops, or logs the step as skipped, as --on-nonfinite says; nothing has been updated."""
        ids = {}
        for name, rows in indices.items():
            ids[name] = [self.run.dataset[name]["train"][row].id for row in rows]

        step = self.steps + 1
        if self.run.settings.on_nonfinite == STOP:
            message = f"{self.name}, step {step}: {error}; its examples are {ids}"
            raise FloatingPointError(message) from None
        self.run.log.write("skipped", stage=self.name, epoch=self.epoch, step=step,
                           reason=str(error), examples=ids)

    def _log_step(self, result: StepResult, seconds: float, examples: int) -> None:
        self.run.log.write(
            "step", stage=self.name, epoch=self.epoch, step=self.steps,
            lr=self.plan.trainer.optimizer.param_groups[0]["lr"], losses=_rounded(result.losses),
            **_conflicts(result), examples=examples, seconds=round(seconds, 6))

    # Evaluation and the best epoch

    def _evaluate(self) -> None:
        run, tasks = self.run, {name: self.run.model.tasks[name] for name in self.plan.scored}
        logits = {name: self.plan.predict(name) for name in tasks}
        for name, outputs in logits.items():
            if not torch.isfinite(outputs).all():
                raise DivergedError(f"{self.name}, epoch {self.epoch}: outputs of {name} on the "
                                    "dev set are not finite")
        predictions = {name: task.decode(logits[name]).numpy() for name, task in tasks.items()}
        labels = {name: run.tokens[name]["dev"].labels for name in tasks}
        dev = scores_of(tasks, predictions, labels)
        event = {"stage": self.name, "epoch": self.epoch, "step": self.steps, "dev": dev}

        with defer_signals():
            run.log.write("epoch", **event, seconds=round(self.seconds, 3))
            self.evaluated = self.epoch
            better = self.best is None or dev["average"] > self.best["dev"]["average"]
            remark = "  (best so far)" if better else ""
            run.say(f"  epoch {self.epoch}: dev {describe(dev)}{remark}")
            if better:
                self.best, self.logits = event, logits

            self._save()
            if better:
                self._publish()
            run.ranks.wait_for_writer()  # the next stage reads what was published

    def _publish(self) -> None:
        """Writes the best epoch's model, after the checkpoint that knows of this epoch.

        A run killed in between writes it again from that checkpoint. The best model until now moves
        to the checkpoint before, in case the run has to return to that one.
        """
        if not self.run.ranks.writes:
            return

        aside = None
        older = checkpoint.numbered(self.run.folder)[:-1]
        if older and not (older[-1] / MODEL_FOLDER).exists():
            aside = older[-1] / MODEL_FOLDER
        self.run.model.save_pretrained(self.run.model_folder(self.name), aside=aside)

    # Checkpoints

    def _save(self) -> None:
        """Writes a checkpoint between two steps; all processes come here together.

        Raises FloatingPointError if weights are not finite or differ between processes. The last
        good checkpoint then stays the last.
        """
        run, plan, started = self.run, self.plan, time.monotonic()
        for name, value in run.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergedError(f"{self.name}, step {self.steps}: the weights {name} are "
                                    "no longer finite")

        randoms = run.ranks.gather(random_state())
        if run.ranks.size > 1 and len(set(run.ranks.gather(checksum(run.model.parameters())))) > 1:
            raise FloatingPointError(
                f"step {self.steps}: the processes' weights are no longer identical; do all "
                "machines have the same processors, devices and versions of torch?")
        if not run.ranks.writes:
            return

        parts = {"model": run.model.state_dict(), "trainer": plan.trainer.state_dict(),
                 "sampler": plan.sampler.state_dict(), "logits": self.logits}
        for rank, state in enumerate(randoms):
            parts[random_part(rank)] = state
        tensors = {}
        for part, state in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in state.items()}

        values = {"stage": self.name, "epoch": self.epoch, "steps": self.steps,
                  "evaluated": self.evaluated, "seconds": self.seconds, "best": self.best,
                  "finished": run.finished, "log": run.log.position, "data": run.fingerprint,
                  "threads": torch.get_num_threads(), "processes": run.ranks.size}
        with defer_signals():
            checkpoint.save(run.folder, tensors, values, run.model.encoder.config,
                            run.model.tokenizer)

        finished = time.monotonic()
        self.next_save = finished + checkpoint.PATIENCE * (finished - started)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Returns to the state of a checkpoint; what the log holds beyond it is removed.

        Raises:
            ValueError: the checkpoint does not fit this run, or was made with other data.
        """
        if saved.value("data") != self.run.fingerprint:
            raise ValueError(f"{saved.folder} was made with other training examples: the data have "
                             "changed since, or an earlier minbert drew the dev examples")
        if saved.value("threads") != torch.get_num_threads():
            warnings.warn(
                f"{saved.folder} was made with {saved.value('threads')} threads, now there are "
                f"{torch.get_num_threads()}: sums are taken in another order, so last digits will "
                "differ", stacklevel=2)

        self.epoch, self.steps = saved.value("epoch"), saved.value("steps")
        self.evaluated, self.seconds = saved.value("evaluated"), saved.value("seconds")
        self.best = saved.value("best")
        path = saved.folder / checkpoint.TENSORS_FILE
        try:
            self._load_tensors(saved)
        except ValueError as error:
            raise ValueError(f"{path} does not fit this run: {error}") from None

        self.run.log.rewind(saved.value("log"))
        self._recover_best(saved.folder)

    def _load_tensors(self, saved: checkpoint.Checkpoint) -> None:
        """Raises ValueError for tensors that are not of this stage."""
        run, plan, weights = self.run, self.plan, saved.part("model")
        check_like(weights, run.model.state_dict())
        run.model.load_state_dict({name: weights[name] for name in run.model.state_dict()})
        plan.trainer.load_state_dict(saved.part("trainer"))
        plan.sampler.load_state_dict(saved.part("sampler"))

        self.logits = {name: value.clone() for name, value in saved.part("logits").items()}
        restore_random_state(saved.part(random_part(run.ranks.rank)))

    def _recover_best(self, folder: Path) -> None:
        """Publishes the model of the best epoch known here, wherever the run was killed."""
        if self.best is None:
            return

        kept, target = folder / MODEL_FOLDER, self.run.model_folder(self.name)
        if (self.best["step"], self.best["epoch"]) == (self.steps, self.evaluated):
            self._publish()
        elif self.run.ranks.writes and kept.is_dir():
            # the checkpoint after this one had a better epoch, and is lost
            rename_folder(kept, target)


def _conflicts(result: StepResult) -> dict:
    """How the tasks' gradients met, for the log; empty for a single task or a frozen encoder."""
    tasks = tuple(result.losses)
    if result.gram is None or len(tasks) < 2:
        return {}

    by_pair = cosines_by_pair(tasks, result.gram)
    norms = result.gram.diagonal().sqrt().tolist()
    return {
        "cosines": _rounded(by_pair),
        "conflicts": [pair for pair, value in by_pair.items() if value < 0],
        "gradient_norms": _rounded(dict(zip(tasks, norms, strict=True))),
        "weights": _rounded(dict(zip(tasks, result.weights.tolist(), strict=True))),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    """Seven digits: the precision of float32."""
    return {name: float(f"{value:.7g}") for name, value in values.items()}
