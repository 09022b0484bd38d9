"""The course's hand-in: dev and test prediction files of a finished run, over all of the data.

    python -m multitask.hand_in runs/concatB-wrap-1 --out hand-in
    python -m multitask.hand_in experiments/quick --data data --out hand-in
    python -m multitask.hand_in --course part1 runs/sst-full runs/sst-last

The data are those of the run, whole, unless --data names others. From a grid of experiments it
takes the run with the highest average dev score. --course part1 writes the files of the course's
first part, of as many runs as are named.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from shlex import quote

from minbert.files import read_object, user_path
from multitask.commands import command_line
from multitask.data.examples import TEST_SPLIT
from multitask.evaluation import describe, prediction_file
from multitask.experiments.table import TABLE_FILE
from multitask.runs.hand_in import (
    PART_1_MODES,
    PART_1_TASKS,
    SPLITS,
    hand_in,
    part_1_file,
    part_1_files,
)
from multitask.runs.inputs import load_data, settings_of_run
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, pick_device


def run_of(folder: Path) -> Path:
    """The folder itself; of a grid, its best run, or FileNotFoundError if none is finished."""
    if not (folder / TABLE_FILE).is_file():
        return folder

    best = read_object(folder / TABLE_FILE)["best"]
    if best is None:
        raise FileNotFoundError(f"{folder} holds no finished experiment yet")
    return folder / best["run"]


def build_parser() -> Parser:
    parser = Parser("python -m multitask.hand_in", __doc__)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="run",
                        help="a run's folder, or a grid's; several with --course part1")
    parser.add_argument("--course", choices=("part1", "part2"), default="part2",
                        help="the first part, single tasks and two modes, or the second, all tasks "
                             "in one model (default: part2)")
    command.add_data_flags(parser)
    parser.add_argument("--out", type=user_path, metavar="FOLDER", default=Path("hand-in"),
                        help="(default: hand-in)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    command.add_import_flag(parser)
    return parser


def answer(arguments: argparse.Namespace) -> int:
    is_part_1 = arguments.course == "part1"
    if len(arguments.runs) > 1 and not is_part_1:
        raise ValueError(f"{len(arguments.runs)} runs, where one is expected; --course part1 takes "
                         "several")
    for run in arguments.runs:
        data = hand_in_one(run_of(run), is_part_1, arguments)
    if is_part_1:
        report_missing(arguments.out, data)
    return 0


def hand_in_one(run: Path, is_part_1: bool, arguments: argparse.Namespace) -> str | None:
    """Writes the files of one run. Returns the folder of its data; None is the sample's."""
    settings = settings_of_run(run, arguments.data, arguments.tasks)
    wanted = settings.tasks
    if is_part_1:
        wanted = tuple(task for task in wanted if task.name in PART_1_TASKS)
        if not wanted:
            raise ValueError(f"{run} has none of the tasks of part 1, {', '.join(PART_1_TASKS)}")
    settings = dataclasses.replace(settings, tasks=wanted, surgery="sum", eval_limit=None)

    dataset = load_data(settings)
    name = part_1_files(run) if is_part_1 else prediction_file
    scores, files = hand_in(run, dataset, arguments.out, pick_device(arguments.device), name)
    data = settings.data_title
    print(f"{run} on {data}: dev {describe(scores['dev'])}")
    for path in files:
        print(path)
    for task in wanted:
        if TEST_SPLIT not in dataset[task.name]:
            file = Path(task.test).name
            where = f"{file} is not in {data}" if file else "its task file names none"
            print(f"no test predictions of {task.name}: {where}")
    return settings.data


def report_missing(out: Path, data: str | None) -> None:
    """Names the files of part 1 that are not there yet, and the command that makes them."""
    folder = "" if data is None else f" --data {quote(data)}"
    for course_mode, mode in PART_1_MODES.items():
        for name in PART_1_TASKS:
            files = [part_1_file(course_mode, name, split) for split in SPLITS.values()]
            missing = [file for file in files if not (out / file).is_file()]
            if missing:
                lr = " --lr 1e-3" if mode == "last-layer" else ""
                print(f"still missing: {', '.join(missing)}; train with: "
                      f"{command_line('train')}{folder} --tasks {name} --mode {mode}{lr}")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    return command.run(build_parser(), answer, argv)


if __name__ == "__main__":
    sys.exit(main())
