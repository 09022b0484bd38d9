"""The main job: settings → data and model → stages → predictions, metrics.json, report.html."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.checkpoints.hub import EMBEDDED, HubError
from minbert.files import replacing
from minbert.files import one_line

from multitask.system import checkpoint
from multitask.analysis.dev_set import ANALYSIS_FILE, analyse
from multitask.data.course import TEST_SPLIT, Dataset, Example, Examples, left_out, load_dataset, missing_files
from multitask.system.device import pick_device, pick_precision, precision_note
from multitask.system.distributed import ALONE, Ranks, checksum
from multitask.system.environment import environment
from multitask.evaluation import PREDICTIONS_FOLDER, predict, write_predictions
from multitask.system.lock import check_free
from multitask.analysis.log import conflict_statistics, speed
from multitask.model import MultitaskBert
from multitask.data.multinli import load_multinli
from multitask.reports.run_report import write_report
from multitask.system.runlog import RunLog
from multitask.data.sample import write_sample
from .settings import Settings
from .stages import STAGES, Run, Stage, Tokens, describe
from multitask.tasks import NLI, TASKS

CONFIG_FILE, METRICS_FILE, REPORT_FILE = "config.json", "metrics.json", "report.html"
SCRATCH = "scratch"
EVAL_SEED = 0  # of --eval-limit's choice
DEFAULT_MODEL = "bert-base-uncased"  # on real data; the sample, as it runs offline, is taken with the EMBEDDED one
# --model scratch: small enough to learn the embedded sample within minutes on a laptop
SCRATCH_SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
SCRATCH_VOCABULARY = 4096


def default_data() -> str | None:
    """./data where it holds the course's files, else None: the embedded sample."""
    return None if missing_files(Path("data")) else str(Path("data").resolve())


def load_data(settings: Settings) -> Dataset:
    """All examples of the run, MultiNLI's too with --nli; dev and test cut to --eval-limit."""
    if settings.data is not None:
        dataset = _read(Path(settings.data), settings.nli)
    else:
        with tempfile.TemporaryDirectory() as folder:
            dataset = _read(write_sample(Path(folder)), settings.nli)
    return {name: {split: examples if split == "train" else limited(examples, settings.eval_limit)
                   for split, examples in splits.items()} for name, splits in dataset.items()}


def _read(folder: Path, nli: bool) -> Dataset:
    return {**load_dataset(folder), **({NLI.name: load_multinli(folder)} if nli else {})}


def limited(examples: list[Example], limit: int | None) -> list[Example]:
    """At most `limit` of them, in their order: the same choice in every run, whatever its seed."""
    if limit is None or len(examples) <= limit:
        return examples
    chosen = sorted(random.Random(EVAL_SEED).sample(range(len(examples)), limit))
    found = Examples(examples[index] for index in chosen)
    found.left_out = getattr(examples, "left_out", 0)
    return found


def build_model(settings: Settings, dataset: Dataset) -> MultitaskBert:
    """The pretrained encoder that --model names, or a random one, with fresh heads; or --start's. Seeds torch first."""
    torch.manual_seed(settings.seed)
    if settings.start is not None:
        model = MultitaskBert.from_pretrained(settings.start)
        if model.arch != settings.arch:
            raise ValueError(f"--start {settings.start} was trained with --arch {model.arch}, not {settings.arch}")
        return model
    if settings.model == SCRATCH:
        texts = [text for name in TASKS for example in dataset[name]["train"] for text in example.sentences]
        tokenizer = BertTokenizer.train(texts, SCRATCH_VOCABULARY)
        encoder = BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **SCRATCH_SHAPE))
    else:
        try:
            encoder = BertModel.from_pretrained(settings.model)
            tokenizer = BertTokenizer.from_pretrained(settings.model)
        except HubError as error:
            raise HubError(f"{error}; or --model {EMBEDDED}, which comes with minbert") from None
    return MultitaskBert(encoder, tokenizer, settings.arch)


