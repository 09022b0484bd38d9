"""List runs, compare them, and free the disk of checkpoints that are not needed any more.

    python -m multitask.runs runs --sort average
    python -m multitask.runs --json
    python -m multitask.runs compare runs/concatB-wrap-1 runs/concatB-wrap-sum-1 --out compare.html
    python -m multitask.runs prune runs

compare takes finished runs and shows, task by task, how each differs from the first.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from minbert.files import one_line, user_path
from multitask.system import command
from multitask.system.command import Parser

from .compare import compare
from .comparison_report import HEADER, NOTE, PAGE_FILE, difference_row, letters_of, write_comparison
from .overview import Summary, find_runs, prunable, summarise

COLUMNS = ("run", "date", "tasks", "model", "method", "seed", "steps", "dev", "size", "state")
KEYS = ("run", "date", "seed", "steps", "average", "size", "state")
LIST, COMPARE, PRUNE = ACTIONS = ("list", "compare", "prune")


def build_parser() -> Parser:
    parser = Parser("python -m multitask.runs", __doc__)
    parser.add_argument("action", choices=ACTIONS, nargs="?", default=LIST,
                        help="compare shows how runs differ from the first one; prune removes the "
                             "checkpoints of finished runs (default: list)")
    parser.add_argument("folders", type=user_path, nargs="*", metavar="folder",
                        help="where to look, at any depth (default: runs); for compare, the runs")
    parser.add_argument("--sort", choices=KEYS, default="run",
                        help="in ascending order; runs without a value come first (default: run)")
    parser.add_argument("--json", action="store_true",
                        help="print a JSON list (default: a table)")
    parser.add_argument("--out", type=user_path, metavar="FOLDER_OR_HTML",
                        help="for compare: write a page with the table and the runs' curves, in a "
                             f"folder as {PAGE_FILE} (default: no page)")
    parser.add_argument("--data", type=user_path, metavar="FOLDER",
                        help="for compare: other data than the runs' own, if they have moved")
    parser.add_argument("--tasks", metavar="LIST_OR_TOML",
                        help="for compare: the runs' tasks again, if their files have moved "
                             "(default: as they were)")
    parser.add_argument("--yes", action="store_true",
                        help="prune without asking (default: ask)")
    command.add_import_flag(parser)
    return parser


def answer(arguments: argparse.Namespace) -> int:
    if arguments.action == COMPARE:
        return compare_runs(arguments)
    if len(arguments.folders) > 1 or arguments.out or arguments.data or arguments.tasks:
        raise ValueError(f"{arguments.action} takes one folder, and none of --out, --data and "
                         "--tasks; did you mean compare?")

    [folder] = arguments.folders or [Path("runs")]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if arguments.action == PRUNE:
        return prune_runs(folder, arguments.yes)

    summaries = []
    for run in find_runs(folder):
        try:
            summaries.append(summarise(run))
        except (ValueError, OSError, KeyError) as error:
            print(f"warning: {run} is left out: {one_line(error)}", file=sys.stderr)
    summaries.sort(key=lambda one: (getattr(one, arguments.sort) is not None,
                                    getattr(one, arguments.sort)))
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in summaries], indent=2))
    elif summaries:
        print(table(COLUMNS, [cells(one) for one in summaries]))
    else:
        print(f"{folder} holds no runs")
    return 0


def cells(one: Summary) -> list[str]:
    steps = "" if one.steps is None else f"{one.steps:,}"
    return [one.run, one.date, ",".join(one.tasks), one.model, one.method, str(one.seed), steps,
            one.dev, megabytes(one.size), one.state]


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [header, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)
                               ).rstrip() for line in lines)


def compare_runs(arguments: argparse.Namespace) -> int:
    runs = arguments.folders
    if len(runs) < 2:
        raise ValueError("compare takes two runs or more: the reference, and those to compare")
    letters = letters_of([str(run) for run in runs])
    differences, left_out = compare(runs, arguments.data, arguments.tasks)
    summaries = [summarise(run) for run in runs]
    for line in left_out:
        print(f"warning: {line}", file=sys.stderr)

    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in differences], indent=2))
    else:
        for one in summaries:
            print(f"{letters[one.run]}: {one.run}  ({one.method}, seed {one.seed})")
        print(f"\n{table(HEADER, [difference_row(one, letters) for one in differences])}\n\n{NOTE}")
    if arguments.out is not None:
        out = arguments.out
        path = out if out.suffix == ".html" else out / PAGE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_comparison(path, summaries, differences, left_out)
        print(f"page: {path}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def prune_runs(folder: Path, is_agreed: bool) -> int:
    found = prunable(folder)
    if not found:
        print(f"{folder}: no finished run has a checkpoint; nothing to remove")
        return 0
    for path, size in found.items():
        print(f"{path}  {megabytes(size)}")
    total = megabytes(sum(found.values()))
    if not is_agreed and not sys.stdin.isatty():
        raise ValueError("prune asks before it removes: run it in a terminal, or add --yes")
    question = f"remove these {len(found)} folders, {total}? [y/N] "
    if not is_agreed and input(question).strip().lower() not in ("y", "yes"):
        print("nothing was removed")
        return 0
    for path in found:
        shutil.rmtree(path)
    print(f"removed, {total} are free")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in ACTIONS:
        words = [LIST, *words]  # runs FOLDER
    return command.run(build_parser(), answer, words)


if __name__ == "__main__":
    sys.exit(main())
