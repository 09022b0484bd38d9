"""A run of masked-language-model pretraining: settings, text and model → steps → a folder that serves as --model."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minbert import BertConfig, BertForMaskedLM, BertTokenizer, Masking
from minbert.pretrained import replacing
from minbert.weights import SINGLE_FILE
from optim import linear_decay

from .checkpoint import random_state, restore_random_state
from .corpus import Corpus, read_passages, split_passages
from .device import DEVICES, PRECISIONS, pick_device, pick_precision
from .environment import environment
from .masked_training import (
    Batch,
    MaskedTrainer,
    evaluate,
    generator_of,
    read_checkpoint,
    restore,
    save_checkpoint,
    set_dropout,
    to_device,
)
from .runlog import LOG_FILE, RunLog

SETTINGS_FILE, CORPUS_FILE, CHECKPOINT_FILE, METRICS_FILE = (
    "pretraining.json", "corpus.safetensors", "checkpoint.safetensors", "metrics.json")
SAVE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EVALUATION_BATCH = 64
ORDER, MASKS, HELD_OUT_MASKS = range(3)  # what a generator is for: the first of its numbers


@dataclass(frozen=True)
class PretrainingSettings:
    """One run of pretraining; the names are the flags of `python -m multitask.pretrain`. ValueError if out of range.

    start: --from, the checkpoint to go on from; None is from scratch, of the shape that layers, hidden, heads and
    vocab_size give. steps: None is `epochs` passes over the text.
    """

    text: str
    start: str | None = None
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocab_size: int = 8192
    length: int = 128
    batch_size: int = 64
    epochs: int = 3
    steps: int | None = None
    max_minutes: float | None = None
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    whole_words: bool = False
    held_out: float = 0.01
    checkpoint_every: int = 500
    seed: int = 11711
    device: str = "auto"
    precision: str = "auto"
    save_dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name, choices in (("device", DEVICES), ("precision", PRECISIONS), ("save_dtype", SAVE_DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: choose from {', '.join(choices)}")
        for name, least in (("layers", 1), ("hidden", 1), ("heads", 1), ("vocab_size", 6), ("length", 8),
                            ("batch_size", 1), ("epochs", 1), ("steps", 1), ("checkpoint_every", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{flag(name)} {value}: must be at least {least}")
        for name in ("lr", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: must be 0 or more")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: a share, from 0 to below 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out {self.held_out}: a share of the passages, above 0 and below 1")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"--max-minutes {self.max_minutes}: must be above 0")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed}: must be from 0 to 2^63 - 1")
        if self.start is None and self.hidden % self.heads:
            raise ValueError(f"--hidden {self.hidden} is not divisible by --heads {self.heads}")

    def save(self, path: Path) -> None:
        with replacing(path) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PretrainingSettings:
        """Raises FileNotFoundError or ValueError, naming the file."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the settings of a pretraining run ({error})") from None


def flag(name: str) -> str:
    """save_dtype → --save-dtype."""
    return f"--{name.replace('_', '-')}"


