"""The course's prediction files of a finished run, over all of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from multitask.data.course import TEST_SPLIT, Dataset
from multitask.evaluation import predict, scores_of, write_predictions
from multitask.model import MultitaskBert
from multitask.tasks import NLI, TASKS

from .folder import CONFIG_FILE
from .settings import Settings

SPLITS = {"dev": "dev", TEST_SPLIT: "test"}  # split → its name in a prediction file's name


def hand_in(run: Path, dataset: Dataset, out: Path,
            device: torch.device) -> tuple[dict[str, dict], list[Path]]:
    """Writes the prediction files of every split with the run's model.

    Returns:
        split → scores, for the splits that have labels; and the files.

    Raises:
        ValueError: the run ended with MultiNLI, so its heads are untrained.
    """
    if (run / CONFIG_FILE).is_file() and Settings.load(run / CONFIG_FILE).stages == (NLI.name,):
        raise ValueError(f"{run} ended with MultiNLI: its heads are untrained, so there is nothing "
                         "to hand in")

    model = MultitaskBert.from_pretrained(run).to(device)
    files: list[Path] = []
    predictions: dict[str, dict] = {split: {} for split in SPLITS}
    labels: dict[str, dict] = {split: {} for split in SPLITS}
    for name, task in TASKS.items():
        for split in SPLITS.keys() & dataset[name].keys():
            examples = dataset[name][split]
            tokens = model.tokenize(examples)
            found = predict(model, task, tokens)
            predictions[split][name] = found
            files.append(write_predictions(out, task, SPLITS[split], examples, found))
            if not np.isnan(tokens.labels).any():
                labels[split][name] = tokens.labels

    labelled = [split for split in SPLITS if set(labels[split]) == set(TASKS)]
    scores = {split: scores_of(TASKS, predictions[split], labels[split]) for split in labelled}
    return scores, sorted(files)