def run_started_from(folder: Path) -> Settings:
    """The settings of the run that --start names; a chain of such runs is followed to the first for its model.

    Raises FileNotFoundError or ValueError if it is no run. Warns if it is not finished.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"--start {folder}: no {CONFIG_FILE} there, so it is no run's folder")
    if not (folder / METRICS_FILE).is_file():
        warnings.warn(f"--start {folder}: that run is not finished; its best epoch so far is taken", stacklevel=2)
    settings = Settings.load(folder / CONFIG_FILE)
    if settings.start is None:
        return settings
    return dataclasses.replace(settings, model=run_started_from(Path(settings.start)).model)


def check_run_folder(folder: Path) -> None:
    """Raises ValueError for a folder whose content would be lost."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if (folder / METRICS_FILE).exists():
        raise ValueError(f"--out {folder} holds a finished run; name another folder")
    if checkpoint.numbered(folder):
        raise ValueError(f"--out {folder} holds a checkpoint; go on with --resume {folder}, or name another folder")


def make_run_folder(settings: Settings, out: str | None) -> Path:
    """--out, or the first free runs/ARCH-GS-N; of two runs that start at once, each gets its own N."""
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)
    for number in itertools.count(1):
        folder = Path("runs") / f"{settings.arch}-{settings.gs}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def start(settings: Settings, out: str | None, say: Callable[[str], None] = print,
          dataset: Dataset | None = None, tokens: Tokens | None = None, ranks: Ranks = ALONE) -> Run:
    """A new run, ready for `execute`. Everything that the user can get wrong is checked before anything is written.

    dataset, tokens: what `load_data` would read and Run.tokens would hold, where several runs share them. ranks: the
    processes that train the run, all of which start it.
    """

    def read() -> tuple[torch.device, Dataset, MultitaskBert]:
        if out is not None:
            check_run_folder(Path(out))
            check_free(Path(out))
        device = ranks.own_device(pick_device(settings.device))
        data = dataset or load_data(settings)
        say(f"data:  {describe_data(settings, data)}")
        return device, data, build_model(settings, data)

    device, dataset, model = ranks.together(read)
    # for good: --resume takes it too
    settings = dataclasses.replace(settings, precision=pick_precision(settings.precision, device,
                                                                      model.encoder.config.hidden_size))
    ranks.check_same("precision", lambda: settings.precision)
    folder = Path(ranks.from_writer(lambda: str(make_run_folder(settings, out))))
    log = ranks.together(lambda: _new_log(folder, settings, ranks))
    try:
        run = _run(folder, settings, model, dataset, log, device, say, tokens, ranks)
        run.stage = Stage(run, settings.stages[0])
        ranks.check_same("weights", lambda: checksum(model.parameters()))
    except BaseException:
        log.close()
        raise
    return run


def settings_of_run(folder: Path) -> Settings:
    """What the run that --resume names was started with. Raises FileNotFoundError or ValueError if it is no run."""
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: no {CONFIG_FILE} there, so it is no run's folder")
    return Settings.load(folder / CONFIG_FILE)


def resume(folder: Path, say: Callable[[str], None] = print, dataset: Dataset | None = None,
           tokens: Tokens | None = None, ranks: Ranks = ALONE,
           changes: Mapping[str, object] | None = None) -> Run | None:
    """The run in `folder`, ready to go on from its last checkpoint; None if it is finished. The rest: see `start`.

    changes: new values of settings.CHANGEABLE, kept in config.json from now on.
    """
    settings = ranks.together(lambda: settings_of_run(folder))
    if (folder / METRICS_FILE).is_file():
        return None
    log = ranks.together(lambda: RunLog(folder, ranks.writes))

    def read() -> tuple[torch.device, Dataset, MultitaskBert]:
        device = ranks.own_device(pick_device(settings.device))
        data = dataset or load_data(settings)
        say(f"data:  {describe_data(settings, data)}")
        return device, data, MultitaskBert(BertModel(saved.config()), saved.tokenizer(), settings.arch)

    try:
        if (folder / METRICS_FILE).is_file():  # finished by another process just now
            log.close()
            return None
        saved = _saved(folder, ranks)
        if changes:
            settings = dataclasses.replace(settings, **changes)
            ranks.from_writer(lambda: settings.save(folder / CONFIG_FILE) or "")
        device, dataset, model = ranks.together(read)
        run = _run(folder, settings, model, dataset, log, device, say, tokens, ranks)
        run.finished = saved.value("finished")
        name, known = saved.value("stage"), settings.stages
        if name not in known or run.finished.keys() != set(known[:known.index(name)]):
            raise ValueError(f"{saved.folder / checkpoint.VALUES_FILE} is of stage {one_line(repr(name), 100)} after "
                             f"{one_line(sorted(run.finished), 100)}, but the run has {', '.join(known)}")
        run.stage = Stage(run, name)
        run.stage.restore(saved)
        ranks.check_same("weights", lambda: checksum(model.parameters()))
    except BaseException:
        log.close()
        raise
    of_stage = f"{run.stage.name} " if len(settings.stages) > 1 else ""
    place = "after" if run.stage.evaluated == run.stage.epoch else "in"
    say(f"resumed {place} {of_stage}epoch {run.stage.epoch}, step {run.stage.steps}")
    return run


