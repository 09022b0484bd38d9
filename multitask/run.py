"""The main job: settings → data and model → stages → predictions, metrics.json, report.html."""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.hub import HubError
from minbert.pretrained import replacing

from . import checkpoint
from .analysis import conflict_statistics, speed
from .data import TEST_SPLIT, Dataset, load_dataset, missing_files
from .device import pick_device, pick_precision
from .evaluation import PREDICTIONS_FOLDER, predict, write_predictions
from .model import MultitaskBert
from .report import write_report
from .runlog import LOG_FILE, RunLog
from .sample import write_sample
from .settings import Settings
from .stages import GradientSurgeryStage, Run, describe
from .tasks import TASKS

CONFIG_FILE, METRICS_FILE, REPORT_FILE = "config.json", "metrics.json", "report.html"
SCRATCH = "scratch"
DEFAULT_MODEL = "bert-base-uncased"
# --model scratch: small enough to learn the embedded sample within minutes on a laptop
SCRATCH_SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
SCRATCH_VOCABULARY = 4096


def default_data() -> str | None:
    """./data where it holds the course's files, else None: the embedded sample."""
    return None if missing_files(Path("data")) else str(Path("data").resolve())


def load_data(settings: Settings) -> Dataset:
    """All examples of the run, dev and test cut to --eval-limit."""
    if settings.data is not None:
        dataset = load_dataset(settings.data)
    else:
        with tempfile.TemporaryDirectory() as folder:
            dataset = load_dataset(write_sample(Path(folder)))
    return {name: {split: examples if split == "train" else examples[:settings.eval_limit]
                   for split, examples in splits.items()} for name, splits in dataset.items()}


def build_model(settings: Settings, dataset: Dataset) -> MultitaskBert:
    """The pretrained encoder that --model names, or a random one; with fresh heads. Seeds torch first."""
    torch.manual_seed(settings.seed)
    if settings.model == SCRATCH:
        texts = [text for splits in dataset.values() for example in splits["train"] for text in example.sentences]
        tokenizer = BertTokenizer.train(texts, SCRATCH_VOCABULARY)
        encoder = BertModel(BertConfig(vocab_size=tokenizer.vocab_size, **SCRATCH_SHAPE))
    else:
        try:
            encoder = BertModel.from_pretrained(settings.model)
            tokenizer = BertTokenizer.from_pretrained(settings.model)
        except HubError as error:
            raise HubError(f"{error}; or --model {SCRATCH}, random weights", error.status) from None
    return MultitaskBert(encoder, tokenizer, settings.arch)


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


def start(settings: Settings, out: str | None, say: Callable[[str], None] = print) -> GradientSurgeryStage:
    """A new run, ready to train. Everything that the user can get wrong is checked before anything is written."""
    if out is not None:
        check_run_folder(Path(out))
    device = pick_device(settings.device)
    dataset = load_data(settings)
    say(f"data:  {describe_data(settings, dataset)}")
    model = build_model(settings, dataset)
    folder = make_run_folder(settings, out)
    (folder / LOG_FILE).unlink(missing_ok=True)  # remains of a run that never came to a checkpoint
    settings.save(folder / CONFIG_FILE)
    return GradientSurgeryStage(_run(folder, settings, model, dataset, device, say))


def resume(folder: Path, say: Callable[[str], None] = print) -> GradientSurgeryStage | None:
    """The run in `folder`, ready to go on from its last checkpoint; None if it is finished."""
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"--resume {folder}: no {CONFIG_FILE} there, so it is no run's folder")
    settings = Settings.load(folder / CONFIG_FILE)
    if (folder / METRICS_FILE).is_file():
        return None
    saved = checkpoint.load(folder)
    dataset = load_data(settings)
    say(f"data:  {describe_data(settings, dataset)}")
    run = _run(folder, settings, saved.build_model(settings.arch), dataset, pick_device(settings.device), say)
    stage = GradientSurgeryStage(run)
    try:
        stage.restore(saved)
    except ValueError:
        run.log.close()
        raise
    say(f"resumed after epoch {stage.epoch}, step {stage.steps}")
    return stage


def _run(folder: Path, settings: Settings, model: MultitaskBert, dataset: Dataset, device: torch.device,
         say: Callable[[str], None]) -> Run:
    model.precision = pick_precision(settings.precision, device)
    say(f"model: {describe_model(settings, model)}")
    say(f"run:   {folder} (seed {settings.seed}, {device}, {model.precision})")
    return Run(folder, settings, model.to(device), dataset, RunLog(folder), say)


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
    return f"{settings.model} ({parameters}); --model NAME_OR_FOLDER takes another"


def execute(stage: GradientSurgeryStage) -> dict:
    """Trains, writes the test predictions of the best epoch, metrics.json and report.html; returns the metrics."""
    run, best = stage.run, stage.fit()
    model = MultitaskBert.from_pretrained(run.folder).to(run.model.device)
    for name, task in TASKS.items():
        if TEST_SPLIT in run.dataset[name]:
            predictions = predict(model, task, run.tokens[name][TEST_SPLIT])
            write_predictions(run.folder / PREDICTIONS_FOLDER, task, "test", run.dataset[name][TEST_SPLIT],
                              predictions)
    steps, epochs = list(run.log.events("step")), list(run.log.events("epoch"))
    metrics = collect_metrics(run, best, steps)
    write_report(run.folder / REPORT_FILE, dataclasses.asdict(run.settings), metrics, steps, epochs)
    with replacing(run.folder / METRICS_FILE) as partial:  # last of all: its presence says that the run is finished
        partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    run.say(f"best epoch {best['epoch']}: dev {describe(best['dev'])}")
    return metrics


def collect_metrics(run: Run, best: dict, steps: list[dict]) -> dict:
    """The content of metrics.json (README, "What a run leaves behind")."""
    return {
        "dev": best["dev"],
        "best_epoch": best["epoch"],
        "steps": len(steps),
        "train_seconds": sum(step["seconds"] for step in steps),
        "examples_per_second": speed(steps),
        "surgery": {"method": run.settings.surgery, **conflict_statistics(steps)},
        "stages": {"gs": {"dev": best["dev"], "best_epoch": best["epoch"], "steps": len(steps)}},
        "examples": {name: {split: len(examples) for split, examples in splits.items()}
                     for name, splits in run.dataset.items()},
        "environment": {"torch": torch.__version__, "python": platform.python_version(),
                        "device": str(run.model.device), "threads": torch.get_num_threads(),
                        "precision": run.model.precision, "machine": platform.machine()},
    }
