"""The stages of a run, in their order: NLI pretraining, gradient surgery, final layers (the paper, section 4.3).

Each stage starts from the best epoch of the one before with a fresh optimizer, trains epoch after epoch, is evaluated
and saved after each, and leaves its own best epoch behind. STAGES says what they differ in.
"""

from __future__ import annotations

import functools
import math
import os
import reprlib
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from optim import SCHEDULES, cosines

from multitask.system import checkpoint
from multitask.data.batching import TokenizedExamples
from multitask.data.course import Dataset, fingerprint
from multitask.system.distributed import ALONE, Ranks, checksum
from multitask.evaluation import PREDICTIONS_FOLDER, scores_of, write_predictions
from multitask.training.final_layers import CachedEmbeddings, HeadTrainer
from multitask.system.interruption import Interruption, whole
from multitask.analysis.log import pairs_of, upper_triangle
from multitask.model import MODEL_FOLDER, MultitaskBert
from multitask.system.runlog import RunLog
from multitask.data.sampling import BATCH_DIFFERENT, ONCE, RoundRobin, batch_different_sizes
from .settings import STOP, Settings
from multitask.system.state import check_like, random_part, random_state, restore_random_state
from multitask.tasks import NLI, TASKS
from multitask.training.step import StepResult, SurgeryTrainer

STAGES_FOLDER = "stages"
Tokens = dict[str, dict[str, TokenizedExamples]]  # task → split → examples


