"""The prediction files of finished runs, over all of the data: the course's two hand-ins."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from minbert.files import read_object
from multitask.data.examples import TEST_SPLIT, Dataset
from multitask.evaluation import prediction_file, scores_of, write_predictions
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .folder import CONFIG_FILE, is_run, load_settings
from .settings import NO_SURGERY_STAGE

SPLITS = {"dev": "dev", TEST_SPLIT: "test"}  # split → its name in a prediction file's name
# The first part of the course: single tasks, in two ways of training.
PART_1_TASKS = ("sst", "cfimdb")
PART_1_MODES = {"full-model": "full", "last-linear-layer": "last-layer"}  # the course's name: ours


def part_1_file(mode: str, task: str, split: str) -> str:
    """full-model-sst-dev-out.csv and the like; mode: a key of PART_1_MODES."""
    return f"{mode}-{task}-{split}-out.csv"


def part_1_files(run: Path) -> Callable[[Path, Task, str], Path]:
    """How the course names the files of this run: (folder, task, split) → file."""
    is_last_layer = load_settings(run, "--course part1").stages == ("fl",)
    mode = "last-linear-layer" if is_last_layer else "full-model"
    return lambda folder, task, split: folder / part_1_file(mode, task.name, split)


def hand_in(run: Path, dataset: Dataset, out: Path, device: torch.device,
            name: Callable[[Path, Task, str], Path] = prediction_file,
            ) -> tuple[dict[str, dict], list[Path]]:
    """Writes the prediction files of every split with the run's model.

    Returns:
        The scores and the files: see `scores_by_split` and `write_files`.

    Raises:
        ValueError: the run ended with MultiNLI, so its heads are untrained.
    """
    model = trained_model(run).to(device)
    logits = logits_of(model, dataset)
    files = write_files(model.tasks, dataset, logits, out, name)
    return scores_by_split(model.tasks, dataset, logits), files


def trained_model(run: Path) -> MultitaskBert:
    """Of a run's folder. Warns if it is a baseline, which trains the head of sst only.

    Raises:
        ValueError: the run ended with MultiNLI, so its heads are untrained.
    """
    about = read_object(run / CONFIG_FILE) if is_run(run) else {}  # model/ is not a run
    trains_heads = about.get("fl") or about.get("gs") != NO_SURGERY_STAGE
    if about.get("nli") and not trains_heads:
        raise ValueError(f"{run} ended with MultiNLI: its heads are untrained")
    model = MultitaskBert.from_pretrained(run)
    others = [name for name in model.tasks if name != "sst"]
    if others and not trains_heads and about.get("start") is None:
        warnings.warn(f"{run} is a baseline, which trains the head of sst only: those of "
                      f"{', '.join(others)} are untrained", stacklevel=2)
    return model


def logits_of(model: MultitaskBert, dataset: Dataset) -> dict[str, dict[str, torch.Tensor]]:
    """task → split → raw outputs (n, outputs), of the dev and test sets in `dataset`."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for task in model.tasks:
        for split in sorted(SPLITS.keys() & dataset.get(task, {}).keys()):
            tokens = model.tokenize(dataset[task][split])
            found.setdefault(task, {})[split] = model.predict_logits(task, tokens)
    return found


def write_files(tasks: Mapping[str, Task], dataset: Dataset,
                logits: Mapping[str, Mapping[str, torch.Tensor]], out: Path,
                name: Callable[[Path, Task, str], Path] = prediction_file) -> list[Path]:
    """Writes a prediction file of every task and split, and returns the files.

    Args:
        dataset: task → split → examples.
        logits: task → split → raw outputs, of the tasks that are wanted.
        name: (folder, task, "dev" or "test") → the file.
    """
    files: list[Path] = []
    for task, by_split in logits.items():
        for split, outputs in by_split.items():
            path = name(out, tasks[task], SPLITS[split])
            files.append(write_predictions(path, tasks[task], dataset[task][split],
                                           tasks[task].decode(outputs).numpy()))
    return sorted(files)


def scores_by_split(tasks: Mapping[str, Task], dataset: Dataset,
                    logits: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict]:
    """split → scores, for the splits that have labels."""
    tasks = {task: tasks[task] for task in logits}
    scores = {split: scores_on(split, tasks, dataset, logits) for split in SPLITS}
    return {split: found for split, found in scores.items() if found}


def scores_on(split: str, tasks: Mapping[str, Task], dataset: Dataset,
              logits: Mapping[str, Mapping[str, torch.Tensor]]) -> dict | None:
    """What `scores_of` returns; None if examples of some task have no labels."""
    predictions, labels = {}, {}
    for name, task in tasks.items():
        examples = dataset[name].get(split, [])
        if not examples or any(example.label is None for example in examples):
            return None
        predictions[name] = task.decode(logits[name][split]).numpy()
        labels[name] = np.array([example.label for example in examples], dtype=np.float32)
    return scores_of(tasks, predictions, labels)
