"""The data and the model of a run, and the lines that tell the user which ones were taken."""

import dataclasses
import random
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.checkpoints.hub import EMBEDDED, HubError
from minbert.files import one_line
from multitask.data.batching import TokenizedExamples
from multitask.data.examples import Dataset, Example, Examples, load_dataset, missing_files
from multitask.data.multinli import load_multinli
from multitask.data.sample import write_sample
from multitask.description import SAMPLE
from multitask.model import HEADS_FILE, MultitaskBert
from multitask.task_file import choose_tasks
from multitask.tasks import NLI, TASKS, Task

from .folder import CONFIG_FILE, check_drawn
from .settings import NO_SURGERY_STAGE, Settings

Tokens = dict[str, dict[str, TokenizedExamples]]  # task → split → examples

DEFAULT_MODEL = "bert-base-uncased"  # on real data; the sample takes EMBEDDED, which is offline
EVAL_SEED = 0  # of the choice that --eval-limit makes

# --model scratch: small enough to learn the embedded sample within minutes on a laptop
SCRATCH = "scratch"
SCRATCH_SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 512}
SCRATCH_VOCABULARY = 4096


def default_data(tasks: Iterable[Task] = tuple(TASKS.values()),
                 before: Settings | None = None) -> str | None:
    """./data if it holds the built-in tasks' files, else None: the embedded sample.

    Args:
        before: the run that --start names, whose data come first.
    """
    built_in = [task for task in tasks if not task.has_own_files]
    if built_in and before is not None and (before.data or before.uses_sample):
        if before.data and not Path(before.data).is_dir():
            raise FileNotFoundError(f"{before.data}, the data of the run that --start names, are "
                                    "not there any more: name their folder with --data")
        return before.data
    if not built_in or missing_files(Path("data"), built_in):
        return None
    return str(Path("data").resolve())


