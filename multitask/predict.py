"""Ask a trained run.

    python -m multitask.predict RUN --task sst "A film worth seeing twice."
    python -m multitask.predict RUN --task sts "A dog runs." "A dog is running."
    python -m multitask.predict RUN --task para --input pairs.csv --output answers.csv
    cat pairs.jsonl | python -m multitask.predict RUN --task para,sts --input -

It prints a class's number, name and probability, or a number on the task's scale. An input file is
tab, comma or semicolon separated with a header, or has one JSON object per line; its columns are
found by name, those of the task. The output has all columns of the input, row by row, and the
prediction with its probability. A file is validated first, then processed in order, 4,096 rows at a
time. A pipe is answered up to the first row that cannot be used.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

from minbert.files import check_count, counted, one_line, rewriting, user_path
from minbert.progress import Progress
from multitask.data.tables import JSON_ENDINGS, STDIN, header_of, name_of, read_rows
from multitask.model import MultitaskBert, Predictions
from multitask.runs.hand_in import trained_model
from multitask.system import command
from multitask.system.command import Parser
from multitask.system.device import DEVICES, pick_device
from multitask.tasks import Task

AT_ONCE = 4096  # rows: enough to group sentences of similar length, few enough for memory
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}

Row = dict[str, Any]
Answer = dict[str, Any]  # "prediction", and with classes "probability"


class Asker:
    """A model, the tasks it is asked for, and how many inputs were cut or had no text.

    Args:
        batch_size: examples at once; None is what suits the device.
    """

    def __init__(self, model: MultitaskBert, tasks: Sequence[Task],
                 batch_size: int | None = None) -> None:
        self.model, self.tasks, self.batch_size = model, tasks, batch_size
        self.rows = self.cut = self.blank = 0
        self.first_blank = ""  # its file and line
        self.stopped_by: ValueError | None = None  # of a pipe's row that cannot be used

    @property
    def columns(self) -> list[str]:
        """The input's columns that the tasks read."""
        return list(dict.fromkeys(column for task in self.tasks for column in task.text))

    def is_blank(self, row: Row) -> bool:
        return not any(row[column].strip() for column in self.columns)

    def ask(self, rows: Sequence[Row], bar: Progress) -> list[list[Answer]]:
        """For each row, an answer of each task."""
        self.rows += len(rows)
        self.blank += sum(map(self.is_blank, rows))
        by_task, cut = [], {}  # tasks on the same columns cut the same inputs
        for task in self.tasks:
            texts = [tuple(row[column] for column in task.text) for row in rows]
            tokens = self.model.tokenize(self.model.examples_of(task.name, texts))
            logits = self.model.predict_logits(task.name, tokens, bar=bar,
                                               batch_size=self.batch_size)
            cut[task.text] = tokens.truncated
            by_task.append(answers_of(self.model.predictions_of(task.name, logits)))
        self.cut += sum(cut.values())
        return [list(answers) for answers in zip(*by_task, strict=True)]

    def ask_all(self, rows: Iterable[Row],
                total: int | None) -> Iterator[tuple[Row, list[Answer]]]:
        """Rows and their answers, in order. total: the rows, for the progress bar, if known."""
        rows = iter(rows)
        count = None if total is None else total * len(self.tasks)
        with Progress(total=count, desc="predict", unit="ex", delay=1) as bar:
            while some := list(islice(rows, AT_ONCE)):
                yield from zip(some, self.ask(some, bar), strict=True)


def answers_of(found: Predictions) -> list[Answer]:
    """What is written of each prediction: four digits are enough."""
    if found.probabilities is None:
        return [{"prediction": round(value, 4)} for value in found.labels.tolist()]
    highest = found.probabilities.max(1).tolist()
    return [{"prediction": label, "probability": round(probability, 4)}
            for label, probability in zip(found.labels.tolist(), highest, strict=True)]


def shown(task: Task, answer: Answer) -> str:
    """An answer for people: number, name and probability of a class, or a number."""
    if not task.classes:
        return f"{answer['prediction']:.2f}"
    label = answer["prediction"]
    probability = f"{answer['probability']:.2f}".removeprefix("0")
    return f"{task.labels.index(label)} {label}  {probability}"


