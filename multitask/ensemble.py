"""Several runs as one model: the mean of their raw outputs.

    python -m multitask.ensemble runs/concatB-wrap-1 runs/concatB-wrap-2 runs/concatB-wrap-3

Architecture, encoder and vocabulary may differ, the tasks may not. It writes prediction files,
scores and a report, but no model, because answering takes as long as all runs together.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from minbert.files import user_path, write_json
from multitask.analysis.dev_set import analyse
from multitask.evaluation import describe
from multitask.model import ENSEMBLE_FILE
from multitask.reports.ensemble_report import write_ensemble_report
from multitask.runs.folder import REPORT_FILE, check_run_folder
from multitask.runs.hand_in import (
    logits_of,
    scores_by_split,
    scores_on,
    trained_model,
    write_files,
)
from multitask.runs.inputs import load_data, settings_of_run
from multitask.runs.settings import Settings
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, pick_device
from multitask.system.environment import invocation
from multitask.tasks import Task

DEV = "dev"


def build_parser() -> Parser:
    parser = Parser("python -m multitask.ensemble", __doc__)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="run",
                        help="the folders of two finished runs or more")
    parser.add_argument("--out", type=user_path, metavar="FOLDER", default=Path("ensemble"),
                        help="(default: ensemble)")
    command.add_data_flags(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    command.add_import_flag(parser)
    return parser


def ensemble(arguments: argparse.Namespace) -> int:
    runs: Sequence[Path] = arguments.runs
    if len(set(runs)) < max(2, len(runs)):
        raise ValueError("name at least two different runs")
    check_run_folder(arguments.out)
    all_settings = [settings_of_run(run, arguments.data, arguments.tasks) for run in runs]
    check_alike(runs, all_settings)
    settings = dataclasses.replace(all_settings[0], eval_limit=None)
    tasks = {task.name: task for task in settings.tasks}
    dataset, device = load_data(settings), pick_device(arguments.device)

    scores, all_logits = {}, []
    for run in runs:
        logits = logits_of(trained_model(run).to(device), dataset)
        scores[str(run)] = scores_on(DEV, tasks, dataset, logits)
        print(f"{run}: dev {describe(scores[str(run)])}")
        all_logits.append(logits)
    mean = {task: {split: sum(each[task][split] for each in all_logits) / len(runs)
                   for split in by_split}
            for task, by_split in logits.items()}

    files = write_files(tasks, dataset, mean, arguments.out)
    found = scores_by_split(tasks, dataset, mean)
    print(f"all {len(runs)}: dev {describe(found[DEV])}")
    analysis = analyse(tasks, dataset, {task: mean[task][DEV] for task in tasks})
    about = invocation()
    write_json(arguments.out / ENSEMBLE_FILE, {**found, "runs": scores, "environment": about})
    write_ensemble_report(arguments.out / REPORT_FILE, tasks, scores, found[DEV], analysis, about)
    for path in (*files, arguments.out / REPORT_FILE):
        print(path)
    return 0


def check_alike(runs: Sequence[Path], all_settings: Sequence[Settings]) -> None:
    """Raises ValueError unless all runs answer the same tasks, and none trained on dev examples."""
    first = all_settings[0]
    shares = {task.name: task.dev_share for task in first.tasks}
    for run, settings in zip(runs, all_settings, strict=True):
        if outputs_of(settings.tasks) != outputs_of(first.tasks):
            raise ValueError(f"{run} has other tasks than {runs[0]}, or other labels: "
                             f"{', '.join(outputs_of(settings.tasks))} against "
                             f"{', '.join(outputs_of(first.tasks))}")
        if any(task.dev_share != shares[task.name] for task in settings.tasks):
            raise ValueError(f"{run} and {runs[0]} have different dev_share, and so different dev "
                             "examples: one may have trained on the other's")


def outputs_of(tasks: Sequence[Task]) -> dict[str, tuple]:
    """Task → what its raw outputs mean; equal for runs whose outputs can be averaged."""
    return {task.name: (task.kind, task.labels, task.range, len(task.text))
            for task in sorted(tasks, key=lambda task: task.name)}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    return command.run(build_parser(), ensemble, argv)


if __name__ == "__main__":
    sys.exit(main())
