"""Ask a trained run.

    python -m multitask.predict RUN --task sst "A film worth seeing twice."
    python -m multitask.predict RUN --task sts "A dog runs." "A dog is running."
    python -m multitask.predict RUN --task para --input pairs.tsv --output answers.tsv

An input file is tab-separated with a header; its columns are found by name: sentence, or sentence1
and sentence2. It can be of any length. The file is validated first, then processed in order, 4,096
lines at a time.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from minbert.files import replacing, user_path
from multitask.data.course import read_rows
from multitask.model import MultitaskBert
from multitask.system import command
from multitask.system.command import Parser
from multitask.tasks import TASKS, Task

AT_ONCE = 4096  # lines: enough to group sentences of similar length, few enough for memory


def read_items(path: Path, task: Task) -> Iterator[tuple[str, ...]]:
    """The sentences or pairs of a file, in its order. Raises ValueError naming file and line."""
    for _, row in read_rows(path, task.text_columns):
        yield tuple(row[column] for column in task.text_columns)


def answers(model: MultitaskBert, task: Task, items: Iterable[tuple[str, ...]],
            total: int | None = None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Item and answer, in order. A class is a whole number; other answers have four digits.

    Args:
        total: the number of items, for the progress bar; None if unknown.
    """
    items = iter(items)
    with tqdm(total=total, desc=task.name, unit="ex", delay=1) as bar:
        while some := list(islice(items, AT_ONCE)):
            values = model.answer(task.name, some, bar).tolist()
            for texts, value in zip(some, values, strict=True):
                yield texts, f"{value:.4f}" if isinstance(value, float) else str(value)


def write_answers(path: Path, task: Task, answered: Iterable[tuple[tuple[str, ...], str]]) -> None:
    """Writes the input's sentences with the answers as one more column."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*task.text_columns, task.label_column])
        for texts, value in answered:
            writer.writerow([*texts, value])


def build_parser() -> Parser:
    parser = Parser("python -m multitask.predict", __doc__)
    parser.add_argument("run", type=user_path, help="a run's folder, or its model/ folder")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--input", type=user_path, metavar="FILE",
                        help="a tab-separated file in place of sentences")
    parser.add_argument("--output", type=user_path, metavar="FILE",
                        help="where to write the answers (default: print)")
    parser.add_argument("sentences", nargs="*", help="one sentence for sst, two for para and sts")
    return parser


def predict(arguments: argparse.Namespace) -> int:
    task, path, sentences = TASKS[arguments.task], arguments.input, tuple(arguments.sentences)
    if path is not None and not sentences:
        items, total = read_items(path, task), None
        if path.is_file():  # a pipe can be read only once
            # so a bad last line is rejected before any answer
            total = sum(1 for _ in read_items(path, task))
    elif path is None and len(sentences) == len(task.text_columns):
        items, total = [sentences], 1
    else:
        count = len(task.text_columns)
        raise ValueError(f"--task {task.name} takes {count} sentence(s), or --input FILE")

    answered = answers(MultitaskBert.from_pretrained(arguments.run), task, items, total)
    if arguments.output is not None:
        write_answers(arguments.output, task, answered)
    else:
        for _, value in answered:
            print(value)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    arguments = build_parser().parse_intermixed_args(argv)  # sentences may follow --task
    return command.answer("multitask.predict", lambda: predict(arguments))


if __name__ == "__main__":
    sys.exit(main())