@dataclass
class Run:
    """What the stages of one run share. tokens[task][split]: the data, tokenized for this architecture.

    stage: the one that is under way. finished: stage → its result, once it has ended (`Stage.fit`). logits: the dev
    logits of the last stage's best epoch, as far as this process has seen it. ranks: the processes that train it.
    """

    folder: Path
    settings: Settings
    model: MultitaskBert
    dataset: Dataset
    log: RunLog
    say: Callable[[str], None] = print
    ranks: Ranks = ALONE
    tokens: Tokens = field(default_factory=dict)
    stage: Stage | None = None
    finished: dict[str, dict] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = self.tokens or {name: {split: self.model.tokenize(examples) for split, examples in splits.items()}
                       for name, splits in self.dataset.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the data: see data.fingerprint."""
        return fingerprint(self.dataset)

    def model_folder(self, stage: str) -> Path:
        """Where a stage's best epoch is kept: RUN/model for the last one, RUN/stages/NAME for those before it."""
        return self.folder / (MODEL_FOLDER if stage == self.settings.stages[-1] else f"{STAGES_FOLDER}/{stage}")


@dataclass(frozen=True)
class Plan:
    """What a stage is made of.

    tasks: those it trains. scored: those it is scored on. sampler: which examples make up a step. trainer: takes
    batches, makes a step. fetch: (task, indices) → batch. predict: task → logits of its dev set, (n, outputs).
    prepare: what is to be done ahead of an epoch of so many steps, once its examples are drawn. embeddings: the frozen
    encoder's outputs, task → of its training set.
    """

    tasks: Sequence[str]
    scored: Sequence[str]
    sampler: RoundRobin
    trainer: SurgeryTrainer | HeadTrainer
    fetch: Callable[[str, Sequence[int]], object]
    predict: Callable[[str], torch.Tensor]
    prepare: Callable[[int], None] = lambda steps: None
    embeddings: Mapping[str, CachedEmbeddings] = field(default_factory=dict)


def plan_nli(run: Run) -> Plan:
    """Additional pretraining on MultiNLI: a three-way head of the architecture's own pair encoding and depth."""
    if NLI.name not in run.model.tasks:
        run.model.add_task(NLI)
    return _train_encoder(run, [NLI.name], {NLI.name: (run.settings.batch_size or 16) * run.ranks.size}, ONCE)


def plan_surgery(run: Run) -> Plan:
    """Gradient-surgery fine-tuning on all tasks at once."""
    settings = run.settings
    if settings.gs == BATCH_DIFFERENT:
        lengths = {name: len(run.tokens[name]["train"]) for name in TASKS}
        sizes = settings.batch_sizes or batch_different_sizes(lengths)
    else:
        sizes = dict.fromkeys(TASKS, (settings.batch_size or 16) * run.ranks.size)
    return _train_encoder(run, list(TASKS), sizes, settings.gs)


def _train_encoder(run: Run, tasks: list[str], sizes: Mapping[str, int], scheme: str) -> Plan:
    """sizes: task → examples a step, all processes' together. Each computes its share of them, in pieces."""
    settings, ranks = run.settings, run.ranks
    ranks.seed_apart(settings.seed)
    return Plan(
        tasks=tasks, scored=tasks,
        sampler=RoundRobin({name: len(run.tokens[name]["train"]) for name in tasks}, sizes, scheme, settings.seed),
        trainer=SurgeryTrainer(run.model, settings.surgery, settings.lr, settings.weight_decay, settings.clip,
                               settings.seed, tasks, settings.head_lr, ranks),
        fetch=lambda name, rows: run.tokens[name]["train"].micro_batches(ranks.share(rows), settings.accumulate, len(rows)),
        predict=lambda name: run.model.predict_logits(name, run.tokens[name]["dev"], ranks))


def plan_final_layers(run: Run) -> Plan:
    """Final-layer fine-tuning: every head on the frozen encoder's outputs."""
    return _train_heads(run, list(TASKS))


def plan_baseline(run: Run) -> Plan:
    """The paper's baseline: the frozen pretrained encoder and a head trained on SST; the others stay untrained."""
    return _train_heads(run, ["sst"])


def _train_heads(run: Run, tasks: list[str]) -> Plan:
    """Processes share the encoding. The heads' steps cost less than talking about them: each process makes them all,
    on the same numbers, dropout's too."""
    settings = run.settings
    train = {name: CachedEmbeddings(run.model, run.tokens[name]["train"], f"{name} train", run.ranks) for name in tasks}
    dev = {name: CachedEmbeddings(run.model, run.tokens[name]["dev"], f"{name} dev", run.ranks) for name in TASKS}

    @torch.no_grad()
    def predict(name: str) -> torch.Tensor:
        run.model.eval()
        return run.model.heads[name](dev[name].batch(range(len(run.tokens[name]["dev"]))).embeddings).cpu()

    size = (settings.batch_size or 8) * run.ranks.size
    sampler = RoundRobin({name: len(run.tokens[name]["train"]) for name in tasks}, dict.fromkeys(tasks, size), ONCE,
                         settings.seed)

    def prepare(steps: int) -> None:
        for name in tasks:
            train[name].compute(sampler.orders[name][:steps * size])

    return Plan(
        tasks=tasks, scored=list(TASKS), sampler=sampler,
        trainer=HeadTrainer(run.model, tasks, settings.lr if settings.head_lr is None else settings.head_lr,
                            settings.weight_decay, settings.clip),
        fetch=lambda name, rows: train[name].batch(rows), predict=predict, prepare=prepare, embeddings=train)


@dataclass(frozen=True)
class Kind:
    title: str
    plan: Callable[[Run], Plan]


STAGES = {
    "nli": Kind("additional pretraining on MultiNLI", plan_nli),
    "gs": Kind("gradient-surgery fine-tuning", plan_surgery),
    "fl": Kind("final-layer fine-tuning, the encoder frozen", plan_final_layers),
    "baseline": Kind("the baseline: a head for SST on the frozen encoder", plan_baseline),
}


class Stage:
    """One stage of a run: epochs, each evaluated and saved; the one with the best dev average is kept.

    epoch: the one under way, or the last; evaluated: how many are done with; seconds: of training, of that epoch.
    best: the "epoch" event of the best epoch; logits: task → its dev logits there.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        torch.manual_seed(run.settings.seed)  # what a stage draws does not depend on the stages before it
        self.plan = STAGES[name].plan(run)
        self.steps_per_epoch = self.plan.sampler.steps_per_epoch
        self.total_steps = min(run.settings.epochs * self.steps_per_epoch, run.settings.max_steps or math.inf)
        self.epoch = self.steps = self.evaluated = 0
        self.seconds = 0.0
        self.best: dict | None = None
        self.logits: dict[str, torch.Tensor] = {}
        self.next_save = time.monotonic() + checkpoint.FIRST_SECONDS

    def fit(self) -> dict:
        """Trains to the end from wherever it stands; returns {"dev", "best_epoch", "steps"}. An interruption is saved
        before it is passed on."""
        try:
            while self.evaluated < self.epoch or self.steps < self.total_steps:
                self._train_epoch()
                self._evaluate()
        except Interruption:
            if self.run.ranks.size == 1:  # several are not interrupted at the same step
                self._save()
            raise
        return {"dev": self.best["dev"], "best_epoch": self.best["epoch"], "steps": self.steps}

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint, whose log position is where the log goes on too.

        Raises ValueError if it is damaged, or if the data are not those it was made with.
        """
        if saved.value("data") != self.run.fingerprint:
            raise ValueError(f"{saved.folder} was made with other training examples: the data have changed since")
        if saved.value("threads") != torch.get_num_threads():
            warnings.warn(f"{saved.folder} was made with {saved.value('threads')} threads, now there are "
                          f"{torch.get_num_threads()}: sums come in another order, so last digits will differ",
                          stacklevel=2)
        self.epoch, self.steps, self.best = map(saved.value, ("epoch", "steps", "best"))
        self.evaluated, self.seconds = map(saved.value, ("evaluated", "seconds"))
        self._check_place(saved.folder / checkpoint.VALUES_FILE)
        try:
            self._load_tensors(saved)
        except KeyError as error:
            raise ValueError(f"{saved.folder / checkpoint.TENSORS_FILE} is damaged: it lacks {error}") from None
        except ValueError as error:
            raise ValueError(f"{saved.folder / checkpoint.TENSORS_FILE} does not fit this run: {error}") from None
        self.run.log.rewind(saved.value("log"))
        self._recover_best(saved.folder)

    def _check_place(self, path: Path) -> None:
        """Raises ValueError for a place in the stage where no checkpoint is made."""
        place = f"epoch {self.epoch}, {self.evaluated} evaluated, step {self.steps}"
        first, last = (min(epoch * self.steps_per_epoch, self.total_steps) for epoch in (self.evaluated, self.epoch))
        if not (self.epoch - 1 <= self.evaluated <= self.epoch and first <= self.steps <= last):
            raise ValueError(f"{path} is of {place}, but an epoch has {self.steps_per_epoch} steps and all have "
                             f"{self.total_steps}")
        best = self.best
        is_right = self.evaluated == 0 if best is None else (
            best["stage"] == self.name and best["dev"].keys() <= {*self.plan.scored, "average", "overall"}
            and 1 <= best["epoch"] <= self.evaluated and best["step"] <= self.steps)
        if not is_right:
            raise ValueError(f"{path} says of the best epoch what cannot be at {place} of {self.name}: "
                             f"{reprlib.repr(best)}")

    def _load_tensors(self, saved: checkpoint.Checkpoint) -> None:
        """Raises KeyError or ValueError for tensors that are not of this stage."""
        run, plan, weights = self.run, self.plan, saved.part("model")
        check_like(weights, run.model.state_dict())
        run.model.load_state_dict({name: weights[name] for name in run.model.state_dict()})
        plan.trainer.load_state_dict(saved.part("trainer"))
        plan.sampler.load_state_dict(saved.part("sampler"))
        self.logits = {name: value.clone() for name, value in saved.part("logits").items()}
        names = () if self.best is None else plan.scored
        sizes = {name: (len(run.dataset[name]["dev"]), run.model.tasks[name].outputs) for name in names}
        check_like(self.logits, {name: torch.zeros(size) for name, size in sizes.items()})
        for name, embeddings in plan.embeddings.items():
            embeddings.restore(saved.part("embeddings")[name])
        restore_random_state(saved.part(random_part(run.ranks.rank)))

    def _recover_best(self, folder: Path) -> None:
        """Makes the model's folder that of the best epoch known here, wherever between two steps the run was killed."""
        kept, target = folder / MODEL_FOLDER, self.run.model_folder(self.name)
        if self.best is not None and (self.best["step"], self.best["epoch"]) == (self.steps, self.evaluated):
            self._publish()
        elif self.best is not None and self.run.ranks.writes and kept.is_dir():
            # the checkpoint after this one had a better epoch, and is lost
            shutil.rmtree(target, ignore_errors=True)
            os.replace(kept, target)
        self._publish_predictions()

    def _train_epoch(self) -> None:
        """A new epoch, or what is left of the one under way."""
        if self.evaluated == self.epoch:
            with whole():
                self.epoch, self.seconds = self.epoch + 1, 0.0
                self.plan.sampler.start_epoch()
        epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        end = min(self.epoch * self.steps_per_epoch, self.total_steps)
        steps = end - (self.epoch - 1) * self.steps_per_epoch
        started = time.perf_counter()
        self.plan.prepare(steps)
        self.seconds += time.perf_counter() - started
        self.run.model.train()
        smooth: dict[str, float] = {}
        with tqdm(total=steps, initial=steps - (end - self.steps), desc=f"{self.name} epoch {self.epoch}/{epochs}",
                  unit="step", disable=not self.run.ranks.writes) as bar:
            while self.steps < end:
                with whole():
                    losses, examples_per_second = self._train_step()
                smooth |= {name: 0.95 * smooth.get(name, loss) + 0.05 * loss for name, loss in losses.items()}
                bar.set_postfix_str(" ".join(f"{name} {loss:.3f}" for name, loss in smooth.items())
                                    + f", {examples_per_second:.0f} ex/s", refresh=False)
                bar.update()
                if self.steps < end and self._is_due():
                    self._save()

    def _is_due(self) -> bool:
        """Is it time for a checkpoint within the epoch? When they are written changes nothing in what is computed."""
        every, ranks = self.run.settings.checkpoint_every, self.run.ranks
        if every is not None:
            return self.steps % every == 0
        if ranks.size == 1:
            return time.monotonic() >= self.next_save
        # one process decides for all, and is asked now and then
        return self.steps % 10 == 0 and bool(ranks.from_writer(
            lambda: "due" if time.monotonic() >= self.next_save else ""))

    def _train_step(self) -> tuple[dict[str, float], float]:
        """One step, logged: the tasks' losses, and examples a second; no losses where it was skipped."""
        settings, started = self.run.settings, time.perf_counter()
        indices = self.plan.sampler.next_step()
        batches = {name: self.plan.fetch(name, rows) for name, rows in indices.items()}
        lr_scale = SCHEDULES[settings.schedule](self.steps, round(settings.warmup * self.total_steps),
                                                self.total_steps)
        examples = sum(len(rows) for rows in indices.values())
        result = None
        try:
            result = self.plan.trainer.step(batches, lr_scale)
        except FloatingPointError as error:
            self._on_nonfinite(error, indices)
        self.steps += 1
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if result is not None:
            self._log_step(result, seconds, examples)
        return {} if result is None else result.losses, examples / seconds

    def _on_nonfinite(self, error: FloatingPointError, indices: dict[str, list[int]]) -> None:
        """Stops, or logs that the step is skipped, as --on-nonfinite says; nothing has been updated."""
        ids = {name: [self.run.dataset[name]["train"][row].id for row in rows] for name, rows in indices.items()}
        if self.run.settings.on_nonfinite == STOP:
            raise FloatingPointError(f"{self.name}, step {self.steps + 1}: {error}; its examples are {ids}") from None
        self.run.log.write("skipped", stage=self.name, epoch=self.epoch, step=self.steps + 1, reason=str(error),
                           examples=ids)

    def _log_step(self, result: StepResult, seconds: float, examples: int) -> None:
        self.run.log.write(
            "step", stage=self.name, epoch=self.epoch, step=self.steps, lr=self.plan.trainer.learning_rate,
            losses=_rounded(result.losses), **_conflicts(self.plan.tasks, result), examples=examples,
            seconds=round(seconds, 6))

    def _evaluate(self) -> None:
        run, tasks = self.run, {name: self.run.model.tasks[name] for name in self.plan.scored}
        logits = {name: self.plan.predict(name) for name in tasks}
        predictions = {name: task.decode(logits[name]).numpy() for name, task in tasks.items()}
        dev = scores_of(tasks, predictions, {name: run.tokens[name]["dev"].labels for name in tasks})
        event = {"stage": self.name, "epoch": self.epoch, "step": self.steps, "dev": dev}
        with whole():
            run.log.write("epoch", **event, seconds=round(self.seconds, 3))
            self.evaluated = self.epoch
            better = self.best is None or dev["average"] > self.best["dev"]["average"]
            run.say(f"  epoch {self.epoch}: dev {describe(dev)}{'  (best so far)' if better else ''}")
            if better:
                self.best, self.logits = event, logits
            self._save()
            if better:
                self._publish()
                self._publish_predictions()
            run.ranks.wait_for_writer()  # the next stage reads what was published

    def _publish(self) -> None:
        """The best epoch's model, where others find it.

        Always after the checkpoint that knows of it: a run killed in between writes it again from that checkpoint.
        The best model until now goes to the checkpoint before, which may have to be gone back to.
        """
        if not self.run.ranks.writes:
            return
        target = self.run.model_folder(self.name)
        before = [folder / MODEL_FOLDER for folder in checkpoint.numbered(self.run.folder)[:-1]]
        self.run.model.save_pretrained(target, aside=before[-1] if before and not before[-1].exists() else None)

    def _publish_predictions(self) -> None:
        """The best epoch's dev predictions, if they are what the run hands in."""
        run = self.run
        if self.best is None or self.name != run.settings.stages[-1]:
            return
        run.logits = self.logits
        for name in TASKS.keys() & self.logits.keys() if run.ranks.writes else ():
            write_predictions(run.folder / PREDICTIONS_FOLDER, TASKS[name], "dev", run.dataset[name]["dev"],
                              TASKS[name].decode(self.logits[name]).numpy())

    def _save(self) -> None:
        """A checkpoint of where the stage stands, between two steps; all processes come here together.

        Raises FloatingPointError for weights that are not finite, or that differ from process to process, which all
        make the same steps: the last good one stays the last.
        """
        run, plan, started = self.run, self.plan, time.monotonic()
        for name, value in run.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise FloatingPointError(f"{self.name}, step {self.steps}: the weights {name} are no longer finite")
        randoms = run.ranks.gather(random_state())
        if run.ranks.size > 1 and not run.ranks.agree(checksum(run.model.parameters())):
            raise FloatingPointError(f"step {self.steps}: the processes' weights are no longer the same to the last "
                                     "bit; have all machines the same processors, devices and versions of torch?")
        if not run.ranks.writes:
            return
        parts = {"model": run.model.state_dict(), "trainer": plan.trainer.state_dict(),
                 "sampler": plan.sampler.state_dict(), "logits": self.logits,
                 **{random_part(rank): state for rank, state in enumerate(randoms)},
                 "embeddings": {name: embeddings.calls for name, embeddings in plan.embeddings.items()}}
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        values = {"stage": self.name, "epoch": self.epoch, "steps": self.steps, "evaluated": self.evaluated,
                  "seconds": self.seconds, "best": self.best, "finished": run.finished, "log": run.log.position,
                  "data": run.fingerprint, "threads": torch.get_num_threads(), "processes": run.ranks.size}
        with whole():
            checkpoint.save(run.folder, tensors, values, run.model.encoder.config, run.model.tokenizer)
        finished = time.monotonic()
        self.next_save = finished + checkpoint.PATIENCE * (finished - started)


def _conflicts(tasks: Sequence[str], result: StepResult) -> dict:
    """What the log says of the tasks' gradients; nothing where there is only one task or the encoder is frozen."""
    if result.gram is None or len(tasks) < 2:
        return {}
    by_pair = dict(zip(pairs_of(tasks), upper_triangle(cosines(result.gram)), strict=True))
    return {
        "cosines": _rounded(by_pair),
        "conflicts": [pair for pair, value in by_pair.items() if value < 0],
        "gradient_norms": _rounded(dict(zip(tasks, result.gram.diagonal().sqrt().tolist(), strict=True))),
        "weights": _rounded(dict(zip(tasks, result.weights.tolist(), strict=True))),
    }


def describe(scores: dict) -> str:
    """sst .500  para .800  sts .700  average .667"""
    by_task = {name: next(iter(values.values())) for name, values in scores.items() if isinstance(values, dict)}
    parts = [f"{name} {_score(value)}" for name, value in by_task.items()]
    return "  ".join([*parts, f"average {_score(scores['average'])}"] if len(parts) > 1 else parts)


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    """Seven digits: what float32 holds."""
    return {name: float(f"{value:.7g}") for name, value in values.items()}