@dataclass
class Pretraining:
    """A run between two steps. step: how many are done."""

    folder: Path
    settings: PretrainingSettings
    trainer: MaskedTrainer
    tokenizer: BertTokenizer
    corpus: Corpus
    log: RunLog
    say: Callable[[str], None]
    step: int = 0

    def __post_init__(self) -> None:
        vocabulary = self.tokenizer.vocabulary
        self._brackets = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._masking = Masking.of(self.tokenizer, self.settings.whole_words)
        self._epoch, self._order = -1, torch.empty(0)
        train, held_out = split_passages(len(self.corpus.ends), self.settings.held_out)
        self.sequences = self.corpus.cut(train, self.settings.length)
        held_out_sequences = self.corpus.cut(held_out, self.settings.length)
        if not len(self.sequences) or not len(held_out_sequences):
            raise ValueError(f"--text {self.settings.text}: nothing is left to train on or to hold out; give more "
                             "text")
        self.held_out = self._held_out_batches(held_out_sequences)
        self.frequent = self._most_frequent()
        labels = torch.cat([masked.labels for masked, _ in self.held_out])
        self.trivial_accuracy = float((labels == self.frequent).double().mean())
        self.steps_each_epoch = max(1, len(self.sequences) // self.settings.batch_size)
        self.steps = self.settings.steps or self.settings.epochs * self.steps_each_epoch

    def _held_out_batches(self, spans: np.ndarray) -> list[Batch]:
        """Held-out text with one masking for good, piece by piece even where words are trained on whole."""
        masking, generator = Masking.of(self.tokenizer), generator_of(HELD_OUT_MASKS)
        batches = []
        for start in range(0, len(spans), EVALUATION_BATCH):
            row, packing = self.corpus.batch(spans[start:start + EVALUATION_BATCH], *self._brackets)
            batches.append((masking(row, generator), packing))
        return batches

    def _most_frequent(self) -> int:
        """The piece that stands most often in the text that is trained on."""
        pieces = np.concatenate([self.corpus.ids[start:end] for start, end in self.sequences.tolist()])
        return int(np.bincount(pieces).argmax())

    def batch(self, step: int) -> Batch:
        """Sequences and masks of a step: a function of seed and step alone. Each epoch has an order of its own."""
        epoch, place = divmod(step, self.steps_each_epoch)
        if epoch != self._epoch:
            generator = generator_of(ORDER, self.settings.seed, epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.sequences), generator=generator).numpy()
        size = self.settings.batch_size
        row, packing = self.corpus.batch(self.sequences[self._order[place * size:(place + 1) * size]], *self._brackets)
        return self._masking(row, generator_of(MASKS, self.settings.seed, step)), packing

    def evaluate(self) -> dict[str, float]:
        """Scores on the held-out passages, logged and said."""
        scores = {**evaluate(self.trainer.model, self.held_out, self.trainer.precision),
                  "trivial_accuracy": self.trivial_accuracy}
        self.log.write("evaluation", step=self.step, **scores)
        self.say(f"step {self.step:,} of {self.steps:,}: held-out perplexity {scores['perplexity']:.1f}, "
                 f"masked accuracy {scores['masked_accuracy']:.3f} (always the most frequent piece: "
                 f"{self.trivial_accuracy:.3f})")
        return scores

    def save(self) -> None:
        """The checkpoint to go on from, and the model as it stands."""
        model = self.trainer.model
        if self.settings.start is None:
            # No segment 1 occurs here: fine-tuning finds it equal to segment 0, not at the noise it was drawn from.
            types = model.encoder.embeddings.token_type_embeddings.weight
            with torch.no_grad():
                types[1:] = types[0]
        save_checkpoint(self.folder / CHECKPOINT_FILE, self.trainer, random_state(),
                        {"step": self.step, "log": self.log.position, "config": model.config.to_dict()})
        model.save_pretrained(self.folder, SAVE_DTYPES[self.settings.save_dtype])

    def run(self) -> bool:
        """Trains to the last step, or until --max-minutes are over; whether it is finished."""
        limit = None if self.settings.max_minutes is None else 60 * self.settings.max_minutes
        warmup_steps = round(self.settings.warmup * self.steps)
        if not self.step:
            self.evaluate()
        begun = time.monotonic()
        with tqdm(total=self.steps, initial=self.step, desc="pretrain", unit="step", smoothing=0.05) as bar:
            while self.step < self.steps:
                is_last = limit is not None and time.monotonic() - begun > limit
                self._train_step(linear_decay(self.step, warmup_steps, self.steps), bar)
                if is_last or self.step == self.steps or self.step % self.settings.checkpoint_every == 0:
                    scores = self.evaluate()
                    self.save()
                if is_last:
                    break
        if self.step < self.steps:
            return False
        with replacing(self.folder / METRICS_FILE) as partial:  # last of all: it says that the run is finished
            partial.write_text(json.dumps(self._metrics(scores), indent=2) + "\n", encoding="utf-8")
        return True

    def _train_step(self, lr_scale: float, bar: tqdm) -> None:
        start = time.perf_counter()
        batch = to_device(self.batch(self.step), self.trainer.device)
        loss = self.trainer.step(batch, lr_scale)
        seconds, tokens = time.perf_counter() - start, len(batch[0].input_ids)
        self.step += 1
        self.log.write("step", step=self.step, loss=loss, lr=self.settings.lr * lr_scale, tokens=tokens,
                       seconds=seconds)
        bar.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update()

    def _metrics(self, scores: dict[str, float]) -> dict:
        steps = list(self.log.events("step"))
        piece = next(piece for piece, number in self.tokenizer.vocabulary.items() if number == self.frequent)
        return {**scores, "most_frequent_piece": piece, "steps": self.step,
                "tokens": sum(step["tokens"] for step in steps),
                "train_seconds": sum(step["seconds"] for step in steps),
                "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in steps),
                "parameters": sum(value.numel() for value in self.trainer.model.parameters()),
                "sequences": len(self.sequences),
                "held_out_tokens_masked": sum(len(m.labels) for m, _ in self.held_out),
                "environment": environment(self.trainer.device, self.trainer.precision)}