def _new_log(folder: Path, settings: Settings, ranks: Ranks) -> RunLog:
    """The log of a new run, and with it the folder's lock; config.json beside it."""
    log = RunLog(folder, ranks.writes)
    try:
        if ranks.writes:
            check_run_folder(folder)  # again: another run may have come and gone
            log.rewind(0)  # remains of a run that never came to a checkpoint
            settings.save(folder / CONFIG_FILE)
    except BaseException:
        log.close()
        raise
    return log


def _saved(folder: Path, ranks: Ranks) -> checkpoint.Checkpoint:
    """The newest whole checkpoint. Raises ValueError or OSError."""
    loaded: list[checkpoint.Checkpoint] = []

    def saved() -> checkpoint.Checkpoint:
        found = loaded[0] if loaded else checkpoint.load(folder)
        before = found.values.get("processes", 1)
        if before != ranks.size:  # a batch is so many examples a process, and each has random numbers of its own
            raise ValueError(f"--resume {folder}: by {found.folder / checkpoint.VALUES_FILE} it was trained by "
                             f"{before} process(es), and here are {ranks.size}; start as many as before "
                             "(torchrun --nproc_per_node=N; python starts one)")
        return found

    ranks.from_writer(lambda: loaded.append(checkpoint.load(folder)) or "")  # first: it sets aside a damaged one
    return ranks.together(saved)


def _run(folder: Path, settings: Settings, model: MultitaskBert, dataset: Dataset, log: RunLog, device: torch.device,
         say: Callable[[str], None], tokens: Tokens | None, ranks: Ranks) -> Run:
    model.precision = pick_precision(settings.precision, device, model.encoder.config.hidden_size)
    processes = f", {ranks.size} processes" if ranks.size > 1 else ""
    say(f"model: {describe_model(settings, model)}")
    say(f"run:   {folder} (seed {settings.seed}, {device}, {model.precision}{processes})")
    if note := precision_note(model.precision, device):
        say(note)
    run = Run(folder, settings, model.to(device), dataset, log, say, ranks, tokens or {})
    ranks.check_same("data", lambda: run.fingerprint)
    ranks.check_same("tokens", lambda: str([examples.lengths.sum() for splits in run.tokens.values()
                                            for examples in splits.values()]))
    if told := describe_truncated(run):
        say(f"note:  {told}")
    return run


def describe_truncated(run: Run) -> str:
    """How many examples lose their end to the model's limit, and whose; empty if none does."""
    cut = {f"{name} {split}": tokens.truncated for name, splits in run.tokens.items()
           for split, tokens in splits.items() if tokens.truncated}
    limit = run.model.encoder.config.max_position_embeddings
    if not cut:
        return ""
    return (f"{sum(cut.values()):,} examples are longer than {limit} tokens and lose their end ("
                    + ", ".join(f"{name} {count:,}" for name, count in cut.items()) + ")")


def describe_data(settings: Settings, dataset: Dataset) -> str:
    """Which data were taken, and how to take others."""
    counts = ", ".join(f"{name} {len(splits['train']):,}" for name, splits in dataset.items())
    if settings.data is None:
        return f"the embedded sample ({counts} training examples); --data FOLDER takes the course's files"
    return f"{settings.data} ({counts} training examples); --data FOLDER takes others"


def describe_model(settings: Settings, model: MultitaskBert) -> str:
    """Which model was taken, and how to take another."""
    parameters = f"{sum(value.numel() for value in model.encoder.parameters()) / 1e6:.1f} M parameters"
    if settings.model == SCRATCH:
        return (f"scratch, a small encoder with random weights ({parameters}); --model takes a real one: "
                f"{DEFAULT_MODEL} or a checkpoint's folder")
    if settings.model == EMBEDDED:
        return (f"{EMBEDDED}, a small BERT pretrained on books that comes with minbert ({parameters}); --model takes a "
                f"larger one: {DEFAULT_MODEL} or a checkpoint's folder")
    if settings.start is not None:
        return f"{settings.start} ({parameters}), its encoder and its heads"
    return f"{settings.model} ({parameters}); --model NAME_OR_FOLDER takes another"


