"""What each stage of a run consists of (the paper, section 4.3): tasks, batches and trainer.

Stages differ in their plan only; the training loop in stages.py is the same for all.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from multitask.data.examples import Dataset, fingerprint
from multitask.data.sampling import ANNEAL, BATCH_DIFFERENT, ONCE, RoundRobin, batch_different_sizes
from multitask.model import MODEL_FOLDER, MultitaskBert
from multitask.system.distributed import Ranks
from multitask.system.runlog import RunLog
from multitask.tasks import NLI, Task
from multitask.training.final_layers import CachedEmbeddings, HeadTrainer
from multitask.training.step import SurgeryTrainer

from .folder import STAGES_FOLDER
from .inputs import Tokens
from .settings import Settings


@dataclass
class Run:
    """What the stages of one run share.

    Args:
        say: prints a line for the user.
        ranks: the processes that train the run.
        tokens: the data, tokenized for this architecture.
        stage: the stages.Stage in progress.
        finished: stage → its result (see Stage.fit), for the stages that have ended.
    """

    folder: Path
    settings: Settings
    model: MultitaskBert
    dataset: Dataset
    log: RunLog
    say: Callable[[str], None]
    ranks: Ranks
    tokens: Tokens
    stage: Any = None  # a Stage; stages.py imports this module
    finished: dict[str, dict] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, Task]:
        """name → task, those that the run is about; the model may have NLI's head too."""
        return {task.name: task for task in self.settings.tasks}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the data: see data.examples.fingerprint."""
        return fingerprint(self.dataset)

    def model_folder(self, stage: str) -> Path:
        """Where a stage's best epoch is kept: RUN/model for the last, else RUN/stages/NAME."""
        is_last = stage == self.settings.stages[-1]
        return self.folder / (MODEL_FOLDER if is_last else f"{STAGES_FOLDER}/{stage}")


@dataclass(frozen=True)
class Plan:
    """What a stage consists of.

    Args:
        scored: the tasks that it is scored on.
        sampler: chooses the examples of each step.
        trainer: makes a step of one batch per task.
        fetch: (task, indices) → batch.
        predict: task → logits of its dev set, (n, outputs).
        prepare: is called before an epoch, after its examples are drawn.
    """

    scored: Sequence[str]
    sampler: RoundRobin
    trainer: SurgeryTrainer | HeadTrainer
    fetch: Callable[[str, Sequence[int]], object]
    predict: Callable[[str], torch.Tensor]
    prepare: Callable[[], None] = lambda: None


def plan_nli(run: Run) -> Plan:
    """Additional pretraining on MultiNLI, with a three-way head of the architecture's own kind."""
    if NLI.name not in run.model.tasks:
        run.model.add_task(NLI)
    size = (run.settings.batch_size or 16) * run.ranks.size
    return _train_encoder(run, [NLI.name], {NLI.name: size}, ONCE)


def plan_surgery(run: Run) -> Plan:
    """Gradient-surgery fine-tuning on all tasks."""
    settings = run.settings
    if settings.gs == BATCH_DIFFERENT:
        lengths = {name: len(run.tokens[name]["train"]) for name in run.tasks}
        sizes = settings.batch_sizes or batch_different_sizes(lengths)
    else:
        sizes = dict.fromkeys(run.tasks, (settings.batch_size or 16) * run.ranks.size)
    return _train_encoder(run, list(run.tasks), sizes, settings.gs)


def _train_encoder(run: Run, tasks: list[str], sizes: Mapping[str, int], scheme: str) -> Plan:
    """sizes: task → examples per step of all processes; each process computes its share of them."""
    settings, ranks = run.settings, run.ranks
    ranks.seed_apart(settings.seed)
    lengths = {name: len(run.tokens[name]["train"]) for name in tasks}
    for name, size in sizes.items():
        if size > lengths[name]:
            run.say(f"note:  {name} has {lengths[name]:,} examples, fewer than a batch of "
                    f"{size:,}: each step takes all of them")
    sizes = {name: min(size, lengths[name]) for name, size in sizes.items()}

    def fetch(name: str, rows: Sequence[int]) -> object:
        return run.tokens[name]["train"].micro_batches(ranks.share(rows), settings.accumulate,
                                                       len(rows))

    return Plan(
        scored=tasks,
        sampler=RoundRobin(lengths, sizes, scheme, settings.seed),
        trainer=SurgeryTrainer(run.model, settings.surgery, settings.lr, settings.weight_decay,
                               settings.clip, settings.seed, tasks, settings.head_lr, ranks,
                               settings.surgery_by, at_once=1 if scheme == ANNEAL else None),
        fetch=fetch,
        predict=lambda name: run.model.predict_logits(name, run.tokens[name]["dev"], ranks))


def plan_final_layers(run: Run) -> Plan:
    """Final-layer fine-tuning: every head on the frozen encoder's outputs."""
    return _train_heads(run, list(run.tasks))


def plan_baseline(run: Run) -> Plan:
    """The paper's baseline: a head for SST on the frozen encoder; the others stay untrained."""
    return _train_heads(run, ["sst"])


def _train_heads(run: Run, tasks: list[str]) -> Plan:
    """Heads on a frozen encoder. Processes share the encoding; each performs all head updates."""
    settings, ranks = run.settings, run.ranks

    def embeddings_of(name: str, split: str) -> CachedEmbeddings:
        return CachedEmbeddings(run.model, run.tokens[name][split], f"{name} {split}", ranks)

    train = {name: embeddings_of(name, "train") for name in tasks}
    dev = {name: embeddings_of(name, "dev") for name in run.tasks}

    size = (settings.batch_size or 8) * ranks.size
    lengths = {name: len(run.tokens[name]["train"]) for name in tasks}
    sampler = RoundRobin(lengths, dict.fromkeys(tasks, size), ONCE, settings.seed)

    def prepare() -> None:
        # each epoch asks for the same rows, so a resumed run encodes them in the same batches
        end = None if settings.max_steps is None else settings.max_steps * size
        for name in tasks:
            train[name].compute(sampler.orders[name][:end])

    @torch.no_grad()
    def predict(name: str) -> torch.Tensor:
        run.model.eval()
        every = dev[name].batch(range(len(run.tokens[name]["dev"])))
        return run.model.heads[name](every.embeddings).cpu()

    lr = settings.lr if settings.head_lr is None else settings.head_lr
    return Plan(
        scored=list(run.tasks), sampler=sampler,
        trainer=HeadTrainer(run.model, tasks, lr, settings.weight_decay, settings.clip),
        fetch=lambda name, rows: train[name].batch(rows),
        predict=predict, prepare=prepare)


@dataclass(frozen=True)
class Kind:
    """A kind of stage: its title for the user, and its plan."""

    title: str
    plan: Callable[[Run], Plan]
    trains_heads_only: bool = False


STAGES = {
    "nli": Kind("additional pretraining on MultiNLI", plan_nli),
    "gs": Kind("gradient-surgery fine-tuning", plan_surgery),
    "fl": Kind("final-layer fine-tuning, the encoder frozen", plan_final_layers, True),
    "baseline": Kind("the baseline: a head for SST on the frozen encoder", plan_baseline, True),
}
