"""A run of pretraining: settings, text and model → steps → a folder that serves as --model."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from minbert import BertForMaskedLM, BertTokenizer, Masking
from minbert.checkpoints.weights import SINGLE_FILE
from minbert.files import one_line, replacing
from multitask.runs.settings import STOP
from multitask.system import checkpoint
from multitask.system.device import pick_device, pick_precision, precision_note
from multitask.system.environment import environment
from multitask.system.interruption import Interruption, defer_signals
from multitask.system.lock import check_free
from multitask.system.runlog import RunLog
from multitask.system.state import random_state, restore_random_state
from optim import linear_decay

from .batches import Prefetch, TrainingBatches, held_out_batches
from .corpus import Corpus, read_passages, split_passages
from .guesses import guess_hidden
from .models import new_model, pretrained_model
from .report import write_pretraining_report
from .segments import MAKERS, NONE
from .settings import SAVE_DTYPES, PretrainingSettings
from .step import MaskedTrainer, evaluate, restore, set_dropout, state_of

SETTINGS_FILE, CORPUS_FILE = "pretraining.json", "corpus.safetensors"
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
GUESSES, PRINTED_GUESSES = 30, 3


class Pretraining:
    """A run between two steps.

    Attributes:
        step: how many steps are done.
        evaluated: how many were done at the last evaluation; -1 before the first.
        steps: of the whole run.
    """

    def __init__(self, folder: Path, settings: PretrainingSettings, trainer: MaskedTrainer,
                 tokenizer: BertTokenizer, corpus: Corpus, log: RunLog,
                 say: Callable[[str], None]) -> None:
        self.folder, self.settings, self.trainer = folder, settings, trainer
        self.tokenizer, self.corpus, self.log, self.say = tokenizer, corpus, log, say
        self.step, self.evaluated = 0, -1

        make = MAKERS[settings.second_segment]
        text, held_out = (make(corpus, passages, settings.length, tokenizer)
                          for passages in split_passages(len(corpus.ends), settings.held_out))
        if not len(text.sequences) or not len(held_out.sequences):
            raise ValueError(f"--text {one_line(settings.text)}: nothing is left to train on or to "
                             "hold out; give more text")
        self.batches = TrainingBatches(text, tokenizer, settings)
        self._next_batch = self.batches.batch
        self.held_out = held_out_batches(held_out, tokenizer)
        self.steps = settings.steps or settings.epochs * self.batches.steps_per_epoch

        self.most_frequent = self.batches.most_frequent()
        labels = torch.cat([batch.masked.labels for batch in self.held_out])
        self.trivial_accuracy = float((labels == self.most_frequent).double().mean())

    def run(self) -> bool:
        """Trains to the last step or until --max-minutes are over; returns whether it finished.

        An interruption is passed on after a checkpoint has been saved.
        """
        try:
            self._train()
        except Interruption:
            self.save()
            raise

        if self.step < self.steps:
            return False
        self._conclude()
        return True

    def _train(self) -> None:
        settings = self.settings
        warmup_steps = round(settings.warmup * self.steps)
        limit = None if settings.max_minutes is None else 60 * settings.max_minutes
        begun = time.monotonic()

        bar = tqdm(total=self.steps, initial=self.step, desc="pretrain", unit="step",
                   smoothing=0.05)
        with bar, ThreadPoolExecutor(1) as pool:
            if self.trainer.device.type != "cpu":  # on a CPU a second thread would slow the step down
                self._next_batch = Prefetch(self.batches.batch, self.steps, pool).batch

            is_last = self.step == self.steps
            while True:
                is_due = is_last or self.step % settings.checkpoint_every == 0
                if is_due and self.evaluated != self.step:
                    self.evaluate()
                if is_last:
                    break

                is_over = limit is not None and time.monotonic() - begun > limit
                with defer_signals():
                    self._train_step(linear_decay(self.step, warmup_steps, self.steps), bar)
                is_last = is_over or self.step == self.steps

    def _train_step(self, lr_scale: float, bar: tqdm) -> None:
        start = time.perf_counter()
        batch = self._next_batch(self.step).to(self.trainer.device)
        tokens = len(batch.masked.input_ids)
        loss = None
        try:
            loss = self.trainer.step(batch, lr_scale)
        except FloatingPointError as error:
            self._on_nonfinite(error)
        self.step += 1
        seconds = time.perf_counter() - start

        if loss is not None:
            self.log.write("step", step=self.step, loss=loss, lr=self.settings.lr * lr_scale,
                           tokens=tokens, seconds=seconds)
            rate = tokens / seconds
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s", refresh=False)
        bar.update()

    def _on_nonfinite(self, error: FloatingPointError) -> None:
        """Stops, or logs the step as skipped, as --on-nonfinite says; nothing has been updated."""
        sequences = sorted(self.batches.sequences_of(self.step).tolist())
        if self.settings.on_nonfinite == STOP:
            raise FloatingPointError(f"step {self.step + 1}: {error}; its sequences are "
                                     f"{sequences}") from None
        self.log.write("skipped", step=self.step + 1, reason=str(error), sequences=sequences)

    def evaluate(self) -> None:
        """Scores the held-out passages, logs and prints the scores, saves a checkpoint."""
        found = evaluate(self.trainer.model, self.held_out, self.trainer.precision)
        with defer_signals():
            self.log.write("evaluation", step=self.step, **found,
                           trivial_accuracy=self.trivial_accuracy)
            self.say(f"step {self.step:,} of {self.steps:,}: "
                     f"held-out perplexity {found['perplexity']:.1f}, "
                     f"masked accuracy {found['masked_accuracy']:.3f} "
                     f"(always the most frequent piece: {self.trivial_accuracy:.3f})")
            self.evaluated = self.step
            self.save()

    def save(self) -> None:
        """Saves a checkpoint to resume from, and the model.

        Raises:
            FloatingPointError: the weights are not finite; the last good checkpoint stays the last.
        """
        model = self.trainer.model
        if not torch.isfinite(self.trainer.flat.vector).all():
            raise FloatingPointError(f"step {self.step}: the weights are no longer finite")

        if self.settings.start is None and self.settings.second_segment == NONE:
            # Token type 1 was never trained: fine-tuning finds it equal to type 0, not random.
            types = model.encoder.embeddings.token_type_embeddings.weight
            with torch.no_grad():
                types[1:] = types[0]

        tensors = state_of(self.trainer)
        tensors |= {f"random.{name}": value for name, value in random_state().items()}
        values = {"step": self.step, "evaluated": self.evaluated, "log": self.log.position,
                  "corpus": self.corpus.fingerprint}
        with defer_signals():
            checkpoint.save(self.folder, tensors, values, model.config, self.tokenizer)
            model.save_pretrained(self.folder, SAVE_DTYPES[self.settings.save_dtype])

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Takes over a checkpoint's state. Raises ValueError if it is damaged or of another
        text."""
        if saved.value("corpus") != self.corpus.fingerprint:
            raise ValueError(f"{self.folder / CORPUS_FILE} is not the text that {saved.folder} "
                             "was made with")

        path = saved.folder / checkpoint.TENSORS_FILE
        try:
            restore(self.trainer, saved.tensors)
            restore_random_state(saved.part("random"))
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it lacks {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} does not fit this run: {error}") from None

        self.step, self.evaluated = saved.value("step"), saved.value("evaluated")
        if not self.evaluated <= self.step <= self.steps:
            raise ValueError(f"{saved.folder / checkpoint.VALUES_FILE} is of step {self.step}, "
                             f"evaluated at {self.evaluated}, of {self.steps} steps")
        self.log.rewind(saved.value("log"))
        for left_over in self.folder.glob(".tmp*"):  # of a file that safetensors could not finish
            left_over.unlink()

    def _conclude(self) -> None:
        """Prints some guesses, writes report.html and metrics.json."""
        metrics = self._metrics()
        guesses = guess_hidden(self.trainer.model, self.held_out[0], self.tokenizer,
                               self.trainer.precision, GUESSES)
        for guess in guesses[:PRINTED_GUESSES]:
            self.say(str(guess))

        write_pretraining_report(
            self.folder / REPORT_FILE, dataclasses.asdict(self.settings), metrics,
            list(self.log.events("step")), list(self.log.events("evaluation")), guesses)
        # metrics.json comes last: it marks the run as finished
        with replacing(self.folder / METRICS_FILE) as partial:
            partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        checkpoint.drop_older(self.folder)

    def _metrics(self) -> dict:
        steps = list(self.log.events("step"))
        *_, last = self.log.events("evaluation")
        scores = {name: value for name, value in last.items() if name not in ("event", "step")}
        pieces = {number: piece for piece, number in self.tokenizer.vocabulary.items()}
        rates = [step["tokens"] / step["seconds"] for step in steps]
        return {
            **scores,
            "most_frequent_piece": pieces[self.most_frequent],
            "steps": self.step,
            "skipped_steps": len(list(self.log.events("skipped"))),
            "tokens": sum(step["tokens"] for step in steps),
            "train_seconds": sum(step["seconds"] for step in steps),
            "tokens_per_second": statistics.median(rates),
            "parameters": sum(value.numel() for value in self.trainer.model.parameters()),
            "sequences": len(self.batches.text.sequences),
            "held_out_tokens_masked": sum(len(batch.masked.labels) for batch in self.held_out),
            "environment": environment(self.trainer.device, self.trainer.precision),
        }


