"""Table 1 of the paper: ten methods × three architectures, and the baseline.

    python -m multitask.experiments --preset quick --data data --model bert-base-uncased
    python -m multitask.experiments --question surgery --seeds 5 --data data
    python -m multitask.experiments --question surgery --arms all --data data

Stages that several experiments share are trained once: 15 encoder trainings, 18 trainings of heads,
the baseline. The same command resumes where it was stopped.
"""

import argparse
import sys
from os.path import expanduser
from pathlib import Path

from minbert.checkpoints.hub import EMBEDDED
from minbert.files import user_path
from multitask.data.examples import read_examples
from multitask.runs.inputs import DEFAULT_MODEL, default_data
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, PRECISION_HELP, PRECISIONS
from multitask.tasks import TASKS

from . import table
from .arms import ALWAYS, DEFAULT_ARMS, arms_from
from .grid import Grid, conclude, run_grid
from .presets import PRESETS
from .question import Question, ask

FIRST_SEED = 11711


def build_parser() -> Parser:
    parser = Parser("python -m multitask.experiments", __doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS,
        help="the paper's settings, one epoch per stage, or few steps (default: quick)")
    add("--question", choices=["surgery"],
        help="does surgery help? control arms paired by seed, instead of the table")
    add("--arms", metavar="LIST",
        help="for --question: surgery methods, with options if need be, and controls, as in "
             "pcgrad,cagrad:c=0.4,best-constant; all is every one. They are added to those that "
             f"the folder has (default: {','.join((*ALWAYS, *DEFAULT_ARMS))})")
    add("--seeds", type=int, metavar="N",
        help="number of seeds, from 11711 on (default: 1; 5 for --question)")
    add("--data", type=expanduser, metavar="FOLDER",
        help="the course's files (default: ./data if it holds them, else the sample)")
    add("--model", type=expanduser, metavar="NAME_OR_FOLDER", help="as in train_multitask.py")
    add("--out", type=user_path, metavar="FOLDER",
        help="(default: experiments/PRESET or experiments/surgery)")
    add("--max-steps", type=int, metavar="N",
        help="end each stage after N steps (default: the preset's; "
             f"{Question.steps} for --question)")
    add("--batch-size", type=int, metavar="N",
        help=f"for --question: examples of each task per step (default: {Question.batch_size})")
    add("--eval-limit", type=int, metavar="N",
        help="at most N dev examples per task (default: the preset's; "
             f"{Question.eval_limit} for --question)")
    add("--device", choices=DEVICES, default="auto", help="(default: auto)")
    add("--precision", choices=PRECISIONS, default="auto", help=PRECISION_HELP)
    add("--test-labels", type=user_path, metavar="FOLDER",
        help="a folder of {file}-test.csv with labels; scores the best model on them, as in the "
             "paper's Table 2")
    command.add_import_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    return command.run(build_parser(), answer, argv,
                       interrupted="interrupted; the same command resumes",
                       out_of_memory_remedy=": --question takes a smaller --batch-size, in "
                                            "another --out")


def answer(arguments: argparse.Namespace) -> int:
    return run_question(arguments) if arguments.question else run_table(arguments)


def run_question(arguments: argparse.Namespace) -> int:
    if arguments.test_labels or arguments.preset:
        raise ValueError("--question takes neither --preset nor --test-labels")

    values = {"steps": arguments.max_steps, "batch_size": arguments.batch_size,
              "eval_limit": arguments.eval_limit}
    given = {name: value for name, value in values.items() if value is not None}
    out = arguments.out or Path("experiments") / arguments.question
    arms = None if arguments.arms is None else arms_from(arguments.arms)
    ask(Question(**given, **common_values(arguments)), out, seeds_of(arguments, 5), arms)
    print((out / "question.md").read_text(encoding="utf-8"))
    return 0


def run_table(arguments: argparse.Namespace) -> int:
    for flag, value in (("--arms", arguments.arms), ("--batch-size", arguments.batch_size)):
        if value is not None:
            raise ValueError(f"{flag} needs --question surgery")
    preset = arguments.preset or "quick"
    grid = Grid(arguments.out or Path("experiments") / preset, preset,
                max_steps=arguments.max_steps,
                eval_limit=arguments.eval_limit, **common_values(arguments))
    labelled = {}
    if arguments.test_labels is not None:
        for name, task in TASKS.items():
            file = task.dev.replace("-dev", "-test")
            labelled[name] = read_examples(arguments.test_labels / file, task)

    results = run_grid(grid, seeds_of(arguments, 1))
    if results["best"] is not None:
        conclude(grid, results, labelled)
    print("\n" + table.markdown(results))
    return 0


def common_values(arguments: argparse.Namespace) -> dict:
    """Data, model, device and precision, with their defaults."""
    data = default_data() if arguments.data is None else str(Path(arguments.data).resolve())
    model = arguments.model or (EMBEDDED if data is None else DEFAULT_MODEL)
    return {"model": model, "data": data, "device": arguments.device,
            "precision": arguments.precision}


def seeds_of(arguments: argparse.Namespace, default: int) -> list[int]:
    count = default if arguments.seeds is None else arguments.seeds
    if count < 1:
        raise ValueError(f"--seeds {count}: must be at least 1")
    return [FIRST_SEED + number for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
