"""The course's hand-in: dev and test prediction files of a finished run, over all of the data.

    python -m multitask.hand_in runs/concatB-wrap-1 --data data --out hand-in
    python -m multitask.hand_in experiments/quick --data data --out hand-in

Of a grid of experiments the run with the highest average dev score is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from . import command
from .command import Parser
from .data import TEST_SPLIT, Dataset, load_dataset
from .device import DEVICES, pick_device
from .evaluation import predict, scores_of, write_predictions
from .model import MultitaskBert
from .run import CONFIG_FILE
from .settings import Settings
from .stages import describe
from .table import TABLE_FILE
from .tasks import NLI, TASKS

SPLITS = {"dev": "dev", TEST_SPLIT: "test"}  # split → what it is called in a prediction file's name


def run_of(folder: Path) -> Path:
    """The folder itself, or of a grid the best run in it. Raises FileNotFoundError if it is neither."""
    if not (folder / TABLE_FILE).is_file():
        return folder
    best = json.loads((folder / TABLE_FILE).read_text(encoding="utf-8"))["best"]
    if best is None:
        raise FileNotFoundError(f"{folder} holds no finished experiment yet")
    return folder / best["run"]


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


def build_parser() -> Parser:
    parser = Parser("python -m multitask.hand_in", __doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a grid's")
    parser.add_argument("--data", metavar="FOLDER", default="data", help="the course's files (default: data)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("hand-in"), help="(default: hand-in)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    return parser


def write(arguments: argparse.Namespace) -> int:
    dataset, run = load_dataset(arguments.data), run_of(arguments.run)
    scores, files = hand_in(run, dataset, arguments.out, pick_device(arguments.device))
    print(f"{run}: dev {describe(scores['dev'])}")
    for path in files:
        print(path)
    for task in TASKS.values():
        if TEST_SPLIT not in dataset[task.name]:
            print(f"no test predictions of {task.name}: {task.file}-{TEST_SPLIT}.csv is not in {arguments.data}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    return command.answer("multitask.hand_in", lambda: write(arguments))


if __name__ == "__main__":
    sys.exit(main())