# ------------------------------------------------------------------------ start and resume


def start_pretraining(settings: PretrainingSettings, folder: Path,
                      say: Callable[[str], None] = tqdm.write) -> Pretraining:
    """A new run, ready to train.

    Raises:
        ValueError, OSError: bad input; nothing has been written then.
    """
    check_folder(folder)
    check_free(folder)
    device = pick_device(settings.device)
    passages = read_passages(Path(settings.text))
    say(f"text:  {settings.text} ({len(passages):,} passages, {sum(map(len, passages)):,} lines)")

    torch.manual_seed(settings.seed)
    make_model = new_model if settings.start is None else pretrained_model
    model, tokenizer = make_model(settings, passages, say)
    Masking.of(tokenizer)  # raises ValueError without [MASK]

    # saved with the run, so that --resume takes the same precision
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    settings = dataclasses.replace(settings, precision=precision)
    corpus = Corpus.tokenize(passages, tokenizer)

    folder.mkdir(parents=True, exist_ok=True)
    with _log_of(folder) as log:
        check_folder(folder)  # again: another run may have started and ended meanwhile
        log.rewind(0)  # drops what a run without a checkpoint left
        settings.save(folder / SETTINGS_FILE)
        tokenizer.save_pretrained(folder)
        corpus.save(folder / CORPUS_FILE)
        return _assemble(folder, settings, model, tokenizer, corpus, log, say)


