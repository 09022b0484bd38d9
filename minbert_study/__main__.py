"""Write BERT yourself: exercises with instant checks.

    python -m minbert_study start my-bert
    python -m minbert_study check my-bert attention
    python -m minbert_study hint my-bert attention
    python -m minbert_study train my-bert

For teachers:

    python -m minbert_study skeleton handout --only attention,adamw,pcgrad
    python -m minbert_study grade submissions/* --out grades.csv
"""

from __future__ import annotations

import argparse
import sys

from minbert.files import user_path
from multitask.system import command
from multitask.system.command import Parser

from . import checking, starting

PROGRAM = "python -m minbert_study"


def build_parser() -> Parser:
    parser = Parser(PROGRAM, __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION",
                                    parser_class=lambda **given: Parser(given["prog"], None))

    start = actions.add_parser("start", help="make a folder of exercises")
    start.add_argument("folder", type=user_path, help="where; files already there stay")
    start.set_defaults(answer=answer_start)

    check = actions.add_parser("check", help="check a folder, or some of its exercises")
    check.add_argument("folder", type=user_path)
    check.add_argument("exercises", nargs="*", metavar="exercise",
                       help="as attention, or ex02_attention.py (default: all)")
    check.add_argument("--watch", action="store_true",
                       help="check each file again when it is saved, until Ctrl-C (default: once)")
    check.set_defaults(answer=answer_check)
    return parser


def answer_start(arguments: argparse.Namespace) -> int:
    written = starting.start(arguments.folder)
    print("\n".join(starting.welcome(arguments.folder, written)))
    return 0


def answer_check(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    available = checking.exercises_in(folder)
    names = checking.pick(arguments.exercises, available) or available

    def say(verdict: checking.Verdict) -> None:
        print("\n".join(checking.lines_of(verdict)), flush=True)

    verdicts = checking.check_folder(folder, names, say)
    print(checking.summary(verdicts))
    if arguments.watch:
        checking.watch(folder, names, say)
    return 0 if all(verdict.is_done for verdict in verdicts) else 1


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all is right, 1 not all, 2 usage or input, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    return command.answer("minbert_study", lambda: arguments.answer(arguments))


if __name__ == "__main__":
    sys.exit(main())
