"""The prediction files of finished runs, over all of the data: the course's two hand-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from multitask.data.examples import TEST_SPLIT, Dataset
from multitask.evaluation import predict, prediction_file, scores_of, write_predictions
from multitask.model import MultitaskBert
from multitask.tasks import NLI, Task

from .folder import CONFIG_FILE
from .settings import Settings

SPLITS = {"dev": "dev", TEST_SPLIT: "test"}  # split → its name in a prediction file's name
# The first part of the course: single tasks, in two ways of training.
PART_1_TASKS = ("sst", "cfimdb")
PART_1_MODES = {"full-model": "full", "last-linear-layer": "last-layer"}  # the course's name: ours


def part_1_file(mode: str, task: str, split: str) -> str:
    """full-model-sst-dev-out.csv and the like; mode: a key of PART_1_MODES."""
    return f"{mode}-{task}-{split}-out.csv"


def part_1_files(run: Path) -> Callable[[Path, Task, str], Path]:
    """How the course names the files of this run: (folder, task, split) → file."""
    is_last_layer = Settings.load(run / CONFIG_FILE).stages == ("fl",)
    mode = "last-linear-layer" if is_last_layer else "full-model"
    return lambda folder, task, split: folder / part_1_file(mode, task.name, split)


def hand_in(run: Path, dataset: Dataset, out: Path, device: torch.device,
            name: Callable[[Path, Task, str], Path] = prediction_file,
            ) -> tuple[dict[str, dict], list[Path]]:
    """Writes the prediction files of every split with the run's model.

    Args:
        dataset: task → split → examples; tasks that are not in it are left out.
        name: (folder, task, "dev" or "test") → the file.

    Returns:
        split → scores, for the splits that have labels; and the files.

    Raises:
        ValueError: the run ended with MultiNLI, so its heads are untrained.
    """
    if (run / CONFIG_FILE).is_file() and Settings.load(run / CONFIG_FILE).stages == (NLI.name,):
        raise ValueError(f"{run} ended with MultiNLI: its heads are untrained, so there is nothing "
                         "to hand in")

    model = MultitaskBert.from_pretrained(run).to(device)
    tasks = {task: model.tasks[task] for task in model.tasks if task in dataset}
    files: list[Path] = []
    predictions: dict[str, dict] = {split: {} for split in SPLITS}
    labels: dict[str, dict] = {split: {} for split in SPLITS}
    for task in tasks.values():
        for split in SPLITS.keys() & dataset[task.name].keys():
            examples = dataset[task.name][split]
            tokens = model.tokenize(examples)
            found = predict(model, task, tokens)
            predictions[split][task.name] = found
            files.append(write_predictions(name(out, task, SPLITS[split]), task, examples, found))
            if not np.isnan(tokens.labels).any():
                labels[split][task.name] = tokens.labels

    labelled = [split for split in SPLITS if set(labels[split]) == set(tasks)]
    scores = {split: scores_of(tasks, predictions[split], labels[split]) for split in labelled}
    return scores, sorted(files)