# ------------------------------------------------------------------------------------------- files


def added_columns(tasks: Sequence[Task], answers: Sequence[Answer]) -> Answer:
    """The new columns of a row; with several tasks, their names begin with the task's."""
    if len(tasks) == 1:
        return answers[0]
    return {f"{task.name}_{key}": value
            for task, answer in zip(tasks, answers, strict=True) for key, value in answer.items()}


def new_columns(tasks: Sequence[Task]) -> list[str]:
    answers = [{"prediction": 0, **({"probability": 0} if task.classes else {})} for task in tasks]
    return list(added_columns(tasks, answers))


def usable_rows(path: Path, asker: Asker, alike: bool = False) -> Iterator[Row]:
    """The rows of a file.

    Args:
        alike: no row may have a column that the first one lacks.

    Raises:
        ValueError: a row cannot be used, or a column has the name of a new one; the message names
            file and line.
    """
    new, first = new_columns(asker.tasks), {}
    for line, row in read_rows(path, asker.columns):
        where, first = f"{name_of(path)}, line {line}", first or row
        if asker.is_blank(row):
            asker.first_blank = asker.first_blank or f", the first in {where}"
        for name in new:
            if name in row:
                raise ValueError(f"{where}: there is a column {name!r} already; rename it, since "
                                 "the answers take that name")
        if alike and not row.keys() <= first.keys():
            name = next(name for name in row if name not in first)
            raise ValueError(f"{where}: the first row has no {one_line(repr(name))}, and a table "
                             "written from a pipe has the columns of that row; take an --output "
                             "that ends in .jsonl, or read from a file")
        yield row


def up_to_unusable(rows: Iterator[Row], asker: Asker) -> Iterator[Row]:
    """The rows before one that cannot be used, whose error is kept as `asker.stopped_by`.

    The first row's error is raised: there is nothing to answer.
    """
    found = False
    try:
        for row in rows:
            found = True
            yield row
    except ValueError as error:
        if not found:
            raise
        asker.stopped_by = error


def check_rows(path: Path, asker: Asker) -> tuple[int, list[str]]:
    """Reads a file once: the number of its rows, and all their columns, in order."""
    columns: dict[str, None] = {}
    count = 0
    for row in usable_rows(path, asker):
        count += 1
        columns |= dict.fromkeys(row)
    return count, list(columns) or header_of(path, asker.columns)


