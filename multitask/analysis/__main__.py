"""Where a finished run's model succeeds and fails: python -m multitask.analysis RUN."""

import argparse
import sys
from pathlib import Path

from minbert.files import read_object, user_path, write_json
from multitask.reports.run_report import write_report
from multitask.runs.folder import CONFIG_FILE, METRICS_FILE, REPORT_FILE
from multitask.runs.hand_in import trained_model
from multitask.runs.inputs import load_data, settings_of_run
from multitask.runs.settings import Settings
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.runlog import LOG_FILE, read_events

from .dev_set import ANALYSIS_FILE, analyse


def analyse_run(run: Path, data: Path | None = None, tasks: str | None = None) -> Path:
    """Analyses a finished run; writes analysis.json and report.html, returns the report's path.

    Args:
        data: a folder in place of the run's own data, if they have moved.
        tasks: as --tasks names them, if their files have moved.

    Raises:
        FileNotFoundError, ValueError: the folder is not a finished run, or a dev set has another
            number of examples than the run's.
    """
    for name in (CONFIG_FILE, METRICS_FILE, LOG_FILE):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} holds no {name}: expected the folder of a finished run")
    settings, metrics = Settings.load(run / CONFIG_FILE), read_object(run / METRICS_FILE)
    model = trained_model(run)
    used = settings_of_run(run, data, tasks)
    dataset = load_data(used)
    for name, task in model.tasks.items():
        own, found = metrics["examples"][name]["dev"], len(dataset[name]["dev"])
        if found != own:
            flag = "--tasks" if task.has_own_files else "--data"
            raise ValueError(f"{used.data_title}: {found:,} dev examples of {name}, but the scores "
                             f"of {run} are of {own:,}: name the run's own data with {flag}")

    logits = {name: model.predict_logits(name, model.tokenize(dataset[name]["dev"]))
              for name in model.tasks}
    analysis = analyse(model.tasks, dataset, logits)
    write_json(run / ANALYSIS_FILE, analysis, indent=None)

    steps, epochs = list(read_events(run, "step")), list(read_events(run, "epoch"))
    shown = {**vars(settings), "data": used.data, "tasks": used.tasks}
    write_report(run / REPORT_FILE, shown, metrics, steps, epochs, analysis)
    return run / REPORT_FILE


def build_parser() -> Parser:
    parser = Parser("python -m multitask.analysis", __doc__)
    parser.add_argument("run", type=user_path, help="the folder of a finished run")
    command.add_data_flags(parser)
    command.add_import_flag(parser)
    return parser


def answer(arguments: argparse.Namespace) -> int:
    report = analyse_run(arguments.run, arguments.data, arguments.tasks)
    print(f"analysis: {arguments.run / ANALYSIS_FILE}\nreport: {report}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    return command.run(build_parser(), answer, argv)


if __name__ == "__main__":
    sys.exit(main())
