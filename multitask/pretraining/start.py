"""Where a run of pretraining begins: a new folder, or one to resume."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from minbert import BertForMaskedLM, BertTokenizer, Masking
from minbert.checkpoints.weights import SINGLE_FILE
from minbert.files import one_line, user_path
from multitask.runs.folder import check_run_folder
from multitask.system import checkpoint, console
from multitask.system.device import pick_device, pick_precision, precision_note
from multitask.system.lock import check_free
from multitask.system.runlog import RunLog, closed_on_failure

from .corpus import Corpus, read_passages
from .models import new_model, pretrained_model
from .run import CORPUS_FILE, METRICS_FILE, SETTINGS_FILE, Pretraining
from .settings import PretrainingSettings
from .step import MaskedTrainer, set_dropout


def start_pretraining(settings: PretrainingSettings, folder: Path,
                      say: Callable[[str], None] = console.say) -> Pretraining:
    """A new run, ready to train.

    Raises:
        ValueError, OSError: bad input; nothing has been written then.
    """
    check_folder(folder)
    check_free(folder)
    device = pick_device(settings.device)
    passages = read_passages(user_path(settings.text))
    say(f"text:  {settings.text} ({len(passages):,} passages, {sum(map(len, passages)):,} lines)")

    torch.manual_seed(settings.seed)
    if settings.start is None:
        model, tokenizer = new_model(settings, passages, say)
    else:
        model, tokenizer = pretrained_model(settings, say)
    Masking.of(tokenizer)  # raises ValueError without [MASK]

    # saved with the run, so that --resume takes the same precision
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    settings = dataclasses.replace(settings, precision=precision)
    corpus = Corpus.tokenize(passages, tokenizer)
    run = _assemble(folder, settings, model, tokenizer, corpus, say)

    folder.mkdir(parents=True, exist_ok=True)
    with closed_on_failure(RunLog(folder)) as log:
        check_folder(folder)  # again: another run may have started and ended meanwhile
        log.rewind(0)  # drops what a run without a checkpoint left
        settings.save(folder / SETTINGS_FILE)
        tokenizer.save_pretrained(folder)
        corpus.save(folder / CORPUS_FILE)
    run.log = log
    return run


def resume_pretraining(folder: Path,
                       say: Callable[[str], None] = console.say) -> Pretraining | None:
    """The run in `folder`, ready to continue from its last checkpoint; None if it is finished.

    The text is not needed. Raises ValueError or OSError for a folder that cannot be used.
    """
    settings = settings_of_run(folder)
    if (folder / METRICS_FILE).is_file():
        return None

    with closed_on_failure(RunLog(folder)) as log:
        saved = checkpoint.load(folder)
        config, tokenizer = saved.config(), saved.tokenizer()
        if settings.length > config.max_position_embeddings:
            raise ValueError(f"{folder / SETTINGS_FILE} says --length {settings.length}, but "
                             f"the model in {saved.folder} takes sequences of up to "
                             f"{config.max_position_embeddings} tokens")
        corpus = Corpus.load(folder / CORPUS_FILE)
        if corpus.fingerprint != saved.value("corpus"):
            raise ValueError(f"{folder / CORPUS_FILE} is not the text that {saved.folder} was made "
                             "with")
        try:
            run = _assemble(folder, settings, BertForMaskedLM(config), tokenizer, corpus, say)
        except ValueError as error:
            raise ValueError(f"{folder / SETTINGS_FILE} and {CORPUS_FILE} do not fit each other "
                             f"({one_line(error)})") from None
        run.log = log
        run.restore(saved)

    say(f"resumed after step {run.step:,} of {run.steps:,}")
    return run


def settings_of_run(folder: Path) -> PretrainingSettings:
    """The settings of the run that --resume names. Raises FileNotFoundError or ValueError."""
    if not (folder / SETTINGS_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: it has no {SETTINGS_FILE}, so it is not the "
                                "folder of a pretraining run")
    return PretrainingSettings.load(folder / SETTINGS_FILE)


def _assemble(folder: Path, settings: PretrainingSettings, model: BertForMaskedLM,
              tokenizer: BertTokenizer, corpus: Corpus,
              say: Callable[[str], None]) -> Pretraining:
    """The run of these parts, at step 0."""
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    set_dropout(model, settings.dropout)
    trainer = MaskedTrainer(model.to(device), settings.lr, settings.weight_decay, settings.clip,
                            precision)
    run = Pretraining(folder, settings, trainer, tokenizer, corpus, say)

    count = len(run.batches.text.sequences)
    say(f"run:   {folder} ({run.steps:,} steps of {settings.batch_size} sequences of up to "
        f"{settings.length} tokens, {count:,} sequences; seed {settings.seed}, {device}, "
        f"{precision})")
    if note := precision_note(precision, device):
        say(note)
    return run


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder whose content would be lost."""
    check_run_folder(folder)
    if (folder / SINGLE_FILE).exists():
        raise ValueError(f"--out {folder} holds a model; name another folder")