def write_answers(path: Path, asker: Asker, columns: Sequence[str] | None,
                  answered: Iterable[tuple[Row, list[Answer]]]) -> None:
    """Writes the rows with the answers as new columns, in the format of the file's ending.

    Args:
        path: "-" is the standard output, which gets UTF-8 as a file does.
        columns: those of the input; None takes them from the first row.
    """
    if path == STDIN and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    rows = ({**row, **added_columns(asker.tasks, answers)} for row, answers in answered)
    with nullcontext(sys.stdout) if path == STDIN else rewriting(path) as file:
        if path.suffix.lower() in JSON_ENDINGS:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            some = list(islice(rows, 1))
            found = some[0] if some else [*asker.columns, *new_columns(asker.tasks)]
            delimiter = DELIMITERS.get(path.suffix.lower(), "\t")
            writer = csv.DictWriter(file, list(dict.fromkeys([*(columns or []), *found])),
                                    delimiter=delimiter, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(chain(some, rows))


# ------------------------------------------------------------------------------------- the command


def build_parser() -> Parser:
    parser = Parser("python -m multitask.predict", __doc__)
    parser.add_argument("run", type=user_path, help="a run's folder, or its model/ folder")
    parser.add_argument("--task", metavar="NAME",
                        help="a task of the run, or several: sst,cfimdb (default: its only task)")
    parser.add_argument("--input", type=user_path, metavar="FILE",
                        help="a .tsv, .csv or .jsonl file in place of sentences; - is the "
                             "standard input")
    parser.add_argument("--output", type=user_path, metavar="FILE",
                        help="a .tsv, .csv or .jsonl file for the rows with their answers; - is "
                             "the standard output (default: print the answers alone)")
    parser.add_argument("--batch-size", type=int, metavar="N",
                        help="examples at once, at most (default: 64, on a GPU 512)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    command.add_import_flag(parser)
    parser.add_argument("sentences", nargs="*", help="one sentence, or two for a task on pairs")
    return parser


def check_usage(arguments: argparse.Namespace) -> None:
    if arguments.batch_size is not None:
        check_count("--batch-size", arguments.batch_size)
    endings = (*DELIMITERS, *JSON_ENDINGS)
    output = arguments.output
    if output is not None and output.suffix.lower() not in ("", *endings):
        raise ValueError(f"--output {output}: the extension sets the format; choose from "
                         f"{', '.join(endings)}")
    if arguments.input is not None and arguments.sentences:
        raise ValueError("give sentences or --input FILE, not both")
    if arguments.input not in (None, STDIN) and not arguments.input.exists():
        raise FileNotFoundError(f"--input {arguments.input}: there is no such file")
    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder {output.parent}")
    if output is not None and output.is_dir():
        raise ValueError(f"--output {output} is a folder: name a file in it")
    if output not in (None, STDIN) and arguments.input is not None and (
            output.resolve() == arguments.input.resolve()):
        raise ValueError(f"--output {output} is the input: name another file")


def predict(arguments: argparse.Namespace) -> int:
    check_usage(arguments)
    model = trained_model(arguments.run).to(pick_device(arguments.device))
    names = [None] if arguments.task is None else map(str.strip, arguments.task.split(","))
    asker = Asker(model, [model.task(name) for name in names], arguments.batch_size)
    if on_sample := [task.name for task in asker.tasks if task.name in model.sample_tasks]:
        print(f"note: {', '.join(on_sample)}: trained on the embedded sample, whose sentences are "
              "made up by rule; the answers say little about real ones", file=sys.stderr)

    if arguments.input is None:
        rows, count, columns = [row_of(asker, arguments.sentences)], 1, asker.columns
    elif arguments.input.is_file():
        count, columns = check_rows(arguments.input, asker)  # rejects a bad last line, too
        rows = usable_rows(arguments.input, asker)
    else:  # a pipe can be read only once
        count, columns = None, None
        output = arguments.output
        is_table = output is not None and output.suffix.lower() not in JSON_ENDINGS
        rows = up_to_unusable(usable_rows(arguments.input, asker, is_table), asker)

    answered = asker.ask_all(rows, count)
    if arguments.output is not None:
        write_answers(arguments.output, asker, columns, answered)
        print(f"wrote {counted(asker.rows, 'row')} to {arguments.output}", file=sys.stderr)
    else:
        for _, answers in answered:
            print_answers(asker.tasks, answers)
    if asker.cut:
        print(f"note: cut {counted(asker.cut, 'input')} longer than {model.max_length} tokens",
              file=sys.stderr)
    if asker.blank:
        print(f"warning: {counted(asker.blank, 'input')} without text{asker.first_blank}; such an "
              "answer means nothing", file=sys.stderr)
    if asker.stopped_by:
        raise ValueError(f"{asker.stopped_by}; answered before it: {counted(asker.rows, 'row')}")
    return 0


def row_of(asker: Asker, sentences: Sequence[str]) -> Row:
    """The sentences on the command line as one row. Raises ValueError for another number."""
    row: Row = {}
    for task in asker.tasks:
        if len(sentences) != len(task.text):
            count = "one sentence" if len(task.text) == 1 else "a pair, two sentences"
            raise ValueError(f"{task.name} takes {count} at a time; for several, use --input FILE")
        row |= dict(zip(task.text, sentences, strict=True))
    return row


def print_answers(tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
    """A line with the answer; with several tasks, a line each, the task's name before it."""
    for task, answer in zip(tasks, answers, strict=True):
        name = f"{task.name}  " if len(tasks) > 1 else ""
        print(f"{name}{shown(task, answer)}")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    return command.run(build_parser(), predict, argv,
                       out_of_memory_remedy=": take a smaller --batch-size")


if __name__ == "__main__":
    sys.exit(main())
