"""A run of pretraining: settings, text and model → steps → a folder that serves as --model."""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from minbert import BertTokenizer
from minbert.files import one_line, write_json
from minbert.progress import Progress
from multitask.runs.settings import STOP
from multitask.system import checkpoint
from multitask.system.console import say
from multitask.system.environment import environment
from multitask.system.interruption import Interruption, defer_signals
from multitask.system.runlog import RunLog
from multitask.system.state import (
    check_like,
    load_optimizer_state,
    optimizer_state,
    random_state,
    restore_random_state,
)
from optim import linear_decay

from .batches import MaskedBatch, TrainingBatches, held_out_batches, made_ahead
from .corpus import Corpus, split_passages
from .guesses import guess_hidden
from .report import write_pretraining_report
from .segments import MAKERS, NONE
from .settings import SAVE_DTYPES, PretrainingSettings
from .step import MaskedTrainer, evaluate

SETTINGS_FILE, CORPUS_FILE = "pretraining.json", "corpus.safetensors"
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"
GUESSES, PRINTED_GUESSES = 30, 3


class Pretraining:
    """A run between two steps.

    Attributes:
        step: how many steps are done.
        evaluated: how many were done at the last evaluation; -1 before the first.
        steps: of the whole run.
        log: must be set before `run` or `restore`; it locks the folder.
    """

    log: RunLog

    def __init__(self, folder: Path, settings: PretrainingSettings, trainer: MaskedTrainer,
                 tokenizer: BertTokenizer, corpus: Corpus) -> None:
        self.folder, self.settings, self.trainer = folder, settings, trainer
        self.tokenizer, self.corpus = tokenizer, corpus
        self.step, self.evaluated = 0, -1

        make = MAKERS[settings.second_segment]
        text, held_out = (make(corpus, passages, settings.length, tokenizer)
                          for passages in split_passages(len(corpus.ends), settings.held_out))
        if not len(text.sequences) or not len(held_out.sequences):
            raise ValueError(f"--text {one_line(settings.text)}: nothing is left to train on or to "
                             "hold out; give more text")
        self.batches = TrainingBatches(text, tokenizer, settings)
        self.held_out = held_out_batches(held_out, tokenizer)
        self.steps = settings.steps or settings.epochs * self.batches.steps_per_epoch

        self.most_frequent = self.batches.most_frequent()
        labels = torch.cat([batch.masked.labels for batch in self.held_out])
        if not len(labels):
            raise ValueError(f"--text {one_line(settings.text)}: the vocabulary knows no piece of "
                             "the held-out text; give more text, or another --from")
        self.trivial_accuracy = float((labels == self.most_frequent).double().mean())

    def run(self) -> None:
        """Trains to the last step. An interruption is passed on after a checkpoint is saved."""
        try:
            self._train()
        except Interruption:
            self.save()
            raise
        self._conclude()

    def _train(self) -> None:
        settings = self.settings
        warmup_steps = round(settings.warmup * self.steps)
        bar = Progress(total=self.steps, initial=self.step, desc="pretrain", unit="step",
                       smoothing=0.05)
        with bar, ThreadPoolExecutor(1) as pool:
            steps = range(self.step, self.steps)
            batches = map(self.batches.batch, steps)
            # on a CPU a second thread would slow the step down
            if self.trainer.device.type != "cpu":
                batches = made_ahead(self.batches.batch, steps, pool)

            while True:
                is_last = self.step == self.steps
                is_due = is_last or self.step % settings.checkpoint_every == 0
                if is_due and self.evaluated != self.step:
                    self.evaluate()
                if is_last:
                    break

                with defer_signals():
                    lr_scale = linear_decay(self.step, warmup_steps, self.steps)
                    self._train_step(batches, lr_scale, bar)

    def _train_step(self, batches: Iterator[MaskedBatch], lr_scale: float, bar: Progress) -> None:
        start = time.perf_counter()
        batch = next(batches).to(self.trainer.device)
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
        """Scores the held-out passages, logs and prints the scores, saves a checkpoint.

        Raises:
            FloatingPointError: training has diverged; the last good checkpoint stays the last.
        """
        try:
            found = evaluate(self.trainer.model, self.held_out, self.trainer.precision)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {self.step}: {error}") from None
        with defer_signals():
            self.log.write("evaluation", step=self.step, **found,
                           trivial_accuracy=self.trivial_accuracy)
            say(f"step {self.step:,} of {self.steps:,}: held-out perplexity "
                f"{found['perplexity']:.1f}, masked accuracy {found['masked_accuracy']:.3f} "
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

        tensors = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
        tensors |= optimizer_state(self.trainer.optimizer)
        tensors |= {f"random.{name}": value for name, value in random_state().items()}
        values = {"step": self.step, "evaluated": self.evaluated, "log": self.log.position,
                  "corpus": self.corpus.fingerprint}
        with defer_signals():
            checkpoint.save(self.folder, tensors, values, model.config, self.tokenizer)
            model.save_pretrained(self.folder, SAVE_DTYPES[self.settings.save_dtype])

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restores a checkpoint. Raises ValueError if it is damaged or of another run."""
        path = saved.folder / checkpoint.TENSORS_FILE
        model, weights = self.trainer.model, saved.part("model")
        try:
            check_like(weights, dict(model.named_parameters()))
            model.load_state_dict({name: weights[name] for name in model.state_dict()})
            load_optimizer_state(self.trainer.optimizer, saved.tensors)
            restore_random_state(saved.part("random"))
        except ValueError as error:
            raise ValueError(f"{path} does not fit this run: {error}") from None

        self.step, self.evaluated = saved.value("step"), saved.value("evaluated")
        if self.step > self.steps:
            raise ValueError(f"{path} was saved after step {self.step}, but {SETTINGS_FILE} ends "
                             f"the run at step {self.steps}; restore the settings that the run "
                             "was started with")
        self.log.rewind(saved.value("log"))
        for unfinished in self.folder.glob(".tmp*"):  # of safetensors
            unfinished.unlink()

    def _conclude(self) -> None:
        """Prints some guesses, writes report.html and metrics.json."""
        # A run that was killed between checkpoint and model left an older model here.
        self.trainer.model.save_pretrained(self.folder, SAVE_DTYPES[self.settings.save_dtype])
        metrics = self._metrics()
        guesses = guess_hidden(self.trainer.model, self.held_out[0], self.tokenizer,
                               self.trainer.precision, GUESSES)
        for guess in guesses[:PRINTED_GUESSES]:
            say(str(guess))

        write_pretraining_report(
            self.folder / REPORT_FILE, dataclasses.asdict(self.settings), metrics,
            list(self.log.events("step")), list(self.log.events("evaluation")), guesses)
        # metrics.json comes last: it marks the run as finished
        write_json(self.folder / METRICS_FILE, metrics)
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
            "tokens_per_second": statistics.median(rates) if rates else 0.0,
            "parameters": sum(value.numel() for value in self.trainer.model.parameters()),
            "sequences": len(self.batches.text.sequences),
            "held_out_tokens_masked": sum(len(batch.masked.labels) for batch in self.held_out),
            "environment": environment(self.trainer.device, self.trainer.precision),
        }
