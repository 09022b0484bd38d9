"""A run of pretraining: settings, text and model → steps → a folder that serves as --model."""

from __future__ import annotations

import dataclasses
import json
import reprlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minbert import BertConfig, BertForMaskedLM, BertForPreTraining, BertTokenizer, Masking
from minbert.checkpoints.weights import SINGLE_FILE
from minbert.files import one_line, read_object, replacing
from multitask.runs.settings import LARGEST, SKIP, STOP, check_type
from multitask.system import checkpoint
from multitask.system.device import DEVICES, PRECISIONS, autocast, pick_device, pick_precision, precision_note
from multitask.system.environment import environment
from multitask.system.interruption import Interruption, defer_signals
from multitask.system.lock import check_free
from multitask.system.runlog import RunLog
from multitask.system.state import random_state, restore_random_state
from optim import linear_decay

from .corpus import Corpus, read_passages, split_passages
from .report import Guess, write_pretraining_report
from .segments import MAKERS, NEXT, NONE, SECOND_SEGMENTS, Text
from .step import Batch, MaskedTrainer, draw_attentive, evaluate, generator_of, restore, scores, set_dropout, state_of

SETTINGS_FILE, CORPUS_FILE, METRICS_FILE = "pretraining.json", "corpus.safetensors", "metrics.json"
REPORT_FILE = "report.html"
SAVE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EVALUATION_BATCH = 64
GUESSES, GUESSES_SAID, LIKELY, AROUND = 30, 3, 3, 8  # of the report, of these printed; pieces guessed, pieces around
# what a generator is for: the first of its numbers
ORDER, MASKS, HELD_OUT_MASKS, SEGMENTS, HELD_OUT_SEGMENTS = range(5)


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
    second_segment: str = NONE
    mask_share: float = 0.15
    held_out: float = 0.01
    checkpoint_every: int = 500
    on_nonfinite: str = STOP
    seed: int = 11711
    device: str = "auto"
    precision: str = "auto"
    save_dtype: str = "fp32"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), field.type)
        for name, choices in (("device", DEVICES), ("precision", PRECISIONS), ("save_dtype", SAVE_DTYPES),
                              ("on_nonfinite", (STOP, SKIP)), ("second_segment", SECOND_SEGMENTS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{flag(name)} {getattr(self, name)}: choose from {', '.join(choices)}")
        for name, least in (("layers", 1), ("hidden", 1), ("heads", 1), ("vocab_size", 6), ("length", 8),
                            ("batch_size", 1), ("epochs", 1), ("steps", 1), ("checkpoint_every", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < 2**53:
                raise ValueError(f"{flag(name)} {reprlib.repr(value)}: must be at least {least}, and below 2^53")
        for name in ("lr", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise ValueError(f"{flag(name)} {reprlib.repr(getattr(self, name))}: must be 0 or more, and at most "
                                 f"{LARGEST:g}")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} {reprlib.repr(getattr(self, name))}: a share, from 0 to below 1")
        for name in ("mask_share", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} {reprlib.repr(getattr(self, name))}: a share, above 0 and below 1")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"--max-minutes {reprlib.repr(self.max_minutes)}: must be above 0")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {reprlib.repr(self.seed)}: must be from 0 to 2^63 - 1")
        if self.start is None and self.hidden % self.heads:
            raise ValueError(f"--hidden {self.hidden} is not divisible by --heads {self.heads}")

    def save(self, path: Path) -> None:
        with replacing(path) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PretrainingSettings:
        """Raises FileNotFoundError or ValueError, naming the file."""
        try:
            return cls(**read_object(path))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the settings of a pretraining run ({one_line(error)})") from None


def flag(name: str) -> str:
    """save_dtype → --save-dtype."""
    return f"--{name.replace('_', '-')}"


@dataclass
class Pretraining:
    """A run between two steps. step: how many are done; evaluated: how many were when it was last evaluated."""

    folder: Path
    settings: PretrainingSettings
    trainer: MaskedTrainer
    tokenizer: BertTokenizer
    corpus: Corpus
    log: RunLog
    say: Callable[[str], None]
    step: int = 0
    evaluated: int = -1

    def __post_init__(self) -> None:
        settings = self.settings
        self._masking = Masking.of(self.tokenizer, settings.whole_words, settings.mask_share)
        self._shuffled = -1, np.empty(0)           # the last epoch that was asked for, and its order
        self._ahead: tuple[int, Future] = -1, Future()  # a step, and its batch, made before it is asked for …
        self._maker: ThreadPoolExecutor | None = None   # … by this
        self._text, held_out = (
            MAKERS[settings.second_segment](self.corpus, passages, settings.length, self.tokenizer)
            for passages in split_passages(len(self.corpus.ends), settings.held_out))
        self.sequences = self._text.sequences
        if not len(self.sequences) or not len(held_out.sequences):
            raise ValueError(f"--text {one_line(settings.text)}: nothing is left to train on or to hold out; give "
                             "more text")
        self.held_out = self._held_out_batches(held_out)
        self.frequent = self._most_frequent()
        labels = torch.cat([batch.masked.labels for batch in self.held_out])
        self.trivial_accuracy = float((labels == self.frequent).double().mean())
        self.steps_each_epoch = max(1, len(self.sequences) // settings.batch_size)
        self.steps = settings.steps or settings.epochs * self.steps_each_epoch

    def _held_out_batches(self, text: Text) -> list[Batch]:
        """Held-out text with one masking for good, piece by piece even where words are trained on whole."""
        masking, masks = Masking.of(self.tokenizer), generator_of(HELD_OUT_MASKS)
        draws, batches = np.random.default_rng(HELD_OUT_SEGMENTS), []
        for start in range(0, len(text.sequences), EVALUATION_BATCH):
            chosen = np.arange(start, min(start + EVALUATION_BATCH, len(text.sequences)))
            row, packing, segments = text.batch(chosen, draws)
            batches.append(Batch(masking(row, masks), packing, segments))
        return batches

    def _most_frequent(self) -> int:
        """The piece that stands most often in the text that is trained on."""
        pieces = np.concatenate([self.corpus.ids[start:end] for start, end in self.sequences.tolist()])
        return int(np.bincount(pieces).argmax())

    def batch(self, step: int) -> Batch:
        """Sequences and masks of a step: a function of seed and step alone. Each epoch has an order of its own."""
        seed = self.settings.seed
        row, packing, segments = self._text.batch(self._sequences_of(step),
                                                  np.random.default_rng((SEGMENTS, seed, step)))
        return Batch(self._masking(row, generator_of(MASKS, seed, step)), packing, segments)

    def _sequences_of(self, step: int) -> np.ndarray:
        """(sequences,) int64: which of them make up a step."""
        epoch, place = divmod(step, self.steps_each_epoch)
        size = self.settings.batch_size
        return self._order(epoch)[place * size:(place + 1) * size]

    def _order(self, epoch: int) -> np.ndarray:
        known, order = self._shuffled
        if known != epoch:
            generator = generator_of(ORDER, self.settings.seed, epoch)
            order = torch.randperm(len(self.sequences), generator=generator).numpy()
            self._shuffled = epoch, order
        return order

    def evaluate(self) -> None:
        """Scores on the held-out passages, logged and said, and a checkpoint."""
        found = {**evaluate(self.trainer.model, self.held_out, self.trainer.precision),
                 "trivial_accuracy": self.trivial_accuracy}
        with defer_signals():
            self.log.write("evaluation", step=self.step, **found)
            segments = f", of segments {found['segment_accuracy']:.3f}" if "segment_accuracy" in found else ""
            self.say(f"step {self.step:,} of {self.steps:,}: held-out perplexity {found['perplexity']:.1f}, "
                     f"masked accuracy {found['masked_accuracy']:.3f} (always the most frequent piece: "
                     f"{self.trivial_accuracy:.3f}){segments}")
            self.evaluated = self.step
            self.save()

    def save(self) -> None:
        """The checkpoint to go on from, and the model as it stands. Raises FloatingPointError for weights that are not
        finite: the last good checkpoint stays the last."""
        model, flat = self.trainer.model, self.trainer.flat
        if not torch.isfinite(flat.vector).all():
            raise FloatingPointError(f"step {self.step}: the weights are no longer finite")
        if self.settings.start is None and self.settings.second_segment == NONE:
            # No segment 1 occurs here: fine-tuning finds it equal to segment 0, not at the noise it was drawn from.
            types = model.encoder.embeddings.token_type_embeddings.weight
            with torch.no_grad():
                types[1:] = types[0]
        random = {f"random.{name}": value for name, value in random_state().items()}
        values = {"step": self.step, "evaluated": self.evaluated, "log": self.log.position,
                  "corpus": self.corpus.fingerprint}
        with defer_signals():
            checkpoint.save(self.folder, state_of(self.trainer) | random, values, model.config, self.tokenizer)
            model.save_pretrained(self.folder, SAVE_DTYPES[self.settings.save_dtype])

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint. Raises ValueError if it is damaged, or made with another text."""
        if saved.value("corpus") != self.corpus.fingerprint:
            raise ValueError(f"{self.folder / CORPUS_FILE} is not the text that {saved.folder} was made with")
        path = saved.folder / checkpoint.TENSORS_FILE
        try:
            restore(self.trainer, saved.tensors)
            restore_random_state(saved.part("random"))
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it lacks {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} does not fit this run: {error}") from None
        self.step, self.evaluated = map(saved.value, ("step", "evaluated"))
        if not self.evaluated <= self.step <= self.steps:
            raise ValueError(f"{saved.folder / checkpoint.VALUES_FILE} is of step {self.step}, evaluated at "
                             f"{self.evaluated}, of {self.steps} steps")
        self.log.rewind(saved.value("log"))
        for path in self.folder.glob(".tmp*"):  # what safetensors leaves of a file that it could not finish
            path.unlink()

    def run(self) -> bool:
        """Trains to the last step, or until --max-minutes are over; whether it is finished. An interruption is saved
        before it is passed on."""
        try:
            return self._run()
        except Interruption:
            self.save()
            raise

    def _run(self) -> bool:
        limit = None if self.settings.max_minutes is None else 60 * self.settings.max_minutes
        warmup_steps = round(self.settings.warmup * self.steps)
        begun, is_last = time.monotonic(), False
        with (tqdm(total=self.steps, initial=self.step, desc="pretrain", unit="step", smoothing=0.05) as bar,
              ThreadPoolExecutor(1) as maker):
            # on a CPU it would slow the step down
            self._maker = None if self.trainer.device.type == "cpu" else maker
            while True:
                is_due = is_last or self.step == self.steps or self.step % self.settings.checkpoint_every == 0
                if is_due and self.evaluated != self.step:
                    self.evaluate()
                if is_last or self.step == self.steps:
                    break
                is_last = limit is not None and time.monotonic() - begun > limit
                with defer_signals():
                    self._train_step(linear_decay(self.step, warmup_steps, self.steps), bar)
        if self.step < self.steps:
            return False
        self._conclude()
        return True

    def _conclude(self) -> None:
        """Some guesses to read, report.html, metrics.json."""
        metrics, guesses = self._metrics(), self.guesses(GUESSES)
        for guess in guesses[:GUESSES_SAID]:
            self.say(str(guess))
        write_pretraining_report(self.folder / REPORT_FILE, dataclasses.asdict(self.settings), metrics,
                                 list(self.log.events("step")), list(self.log.events("evaluation")), guesses)
        with replacing(self.folder / METRICS_FILE) as partial:  # last of all: it says that the run is finished
            partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        checkpoint.drop_older(self.folder)

    @torch.no_grad()
    def guesses(self, count: int) -> list[Guess]:
        """What the model puts in the place of one hidden piece in each of the first sequences held out."""
        device = self.trainer.device
        masked, packing, _ = self.held_out[0]
        self.trainer.model.eval()
        with autocast(self.trainer.precision, device):
            logits, _ = scores(self.trainer.model, self.held_out[0].to(device))
        likely, row, decode = logits.softmax(1).topk(LIKELY), masked.input_ids, self.tokenizer.decode
        found, start = [], 0
        for length in packing.lengths.tolist()[:count]:
            first, last = start + 1, start + length - 1  # between [CLS] and [SEP]
            start += length
            inside = (masked.positions >= first) & (masked.positions < last)
            hidden = (inside & (row[masked.positions] == self._masking.mask_id)).nonzero().squeeze(1).tolist()
            if hidden:
                number = hidden[len(hidden) // 2]
                place = int(masked.positions[number])
                pieces = [(decode([piece]), share) for piece, share in zip(
                    likely.indices[number].tolist(), likely.values[number].tolist(), strict=True)]
                found.append(Guess(decode(row[max(first, place - AROUND):place].tolist()),
                                   decode(masked.labels[number:number + 1].tolist()),
                                   decode(row[place + 1:min(last, place + 1 + AROUND)].tolist()), pieces))
        return found

    def _train_step(self, lr_scale: float, bar: tqdm) -> None:
        start = time.perf_counter()
        batch = self._next_batch().to(self.trainer.device)
        tokens, losses = len(batch.masked.input_ids), None
        try:
            losses = self.trainer.step(batch, lr_scale)
        except FloatingPointError as error:
            self._on_nonfinite(error)
        self.step += 1
        seconds = time.perf_counter() - start
        if losses is not None:
            self.log.write("step", step=self.step, **losses, lr=self.settings.lr * lr_scale, tokens=tokens,
                           seconds=seconds)
            bar.set_postfix_str(f"loss {losses['loss']:.3f}, {tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update()

    def _next_batch(self) -> Batch:
        """This step's batch; where there is a maker, the next step's is made during this one."""
        step, future = self._ahead
        batch = future.result() if step == self.step else self.batch(self.step)
        if self._maker is not None and self.step + 1 < self.steps:
            self._ahead = self.step + 1, self._maker.submit(self.batch, self.step + 1)
        return batch

    def _on_nonfinite(self, error: FloatingPointError) -> None:
        """Stops, or logs that the step is skipped, as --on-nonfinite says; nothing has been updated."""
        sequences = sorted(self._sequences_of(self.step).tolist())
        if self.settings.on_nonfinite == STOP:
            raise FloatingPointError(f"step {self.step + 1}: {error}; its sequences are {sequences}") from None
        self.log.write("skipped", step=self.step + 1, reason=str(error), sequences=sequences)

    def _metrics(self) -> dict:
        steps = list(self.log.events("step"))
        *_, last = self.log.events("evaluation")
        scores = {name: value for name, value in last.items() if name not in ("event", "step")}
        piece = next(piece for piece, number in self.tokenizer.vocabulary.items() if number == self.frequent)
        return {**scores, "most_frequent_piece": piece, "steps": self.step,
                "skipped_steps": sum(1 for _ in self.log.events("skipped")),
                "tokens": sum(step["tokens"] for step in steps),
                "train_seconds": sum(step["seconds"] for step in steps),
                "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in steps),
                "parameters": sum(value.numel() for value in self.trainer.model.parameters()),
                "sequences": len(self.sequences),
                "held_out_tokens_masked": sum(len(batch.masked.labels) for batch in self.held_out),
                "environment": environment(self.trainer.device, self.trainer.precision)}


def start(settings: PretrainingSettings, folder: Path, say: Callable[[str], None] = tqdm.write) -> Pretraining:
    """A new run, ready to train. Raises ValueError or OSError for bad input, before anything is written."""
    check_folder(folder)
    check_free(folder)
    device = pick_device(settings.device)
    passages = read_passages(Path(settings.text))
    if settings.second_segment == NEXT and min(map(len, split_passages(len(passages), settings.held_out))) < 2:
        raise ValueError("--second-segment next takes text from another passage, so it needs two to train on and two "
                         "that are held out; give a text of more passages, or another --held-out")
    say(f"text:  {settings.text} ({len(passages):,} passages, {sum(map(len, passages)):,} lines)")
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model, tokenizer = scratch(settings, passages, say)
    else:
        model, tokenizer = pretrained(settings, say)
    Masking.of(tokenizer)  # has it [MASK]?
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    settings = dataclasses.replace(settings, precision=precision)  # for good: --resume takes it too
    corpus = Corpus.tokenize(passages, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder)
    try:
        check_folder(folder)  # again: another run may have come and gone
        log.rewind(0)  # remains of a run that never came to a checkpoint
        settings.save(folder / SETTINGS_FILE)
        tokenizer.save_pretrained(folder)
        corpus.save(folder / CORPUS_FILE)
        return build(folder, settings, model, tokenizer, corpus, log, say)
    except BaseException:
        log.close()
        raise


def settings_of_run(folder: Path) -> PretrainingSettings:
    """What the run that --resume names was started with. Raises FileNotFoundError or ValueError if it is no run."""
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: no {SETTINGS_FILE} there, so it is no pretraining run's folder")
    return PretrainingSettings.load(folder / SETTINGS_FILE)


def resume(folder: Path, say: Callable[[str], None] = tqdm.write) -> Pretraining | None:
    """The run in `folder`, ready to go on from its last checkpoint; None if it is finished. The text is not needed."""
    settings = settings_of_run(folder)
    if (folder / METRICS_FILE).is_file():
        return None
    log = RunLog(folder)
    try:
        saved = checkpoint.load(folder)
        config, tokenizer = saved.config(), saved.tokenizer()
        if settings.length > config.max_position_embeddings:
            raise ValueError(f"{folder / SETTINGS_FILE} says --length {settings.length}, but the model in "
                             f"{saved.folder} takes sequences of up to {config.max_position_embeddings} tokens")
        corpus = Corpus.load(folder / CORPUS_FILE, tokenizer.vocab_size)
        try:
            run = build(folder, settings, model_class(settings)(config), tokenizer, corpus, log, say)
        except ValueError as error:
            raise ValueError(f"{folder / SETTINGS_FILE} and {CORPUS_FILE} make up no run ({one_line(error)})") from None
        run.restore(saved)
    except BaseException:
        log.close()
        raise
    say(f"resumed after step {run.step:,} of {run.steps:,}")
    return run


def build(folder: Path, settings: PretrainingSettings, model: BertForMaskedLM, tokenizer: BertTokenizer,
          corpus: Corpus, log: RunLog, say: Callable[[str], None]) -> Pretraining:
    """The run of these parts, at step 0."""
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    set_dropout(model, settings.dropout)
    trainer = MaskedTrainer(model.to(device), settings.lr, settings.weight_decay, settings.clip, precision)
    run = Pretraining(folder, settings, trainer, tokenizer, corpus, log, say)
    say(f"run:   {folder} ({run.steps:,} steps of {settings.batch_size} sequences of up to {settings.length} tokens, "
        f"{len(run.sequences):,} sequences; seed {settings.seed}, {device}, {precision})")
    if note := precision_note(precision, device):
        say(note)
    return run


def scratch(settings: PretrainingSettings, passages: list[list[str]],
            say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """A random model, and a vocabulary learnt from the passages that are trained on."""
    train, _ = split_passages(len(passages), settings.held_out)
    lines = [line for number in train for line in passages[number]]
    say(f"vocabulary: learning {settings.vocab_size:,} pieces from {len(lines):,} lines (some minutes for 100 MB)")
    tokenizer = BertTokenizer.train(lines, settings.vocab_size)
    model = model_class(settings)(BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=settings.hidden, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, intermediate_size=4 * settings.hidden,
        max_position_embeddings=settings.length))  # a position that is never trained would be noise
    draw_attentive(model)
    pooler = ("; its pooler stays random, since guessing tokens does not train it" if settings.second_segment != NEXT
              else "")
    say(f"model: from scratch ({size(model)}, {tokenizer.vocab_size:,} pieces){pooler}; --from CHECKPOINT goes on with "
        "another")
    return model, tokenizer


def pretrained(settings: PretrainingSettings, say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """--from's model and tokenizer. Raises ValueError if they do not fit each other or --length."""
    model = model_class(settings).from_pretrained(settings.start)
    tokenizer = BertTokenizer.from_pretrained(settings.start)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"--from {settings.start}: the tokenizer knows {tokenizer.vocab_size} pieces, the model "
                         f"{model.config.vocab_size}: they do not belong together")
    if settings.length > model.config.max_position_embeddings:
        raise ValueError(f"--length {settings.length}, but {settings.start} takes sequences of up to "
                         f"{model.config.max_position_embeddings} tokens")
    pooler = " and its pooler" if settings.second_segment != NEXT else ""
    say(f"model: {settings.start} ({size(model)}), its vocabulary{pooler} as they are")
    return model, tokenizer


def model_class(settings: PretrainingSettings) -> type[BertForMaskedLM]:
    return BertForPreTraining if settings.second_segment == NEXT else BertForMaskedLM


def size(model: BertForMaskedLM) -> str:
    return f"{sum(value.numel() for value in model.parameters()):,} parameters"


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder whose content would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if (folder / METRICS_FILE).exists():
        raise ValueError(f"--out {folder} holds a finished run; name another folder")
    if checkpoint.numbered(folder):
        raise ValueError(f"--out {folder} holds a checkpoint; go on with --resume {folder}, or name another folder")
    if (folder / SINGLE_FILE).exists():
        raise ValueError(f"--out {folder} holds a model; name another folder")
