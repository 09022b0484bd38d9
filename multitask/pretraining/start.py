"""Where a run of pretraining begins: a new folder, or one to resume."""

import dataclasses
from pathlib import Path

import torch

from minbert import BertConfig, BertForMaskedLM, BertTokenizer
from minbert.files import user_path
from multitask.runs.folder import check_run_folder
from multitask.system import checkpoint
from multitask.system.console import say
from multitask.system.device import pick_device, pick_precision, precision_note
from multitask.system.lock import check_free
from multitask.system.runlog import RunLog, closed_on_failure

from .corpus import Corpus, read_passages, split_passages
from .run import CORPUS_FILE, METRICS_FILE, SETTINGS_FILE, Pretraining
from .segments import NONE
from .settings import PretrainingSettings
from .step import MaskedTrainer, draw_attentive, set_dropout


def start_pretraining(settings: PretrainingSettings, folder: Path) -> Pretraining:
    """A new run, ready to train.

    Raises:
        ValueError, OSError: bad input; nothing has been written then.
    """
    check_run_folder(folder)
    check_free(folder)
    pick_device(settings.device)  # refused before the text is read
    passages = read_passages(user_path(settings.text))
    say(f"text:  {settings.text} ({len(passages):,} passages, {sum(map(len, passages)):,} lines)")

    torch.manual_seed(settings.seed)
    if settings.start is None:
        model, tokenizer = new_model(settings, passages)
    else:
        model, tokenizer = pretrained_model(settings)

    corpus = Corpus.tokenize(passages, tokenizer)
    run = _assemble(folder, settings, model, tokenizer, corpus)

    folder.mkdir(parents=True, exist_ok=True)
    with closed_on_failure(RunLog(folder)) as log:
        check_run_folder(folder)  # again: another run may have started and ended meanwhile
        log.rewind(0)  # drops what a run without a checkpoint left
        run.settings.save(folder / SETTINGS_FILE)
        tokenizer.save_pretrained(folder, model.config.max_position_embeddings)
        corpus.save(folder / CORPUS_FILE)
    run.log = log
    return run


def resume_pretraining(folder: Path, device: str | None = None) -> Pretraining | None:
    """The run in `folder`, ready to continue from its last checkpoint; None if it is finished.

    The text is not needed. Raises ValueError or OSError for a folder that cannot be used.

    Args:
        device: where it continues; by default where it was.
    """
    settings = settings_of_run(folder)
    settings = dataclasses.replace(settings, device=device or settings.device)
    if (folder / METRICS_FILE).is_file():
        return None

    with closed_on_failure(RunLog(folder)) as log:
        saved = checkpoint.load(folder)
        corpus = Corpus.load(folder / CORPUS_FILE)
        if corpus.fingerprint != saved.value("corpus"):
            raise ValueError(f"{folder / CORPUS_FILE} is not the text that {saved.folder} was made "
                             "with")
        run = _assemble(folder, settings, BertForMaskedLM(saved.config()), saved.tokenizer(),
                        corpus)
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
              tokenizer: BertTokenizer, corpus: Corpus) -> Pretraining:
    """The run of these parts, at step 0."""
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device, model.config.hidden_size)
    # saved with the run, so that --resume takes the same precision
    settings = dataclasses.replace(settings, precision=precision)
    set_dropout(model, settings.dropout)
    trainer = MaskedTrainer(model.to(device), settings.lr, settings.weight_decay, settings.clip,
                            precision)
    run = Pretraining(folder, settings, trainer, tokenizer, corpus)

    count = len(run.batches.text.sequences)
    say(f"run:   {folder} ({run.steps:,} steps of {settings.batch_size} sequences of up to "
        f"{settings.length} tokens, {count:,} sequences; seed {settings.seed}, {device}, "
        f"{precision})")
    if note := precision_note(precision, device):
        say(note)
    return run


def new_model(settings: PretrainingSettings, passages: list[list[str]]
              ) -> tuple[BertForMaskedLM, BertTokenizer]:
    """A random model, and a vocabulary learned from the training passages."""
    train, _ = split_passages(len(passages), settings.held_out)
    lines = [line for number in train for line in passages[number]]
    say(f"vocabulary: learning {settings.vocab_size:,} pieces from {len(lines):,} lines "
        "(minutes for 100 MB)")
    tokenizer = BertTokenizer.train(lines, settings.vocab_size)

    model = BertForMaskedLM(BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=settings.hidden,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        max_position_embeddings=settings.length))  # longer positions would stay untrained
    draw_attentive(model)
    say(f"model: from scratch ({count_parameters(model)} parameters, {tokenizer.vocab_size:,} "
        "pieces); its pooler stays random, since guessing tokens does not train it; --from "
        "CHECKPOINT starts from a pretrained model")
    return model, tokenizer


def pretrained_model(settings: PretrainingSettings) -> tuple[BertForMaskedLM, BertTokenizer]:
    """Model and tokenizer of --from. Raises ValueError if they or --length do not match."""
    model = BertForMaskedLM.from_pretrained(settings.start)
    tokenizer = BertTokenizer.from_pretrained(settings.start)
    config = model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"--from {settings.start}: the tokenizer knows {tokenizer.vocab_size} "
                         f"pieces, the model {config.vocab_size}: they do not belong together")
    if settings.length > config.max_position_embeddings:
        raise ValueError(f"--length {settings.length}, but {settings.start} takes sequences of up "
                         f"to {config.max_position_embeddings} tokens")
    if settings.second_segment != NONE and config.type_vocab_size < 2:
        raise ValueError(f"--second-segment {settings.second_segment}: {settings.start} has one "
                         "token type, but two segments need two")
    say(f"model: {settings.start} ({count_parameters(model)} parameters), its vocabulary and its "
        "pooler unchanged")
    return model, tokenizer


def count_parameters(model: BertForMaskedLM) -> str:
    return f"{sum(value.numel() for value in model.parameters()):,}"