def start(settings: PretrainingSettings, folder: Path, say: Callable[[str], None] = tqdm.write) -> Pretraining:
    """A new run, ready to train. Raises ValueError or OSError for bad input, before anything is written."""
    check_folder(folder)
    pick_device(settings.device)
    passages = read_passages(Path(settings.text))
    say(f"text:  {settings.text} ({len(passages):,} passages, {sum(map(len, passages)):,} lines)")
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model, tokenizer = scratch(settings, passages, say)
    else:
        model, tokenizer = pretrained(settings, say)
    Masking.of(tokenizer)  # has it [MASK]?
    corpus = Corpus.tokenize(passages, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_FILE).unlink(missing_ok=True)  # remains of a run that never came to a checkpoint
    settings.save(folder / SETTINGS_FILE)
    tokenizer.save_pretrained(folder)
    corpus.save(folder / CORPUS_FILE)
    return build(folder, settings, model, tokenizer, corpus, say)


def resume(folder: Path, say: Callable[[str], None] = tqdm.write) -> Pretraining | None:
    """The run in `folder`, ready to go on from its last checkpoint; None if it is finished. The text is not needed."""
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: no {SETTINGS_FILE} there, so it is no pretraining run's folder")
    settings = PretrainingSettings.load(folder / SETTINGS_FILE)
    if (folder / METRICS_FILE).is_file():
        return None
    if not (folder / CHECKPOINT_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: there is no checkpoint yet (the first comes after "
                                f"{settings.checkpoint_every} steps); start it again with --out {folder}")
    tensors, values = read_checkpoint(folder / CHECKPOINT_FILE)
    run = build(folder, settings, BertForMaskedLM(BertConfig.from_dict(values["config"])),
                BertTokenizer.from_pretrained(folder), Corpus.load(folder / CORPUS_FILE), say)
    restore(run.trainer, tensors)
    restore_random_state({name.removeprefix("random."): value for name, value in tensors.items()
                          if name.startswith("random.")})
    run.step = values["step"]
    run.log.rewind(values["log"])
    say(f"resumed after step {run.step:,} of {run.steps:,}")
    return run


def build(folder: Path, settings: PretrainingSettings, model: BertForMaskedLM, tokenizer: BertTokenizer,
          corpus: Corpus, say: Callable[[str], None]) -> Pretraining:
    """The run of these parts, at step 0."""
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    set_dropout(model, settings.dropout)
    trainer = MaskedTrainer(model.to(device), settings.lr, settings.weight_decay, settings.clip, precision)
    run = Pretraining(folder, settings, trainer, tokenizer, corpus, RunLog(folder), say)
    say(f"run:   {folder} ({run.steps:,} steps of {settings.batch_size} sequences of up to {settings.length} tokens, "
        f"{len(run.sequences):,} sequences; seed {settings.seed}, {device}, {precision})")
    return run


def scratch(settings: PretrainingSettings, passages: list[list[str]],
            say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """A random model, and a vocabulary learnt from the passages that are trained on."""
    train, _ = split_passages(len(passages), settings.held_out)
    lines = [line for number in train for line in passages[number]]
    say(f"vocabulary: learning {settings.vocab_size:,} pieces from {len(lines):,} lines (some minutes for 100 MB)")
    tokenizer = BertTokenizer.train(lines, settings.vocab_size)
    model = BertForMaskedLM(BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=settings.hidden, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, intermediate_size=4 * settings.hidden,
        max_position_embeddings=settings.length))  # a position that is never trained would be noise
    say(f"model: from scratch ({size(model)}, {tokenizer.vocab_size:,} pieces); its pooler stays random, since "
        "guessing tokens does not train it; --from CHECKPOINT goes on with another")
    return model, tokenizer


def pretrained(settings: PretrainingSettings, say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """--from's model and tokenizer. Raises ValueError if they do not fit each other or --length."""
    model = BertForMaskedLM.from_pretrained(settings.start)
    tokenizer = BertTokenizer.from_pretrained(settings.start)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"--from {settings.start}: the tokenizer knows {tokenizer.vocab_size} pieces, the model "
                         f"{model.config.vocab_size}: they do not belong together")
    if settings.length > model.config.max_position_embeddings:
        raise ValueError(f"--length {settings.length}, but {settings.start} takes sequences of up to "
                         f"{model.config.max_position_embeddings} tokens")
    say(f"model: {settings.start} ({size(model)}), its vocabulary and its pooler as they are")
    return model, tokenizer


def size(model: BertForMaskedLM) -> str:
    return f"{sum(value.numel() for value in model.parameters()):,} parameters"


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder whose content would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if (folder / METRICS_FILE).exists():
        raise ValueError(f"--out {folder} holds a finished run; name another folder")
    if (folder / CHECKPOINT_FILE).exists():
        raise ValueError(f"--out {folder} holds a checkpoint; go on with --resume {folder}, or name another folder")
    if (folder / SINGLE_FILE).exists():
        raise ValueError(f"--out {folder} holds a model; name another folder")
