"""The course's prediction files of a finished run, over all of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from multitask.data.course import TEST_SPLIT, Dataset
from multitask.evaluation import predict, scores_of, write_predictions
from multitask.model import MultitaskBert
from multitask.tasks import NLI, TASKS

from .run import CONFIG_FILE
from .settings import Settings

SPLITS = {"dev": "dev", TEST_SPLIT: "test"}  # split → what it is called in a prediction file's name


def hand_in(run: Path, dataset: Dataset, out: Path, device: torch.device) -> tuple[dict[str, dict], list[Path]]:
    """Writes the prediction files of every split with the run's model.

    Returns split → scores, for the splits whose labels are there, and the files.
    """
    if (run / CONFIG_FILE).is_file() and Settings.load(run / CONFIG_FILE).stages == (NLI.name,):
        raise ValueError(f"{run} ended with MultiNLI: its heads are untrained, so there is nothing to hand in")
    model = MultitaskBert.from_pretrained(run).to(device)
    files: list[Path] = []
    predictions: dict[str, dict] = {split: {} for split in SPLITS}
    labels: dict[str, dict] = {split: {} for split in SPLITS}
    for name, task in TASKS.items():
        for split in SPLITS.keys() & dataset[name].keys():
            tokens = model.tokenize(dataset[name][split])
            predictions[split][name] = predict(model, task, tokens)
            files.append(write_predictions(out, task, SPLITS[split], dataset[name][split], predictions[split][name]))
            if not np.isnan(tokens.labels).any():
                labels[split][name] = tokens.labels
    return {split: scores_of(TASKS, predictions[split], labels[split]) for split in SPLITS
            if set(labels[split]) == set(TASKS)}, sorted(files)