def execute(run: Run) -> dict:
    """Trains what is left of the stages, writes the predictions, metrics.json and report.html; returns the metrics.

    Of several processes only the one that writes has metrics to return.
    """
    stages = run.settings.stages
    while run.stage is not None:
        name = run.stage.name
        if len(stages) > 1:
            run.say(f"stage {stages.index(name) + 1} of {len(stages)}: {STAGES[name].title}")
        run.finished[name] = run.stage.fit()
        run.stage = None  # frees its gradients and moments before the next one takes its own
        if name != stages[-1]:
            best = MultitaskBert.from_pretrained(run.model_folder(name))
            best.precision = run.model.precision
            run.model = best.to(run.model.device)
            run.stage = Stage(run, stages[stages.index(name) + 1])
    return _conclude(run)


def _conclude(run: Run) -> dict:
    result = run.finished[run.settings.stages[-1]]
    _predict_test(run)
    _predict_dev(run)
    if not run.ranks.writes:
        return {}
    steps, epochs = list(run.log.events("step")), list(run.log.events("epoch"))
    metrics, analysis = collect_metrics(run, steps, epochs), _analyse(run)
    write_report(run.folder / REPORT_FILE, dataclasses.asdict(run.settings), metrics, steps, epochs, analysis)
    with replacing(run.folder / METRICS_FILE) as partial:  # last of all: its presence says that the run is finished
        partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    checkpoint.drop_older(run.folder)
    run.say(f"best epoch {result['best_epoch']}: dev {describe(result['dev'])}")
    return metrics


def _analyse(run: Run) -> dict | None:
    """Where the last stage's best epoch succeeds and fails, kept in analysis.json; None if its heads are untrained."""
    if run.settings.stages[-1] == NLI.name:
        return None
    analysis = analyse(run.dataset, run.logits)
    with replacing(run.folder / ANALYSIS_FILE) as partial:
        partial.write_text(json.dumps(analysis) + "\n", encoding="utf-8")
    return analysis


def _predict_dev(run: Run) -> None:
    """The dev logits of the last stage's best epoch, where a process before this one saw it."""
    if not run.logits and run.settings.stages[-1] != NLI.name:
        model = MultitaskBert.from_pretrained(run.folder).to(run.model.device)
        run.logits = {name: model.predict_logits(name, run.tokens[name]["dev"], run.ranks) for name in TASKS}


def _predict_test(run: Run) -> None:
    """The test predictions of the last stage's best epoch, for the tasks that have test files."""
    wanted = [task for name, task in TASKS.items() if TEST_SPLIT in run.dataset[name]]
    if not wanted or run.settings.stages[-1] == NLI.name:
        return
    model = MultitaskBert.from_pretrained(run.folder).to(run.model.device)
    for task in wanted:
        predictions = predict(model, task, run.tokens[task.name][TEST_SPLIT], run.ranks)
        if run.ranks.writes:
            write_predictions(run.folder / PREDICTIONS_FOLDER, task, "test", run.dataset[task.name][TEST_SPLIT],
                              predictions)


def collect_metrics(run: Run, steps: list[dict], epochs: list[dict]) -> dict:
    """The content of metrics.json (README, "What a run leaves behind")."""
    last = run.finished[run.settings.stages[-1]]
    surgery_steps = [step for step in steps if step["stage"] == "gs"]
    surgery = {}
    if surgery_steps:
        surgery = {"surgery": {"method": run.settings.surgery, **conflict_statistics(surgery_steps)}}
    return {
        "dev": last["dev"],
        "best_epoch": last["best_epoch"],
        "steps": len(steps),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
        "examples_per_second": speed(surgery_steps or steps),
        **surgery,
        "skipped_steps": sum(1 for _ in run.log.events("skipped")),
        "stages": run.finished,
        "examples": {name: {split: len(examples) for split, examples in splits.items()}
                     for name, splits in run.dataset.items()},
        "left_out": left_out(run.dataset),
        "truncated": {name: {split: tokens.truncated for split, tokens in splits.items()}
                      for name, splits in run.tokens.items()},
        "environment": {**environment(run.model.device, run.model.precision), "processes": run.ranks.size},
    }
