"""Ask a trained run.

    python -m multitask.predict RUN --task sst "A film worth seeing twice."
    python -m multitask.predict RUN --task sts "A dog runs." "A dog is running."
    python -m multitask.predict RUN --task para --input pairs.tsv --output answers.tsv

An input file is tab-separated with a header; its columns are found by name: sentence, or sentence1 and sentence2.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from minbert.pretrained import replacing

from . import command
from .command import Parser
from .data import read_rows
from .model import MultitaskBert
from .tasks import TASKS, Task


def read_items(path: Path, task: Task) -> list[tuple[str, ...]]:
    """The sentences or pairs of a file, in its order. Raises ValueError naming file and line."""
    return [tuple(row[column] for column in task.text_columns) for _, row in read_rows(path, task.text_columns)]


def answer(model: MultitaskBert, task: Task, items: list[tuple[str, ...]]) -> list[str]:
    """One answer an item, as it is printed: a class as a whole number, anything else with four digits."""
    return [f"{value:.4f}" if isinstance(value, float) else str(value)
            for value in model.answer(task.name, items).tolist()]


def write_answers(path: Path, task: Task, items: list[tuple[str, ...]], answers: list[str]) -> None:
    """The input's sentences with one more column, written whole or not at all."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*task.text_columns, task.label_column])
        writer.writerows([*texts, value] for texts, value in zip(items, answers, strict=True))


def build_parser() -> Parser:
    parser = Parser("python -m multitask.predict", __doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or its model/ folder")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--input", type=Path, metavar="FILE", help="a tab-separated file in place of sentences")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the answers (default: print)")
    parser.add_argument("sentences", nargs="*", help="one sentence for sst, two for para and sts")
    return parser


def predict(arguments: argparse.Namespace) -> int:
    task = TASKS[arguments.task]
    if arguments.input is not None and not arguments.sentences:
        items = read_items(arguments.input, task)
    elif arguments.input is None and len(arguments.sentences) == len(task.text_columns):
        items = [tuple(arguments.sentences)]
    else:
        raise ValueError(f"--task {task.name} takes {len(task.text_columns)} sentence(s), or --input FILE")
    answers = answer(MultitaskBert.from_pretrained(arguments.run), task, items)
    if arguments.output is not None:
        write_answers(arguments.output, task, items, answers)
    else:
        print("\n".join(answers))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    arguments = build_parser().parse_intermixed_args(argv)  # sentences may follow --task
    return command.answer("multitask.predict", lambda: predict(arguments))


if __name__ == "__main__":
    sys.exit(main())
