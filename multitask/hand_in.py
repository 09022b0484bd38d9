"""The course's hand-in: dev and test prediction files of a finished run, over all of the data.

    python -m multitask.hand_in runs/concatB-wrap-1 --out hand-in
    python -m multitask.hand_in experiments/quick --data data --out hand-in

The data are those of the run, whole, unless --data names others. From a grid of experiments it
takes the run with the highest average dev score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from os.path import expanduser
from pathlib import Path

from minbert.files import user_path
from multitask.data.course import TEST_SPLIT, Dataset, load_dataset
from multitask.evaluation import describe
from multitask.experiments.table import TABLE_FILE
from multitask.runs.folder import CONFIG_FILE
from multitask.runs.hand_in import hand_in
from multitask.runs.inputs import load_data
from multitask.runs.settings import Settings
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, pick_device
from multitask.tasks import TASKS


def run_of(folder: Path) -> Path:
    """The folder itself; of a grid, its best run, or FileNotFoundError if none is finished."""
    if not (folder / TABLE_FILE).is_file():
        return folder

    best = json.loads((folder / TABLE_FILE).read_text(encoding="utf-8"))["best"]
    if best is None:
        raise FileNotFoundError(f"{folder} holds no finished experiment yet")
    return folder / best["run"]


def data_of(run: Path, folder: str | None) -> tuple[str, Dataset]:
    """The data's name and content: the given folder, or all of what the run was trained on."""
    if folder is None and not (run / CONFIG_FILE).is_file():
        raise ValueError(f"{run} has no {CONFIG_FILE} that names its data: name them with --data")
    if folder is not None:
        return folder, load_dataset(folder)

    settings = dataclasses.replace(Settings.load(run / CONFIG_FILE), nli=False, eval_limit=None)
    return settings.data or "the embedded sample", load_data(settings)


def build_parser() -> Parser:
    parser = Parser("python -m multitask.hand_in", __doc__)
    parser.add_argument("run", type=user_path, help="a run's folder, or a grid's")
    parser.add_argument("--data", type=expanduser, metavar="FOLDER",
                        help="the course's files (default: the run's own data)")
    parser.add_argument("--out", type=user_path, metavar="FOLDER", default=Path("hand-in"),
                        help="(default: hand-in)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    return parser


def answer(arguments: argparse.Namespace) -> int:
    run = run_of(arguments.run)
    data, dataset = data_of(run, arguments.data)
    scores, files = hand_in(run, dataset, arguments.out, pick_device(arguments.device))

    print(f"{run} on {data}: dev {describe(scores['dev'])}")
    for path in files:
        print(path)
    for task in TASKS.values():
        if TEST_SPLIT not in dataset[task.name]:
            print(f"no test predictions of {task.name}: {task.file}-{TEST_SPLIT}.csv is not in "
                  f"{data}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    return command.answer("multitask.hand_in", lambda: answer(arguments))


if __name__ == "__main__":
    sys.exit(main())