def load_data(settings: Settings) -> Dataset:
    """All examples of the run, with --nli MultiNLI's too; dev and test are cut to --eval-limit."""
    if settings.nli and settings.data is None and not settings.uses_sample:
        raise ValueError("--nli: the tasks' own files hold no MultiNLI; name the folder that holds "
                         "it with --data, in a new run")
    outside = [task.name for task in settings.tasks
               if not task.has_own_files and task.name not in TASKS]
    if settings.data is None and outside:
        raise ValueError(f"the embedded sample has {', '.join(TASKS)}, but not {outside[0]}: name "
                         "the folder of its files with --data")
    if settings.data is not None:
        dataset = _read(Path(settings.data), settings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            dataset = _read(write_sample(Path(folder)), settings)

    for splits in dataset.values():
        for split in splits.keys() - {"train"}:
            splits[split] = subsample(splits[split], settings.eval_limit)
    return dataset


def _read(folder: Path, settings: Settings) -> Dataset:
    dataset = load_dataset(folder, settings.tasks)
    if settings.nli:
        dataset[NLI.name] = load_multinli(folder)
    return dataset


def check_data(settings: Settings) -> None:
    """Raises ValueError if --data names a folder from which nothing is read."""
    if settings.data is not None and not settings.nli and _have_own_files(settings.tasks):
        raise ValueError(f"--data {settings.data}: no task reads from it, since all have files of "
                         "their own; leave it out, and name the task file with --tasks if files "
                         "have moved")


def _have_own_files(tasks: Iterable[Task]) -> bool:
    return all(task.has_own_files for task in tasks)


def moved_tasks(settings: Settings, text: str) -> tuple[Task, ...]:
    """The tasks that --tasks names. Raises ValueError unless they are the run's but for files."""
    tasks = choose_tasks(text)
    names, own_names = ([task.name for task in some] for some in (tasks, settings.tasks))
    if names != own_names:
        raise ValueError(f"--tasks {text} describes other tasks than those of the run, which are "
                         f"{', '.join(own_names)}")
    for task, own in zip(tasks, settings.tasks, strict=True):
        before = _but_for_files(own)
        for key, value in _but_for_files(task).items():
            if value != before[key]:
                found, expected = (one_line(repr(getattr(each, key)), 80) for each in (task, own))
                raise ValueError(f"--tasks {text}: {key} of {task.name} is {found}, but it was "
                                 f"{expected} when the run was trained")
    return tasks


def _but_for_files(task: Task) -> dict[str, object]:
    # a test file may be new, and a task file no longer has the last of these
    return dataclasses.asdict(dataclasses.replace(task, train="-", dev=task.dev and "-", test="",
                                                  prediction_column=""))


def settings_of_run(run: Path, data: str | Path | None = None,
                    tasks: str | None = None) -> Settings:
    """The settings with which to read a run's data again: all tasks' examples, without MultiNLI.

    Args:
        run: a run's folder, or one that holds its model/ alone if `data` is given or its tasks have
            files of their own.
        data: a folder in place of the run's own.
        tasks: as --tasks names them, if their files have moved.

    Raises:
        ValueError, OSError: the folder does not say what the run was trained on.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: there is no such folder")
    if (run / HEADS_FILE).is_file():
        raise ValueError(f"{run} holds only the model of a run: name the run's folder, "
                         f"{run.parent}")
    if (run / CONFIG_FILE).is_file():
        settings = Settings.load(run / CONFIG_FILE)
        check_drawn(run, settings)
    else:
        model = MultitaskBert.from_pretrained(run)
        settings = Settings(model.arch, NO_SURGERY_STAGE, fl=True,
                            tasks=tuple(model.tasks.values()))
        if data is None and not _have_own_files(settings.tasks):
            raise ValueError(f"{run} has no {CONFIG_FILE} that names its data: name them with "
                             "--data")
    if data is not None or _have_own_files(settings.tasks):
        settings = dataclasses.replace(settings, data=None if data is None else str(data))
    if tasks is not None:
        settings = dataclasses.replace(settings, tasks=moved_tasks(settings, tasks))
    settings = dataclasses.replace(settings, nli=False, batch_sizes={})  # tasks may be left out
    check_data(settings)
    return settings


def subsample(examples: list[Example], limit: int | None) -> list[Example]:
    """At most `limit` examples in their order: the same choice in every run, whatever its seed."""
    if limit is None or len(examples) <= limit:
        return examples

    chosen = sorted(random.Random(EVAL_SEED).sample(range(len(examples)), limit))
    some = Examples(examples[index] for index in chosen)
    some.left_out = getattr(examples, "left_out", 0)
    return some


def build_model(settings: Settings, dataset: Dataset) -> MultitaskBert:
    """The model of a new run: that of --start, or the encoder of --model with new heads.

    Seeds torch's global generator first.

    Raises:
        ValueError: the run that --start names has another architecture.
        HubError: the checkpoint can neither be found nor fetched.
    """
    torch.manual_seed(settings.seed)
    if settings.start is not None:
        model = MultitaskBert.from_pretrained(settings.start)
        if model.arch != settings.arch:
            raise ValueError(f"--start {settings.start} was trained with --arch {model.arch}, not "
                             f"{settings.arch}")
        new = new_model(model.encoder, model.tokenizer, settings).take_heads(model)
        taken = list(model.heads.values())
        if fresh := [name for name, head in new.heads.items() if head not in taken]:
            warnings.warn(f"--start {settings.start}: the heads of {', '.join(fresh)} are new, "
                          "since that run has no such task, or one with other labels",
                          stacklevel=2)
        return new

    if settings.model == SCRATCH:
        texts: list[str] = []
        for task in settings.tasks:
            for example in dataset[task.name]["train"]:
                texts += example.sentences
        tokenizer = BertTokenizer.train(texts, SCRATCH_VOCABULARY)
        encoder = BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **SCRATCH_SHAPE))
    else:
        try:
            encoder = BertModel.from_pretrained(settings.model)
            tokenizer = BertTokenizer.from_pretrained(settings.model)
        except HubError as error:
            advice = f"or use --model {EMBEDDED}, which is included in minbert"
            raise HubError(f"{error}; {advice}") from None
    return new_model(encoder, tokenizer, settings)


def new_model(encoder: BertModel, tokenizer: BertTokenizer, settings: Settings) -> MultitaskBert:
    """The model of a run, with heads that are not trained yet."""
    data = SAMPLE if settings.uses_sample else settings.data or ""
    return MultitaskBert(encoder, tokenizer, settings.arch, tasks=settings.tasks,
                         max_length=settings.max_length, data=data)


def tokenize(model: MultitaskBert, dataset: Dataset) -> Tokens:
    """The data, tokenized as the model's architecture takes them."""
    return {name: {split: model.tokenize(examples) for split, examples in splits.items()}
            for name, splits in dataset.items()}


def describe_data(settings: Settings, dataset: Dataset) -> str:
    """Which data were taken, and how to take others."""
    counts = ", ".join(f"{name} {len(splits['train']):,}" for name, splits in dataset.items())
    others = "; --data FOLDER takes others" if settings.data else ""
    if settings.uses_sample:
        others = "; --data FOLDER takes the course's files"
    return f"{settings.data_title} ({counts} training examples){others}"


def describe_model(settings: Settings, model: MultitaskBert) -> str:
    """Which model was taken, and how to take another."""
    count = sum(value.numel() for value in model.encoder.parameters())
    parameters = f"{count / 1e6:.1f} M parameters"

    if settings.model == SCRATCH:
        return (f"scratch, a small encoder with random weights ({parameters}); --model takes a "
                f"real one: {DEFAULT_MODEL} or a checkpoint's folder")
    if settings.model == EMBEDDED:
        return (f"{EMBEDDED}, a small BERT pretrained on books that comes with minbert "
                f"({parameters}); --model takes a larger one: {DEFAULT_MODEL} or a checkpoint's "
                "folder")
    if settings.start is not None:
        return f"{settings.start} ({parameters}), its encoder, and its heads for the same tasks"
    return f"{settings.model} ({parameters}); --model NAME_OR_FOLDER takes another"


def describe_truncated(tokens: Tokens, limit: int) -> str:
    """How many examples are cut at `limit` tokens, by task and split; empty if none is."""
    cut = {f"{name} {split}": examples.truncated for name, splits in tokens.items()
           for split, examples in splits.items() if examples.truncated}
    if not cut:
        return ""

    counts = ", ".join(f"{name} {count:,}" for name, count in cut.items())
    total = sum(cut.values())
    verb = "example is" if total == 1 else "examples are"
    return f"{total:,} {verb} longer than {limit} tokens and will be cut ({counts})"
