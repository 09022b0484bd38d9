"""List runs, and free the disk of checkpoints that are not needed any more.

    python -m multitask.runs runs --sort average
    python -m multitask.runs --json
    python -m multitask.runs prune runs
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from minbert.files import one_line, user_path
from multitask.system import command
from multitask.system.command import Parser

from .overview import Summary, find_runs, prunable, prune, summarise

COLUMNS = ("run", "date", "tasks", "model", "method", "seed", "steps", "dev", "size", "state")
KEYS = ("run", "date", "seed", "steps", "average", "size", "state")
PRUNE = "prune"


def build_parser() -> Parser:
    parser = Parser("python -m multitask.runs", __doc__)
    parser.add_argument("action", choices=("list", PRUNE), nargs="?", default="list",
                        help="prune removes the checkpoints of finished runs (default: list)")
    parser.add_argument("folder", type=user_path, nargs="?", default=Path("runs"),
                        help="where to look, at any depth (default: runs)")
    parser.add_argument("--sort", choices=KEYS, default="run",
                        help="the highest last; runs without a value first (default: run)")
    parser.add_argument("--json", action="store_true",
                        help="print a JSON list (default: a table)")
    parser.add_argument("--yes", action="store_true",
                        help="prune without asking (default: ask)")
    return parser


def answer(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
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
        print(table([cells(one) for one in summaries]))
    else:
        print(f"{folder} holds no runs")
    return 0


def cells(one: Summary) -> list[str]:
    steps = "" if one.steps is None else f"{one.steps:,}"
    return [one.run, one.date, ",".join(one.tasks), one.model, one.method, str(one.seed), steps,
            one.dev, megabytes(one.size), one.state]


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def table(rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [list(COLUMNS), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)
                               ).rstrip() for line in lines)


def prune_runs(folder: Path, is_agreed: bool) -> int:
    found = prunable(folder)
    if not found:
        print(f"{folder}: no finished run has a checkpoint; nothing to remove")
        return 0
    for path, size in found.items():
        print(f"{path}  {megabytes(size)}")
    total = megabytes(sum(found.values()))
    question = f"remove these {len(found)} folders, {total}? [y/N] "
    if not is_agreed and input(question).strip().lower() not in ("y", "yes"):
        print("nothing was removed")
        return 0
    prune(found)
    print(f"removed, {total} are free")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] not in ("list", PRUNE) and not words[0].startswith("-"):
        words = ["list", *words]  # runs FOLDER
    arguments = build_parser().parse_args(words)
    return command.answer("multitask.runs", lambda: answer(arguments))


if __name__ == "__main__":
    sys.exit(main())