def resume_pretraining(folder: Path, say: Callable[[str], None] = tqdm.write) -> Pretraining | None:
    """The run in `folder`, ready to continue from its last checkpoint; None if it is finished.

    The text is not needed. Raises ValueError or OSError for a folder that cannot be used.
    """
    settings = settings_of_run(folder)
    if (folder / METRICS_FILE).is_file():
        return None

    with _log_of(folder) as log:
        saved = checkpoint.load(folder)
        config, tokenizer = saved.config(), saved.tokenizer()
        if settings.length > config.max_position_embeddings:
            raise ValueError(f"{folder / SETTINGS_FILE} says --length {settings.length}, but "
                             f"the model in {saved.folder} takes sequences of up to "
                             f"{config.max_position_embeddings} tokens")
        corpus = Corpus.load(folder / CORPUS_FILE, tokenizer.vocab_size)
        try:
            run = _assemble(folder, settings, BertForMaskedLM(config), tokenizer, corpus, log, say)
        except ValueError as error:
            raise ValueError(f"{folder / SETTINGS_FILE} and {CORPUS_FILE} do not fit each other "
                             f"({one_line(error)})") from None
        run.restore(saved)

    say(f"resumed after step {run.step:,} of {run.steps:,}")
    return run


def settings_of_run(folder: Path) -> PretrainingSettings:
    """The settings of the run that --resume names. Raises FileNotFoundError or ValueError."""
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: it has no {SETTINGS_FILE}, so it is not the "
                                "folder of a pretraining run")
    return PretrainingSettings.load(folder / SETTINGS_FILE)


@contextmanager
def _log_of(folder: Path) -> Iterator[RunLog]:
    """The folder's log, closed again if the run does not come to its first step."""
    log = RunLog(folder)
    try:
        yield log
    except BaseException:
        log.close()
        raise


def _assemble(folder: Path, settings: PretrainingSettings, model: BertForMaskedLM,
              tokenizer: BertTokenizer, corpus: Corpus, log: RunLog,
              say: Callable[[str], None]) -> Pretraining:
    """The run of these parts, at step 0."""
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    set_dropout(model, settings.dropout)
    trainer = MaskedTrainer(model.to(device), settings.lr, settings.weight_decay, settings.clip,
                            precision)
    run = Pretraining(folder, settings, trainer, tokenizer, corpus, log, say)

    count = len(run.batches.text.sequences)
    say(f"run:   {folder} ({run.steps:,} steps of {settings.batch_size} sequences of up to "
        f"{settings.length} tokens, {count:,} sequences; seed {settings.seed}, {device}, {precision})")
    if note := precision_note(precision, device):
        say(note)
    return run


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder whose content would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if (folder / METRICS_FILE).exists():
        raise ValueError(f"--out {folder} holds a finished run; name another folder")
    if checkpoint.numbered(folder):
        raise ValueError(f"--out {folder} holds a checkpoint; resume it with --resume {folder}, "
                         "or name another folder")
    if (folder / SINGLE_FILE).exists():
        raise ValueError(f"--out {folder} holds a model; name another folder")
