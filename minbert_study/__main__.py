"""Write BERT yourself: exercises with instant checks.

    python -m minbert_study start my-bert
    python -m minbert_study check my-bert attention
    python -m minbert_study hint my-bert attention
    python -m minbert_study train my-bert

For teachers:

    python -m minbert_study skeleton handout --only attention,adamw,pcgrad
    python -m minbert_study grade submissions/* --out grades.csv
"""

import argparse
import random
import sys
from pathlib import Path
from shlex import quote

from minbert.files import user_path, write_text
from multitask.commands import command_line
from multitask.runs.inputs import default_data
from multitask.system import command
from multitask.system.command import Parser

from . import checking, grading, starting, training
from .exercise import NAMES, load


def build_parser() -> Parser:
    parser = Parser("python -m minbert_study", __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION",
                                    parser_class=lambda **given: Parser(given["prog"], None))

    start = actions.add_parser("start", help="make a folder of exercises")
    start.add_argument("folder", type=user_path, help="the folder to make; existing files are kept")
    start.set_defaults(answer=answer_start)

    check = actions.add_parser("check", help="check a folder, or some of its exercises")
    check.add_argument("folder", type=user_path)
    check.add_argument("exercises", nargs="*", default=[], metavar="exercise",
                       help="attention or ex02_attention.py, for example (default: all)")
    check.add_argument("--watch", action="store_true",
                       help="check each file again when it is saved, until Ctrl-C (default: once)")
    check.set_defaults(answer=answer_check)

    hint = actions.add_parser("hint", help="one more hint per call, from a question to nearly the "
                                           "code")
    hint.add_argument("folder", type=user_path)
    hint.add_argument("exercise")
    hint.add_argument("--solution", action="store_true",
                      help="show the library's code and where it is (default: a hint)")
    hint.set_defaults(answer=answer_hint)

    train = actions.add_parser("train", help="train briefly with your finished parts, then with "
                                             "the library's")
    train.add_argument("folder", type=user_path)
    train.add_argument("--steps", type=int, default=training.STEPS, metavar="N",
                       help=f"training steps with surgery (default: {training.STEPS})")
    train.add_argument("--data", type=user_path, metavar="FOLDER",
                       help="holds the course's files (default: ./data if it has them, else the "
                            "embedded sample)")
    train.add_argument("--surgery", choices=training.SURGERY, default="pcgrad",
                       help="the method of surgery (default: pcgrad)")
    train.add_argument("--seed", type=int, default=0, metavar="N",
                       help="seed of all random numbers (default: 0)")
    train.set_defaults(answer=answer_train)

    skeleton = actions.add_parser("skeleton", help="for teachers: a folder to hand out, and a "
                                                   "table of points")
    skeleton.add_argument("folder", type=user_path)
    skeleton.add_argument("--only", metavar="LIST", help="exercises, such as attention,adamw "
                                                         "(default: all)")
    skeleton.set_defaults(answer=answer_skeleton)

    grade = actions.add_parser("grade", help="for teachers: points and feedback for many folders")
    grade.add_argument("folders", type=user_path, nargs="+", metavar="folder")
    grade.add_argument("--out", type=user_path, default=Path("grades.csv"), metavar="FILE.csv",
                       help="one row per folder; rows of other folders are kept; feedback pages go "
                            "into a folder beside it (default: grades.csv)")
    grade.add_argument("--points", type=user_path, metavar="FILE.csv",
                       help="lines EXERCISE,POINTS; other exercises are not graded (default: all, "
                            f"{grading.POINTS} points each)")
    grade.add_argument("--seed", type=int, help="seed of the checks' random numbers (default: a "
                                                "new one, which is printed)")
    grade.set_defaults(answer=answer_grade)
    return parser


def answer_start(arguments: argparse.Namespace) -> int:
    written = starting.start(arguments.folder)
    print("\n".join(starting.welcome(arguments.folder, written)))
    return 0


def answer_check(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    available = checking.exercises_in(folder)
    names = checking.pick(arguments.exercises, folder) or available

    before, verdicts = checking.saved(folder, names), []
    for verdict in checking.check_folder(folder, names):
        print("\n".join(checking.lines_of(verdict)), flush=True)
        verdicts.append(verdict)
    print(checking.summary(verdicts))
    if arguments.watch:
        for verdict in checking.watch(folder, names, before):
            print("\n".join(checking.lines_of(verdict)), flush=True)
    return 0 if all(verdict.is_done for verdict in verdicts) else 1


def answer_hint(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    checking.exercises_in(folder)  # raises for a folder without exercises
    [name] = checking.pick([arguments.exercise], folder)
    exercise = load(name)
    if arguments.solution:
        print("\n".join(starting.solution(exercise)))
        return 0
    number = checking.Progress(folder).next_hint(name)
    for count, text in enumerate(exercise.hints[:number], start=1):
        print(f"hint {count} of {len(exercise.hints)}: {text}")
    if number == len(exercise.hints):
        print("These are all hints; --solution shows the library's code.")
    return 0


def answer_train(arguments: argparse.Namespace) -> int:
    folder = arguments.folder
    checking.exercises_in(folder)  # raises for a folder without exercises
    if arguments.steps < 1:
        raise ValueError(f"--steps {arguments.steps}: expected 1 or more")
    data = default_data() if arguments.data is None else str(arguments.data)
    theirs = training.Training(folder.resolve(), tuple(checking.Progress(folder).done()), data,
                               arguments.steps, arguments.seed, arguments.surgery)
    return training.compare(theirs, lambda line: print(line, flush=True))


def answer_skeleton(arguments: argparse.Namespace) -> int:
    words = NAMES if arguments.only is None else arguments.only.split(",")
    picked = checking.pick(word.strip() for word in words)
    names = [name for name in NAMES if name in picked]
    folder = arguments.folder.resolve()
    points = folder.with_name(f"{folder.name}-points.csv")
    starting.start(folder, names)
    lacking = []
    if points.exists():
        table = grading.read_points(points)
        lacking = [name for name in names if name not in table]
    else:
        write_text(points, grading.points_table(names))
    print(f"{folder}: exercises to hand out: {len(names)}\n"
          f"{points}: the points; grade with: {command_line('study')} grade SUBMISSIONS… --points "
          f"{quote(str(points))}")
    if lacking:
        print(f"{points} is kept as it is and lacks {', '.join(lacking)}: add lines "
              "EXERCISE,POINTS, or these will not be graded")
    return 0


def answer_grade(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix.lower() != ".csv":
        raise ValueError(f"--out {arguments.out}: expected FILE.csv, which spreadsheets open")
    points = grading.read_points(arguments.points)
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}")
    grading.grade(arguments.folders, arguments.out, points, seed,
                  lambda line: print(line, flush=True))
    print(f"{arguments.out}: points; {grading.pages_of(arguments.out)}: feedback pages")
    if arguments.points is None:
        print(f"all {len(points)} exercises were graded; --points FILE.csv names those that count")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all is right, 1 not all, 2 usage or input, 130 interrupted."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.action == "check" and not any(word.startswith("-") for word in rest):
        arguments.exercises += rest  # those after a flag, which argparse leaves
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return command.answer("minbert_study", lambda: arguments.answer(arguments))


if __name__ == "__main__":
    sys.exit(main())
