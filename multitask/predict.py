"""Ask a trained run.

    python -m multitask.predict RUN --task sst "A film worth seeing twice."
    python -m multitask.predict RUN --task sts "A dog runs." "A dog is running."
    python -m multitask.predict RUN --task para --input pairs.tsv --output answers.tsv

An input file is tab-separated with a header; its columns are found by name: sentence, or sentence1 and sentence2.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

from .model import MultitaskBert
from .tasks import TASKS, Task

# task → how its answers are made and printed
ANSWERS = {
    "sst": (lambda model, items: model.predict_sentiment([text for (text,) in items]), "{:d}"),
    "para": (lambda model, items: model.predict_paraphrase(items), "{:.4f}"),
    "sts": (lambda model, items: model.predict_similarity(items), "{:.4f}"),
}


def read_items(path: Path, task: Task) -> list[tuple[str, ...]]:
    """The sentences or pairs of a file, in its order. Raises ValueError naming file and line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [name for name in task.text_columns if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}, line 1: no column {missing[0]!r}; expected tab-separated columns "
                             f"{', '.join(task.text_columns)} with a header")
        items = []
        for row in reader:
            if any(row[name] is None for name in task.text_columns):
                raise ValueError(f"{path}, line {reader.line_num}: too few fields; is a tab missing?")
            items.append(tuple(row[name] for name in task.text_columns))
    return items


def answer(model: MultitaskBert, task: Task, items: list[tuple[str, ...]]) -> list[str]:
    predict, form = ANSWERS[task.name]
    return [form.format(value) for value in predict(model, items).tolist()]


def write_answers(path: Path, task: Task, items: list[tuple[str, ...]], answers: list[str]) -> None:
    """The input's sentences with one more column, written whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([*task.text_columns, task.label_column])
        writer.writerows([*texts, value] for texts, value in zip(items, answers, strict=True))
    os.replace(partial, path)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m multitask.predict", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder, or its model/ folder")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--input", type=Path, metavar="FILE", help="a tab-separated file in place of sentences")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the answers (default: print)")
    parser.add_argument("sentences", nargs="*", help="one sentence for sst, two for para and sts")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input."""
    arguments = build_parser().parse_intermixed_args(argv)  # sentences may follow --task
    task = TASKS[arguments.task]
    try:
        if arguments.input is not None and not arguments.sentences:
            items = read_items(arguments.input, task)
        elif arguments.input is None and len(arguments.sentences) == len(task.text_columns):
            items = [tuple(arguments.sentences)]
        else:
            raise ValueError(f"--task {task.name} takes {len(task.text_columns)} sentence(s), or --input FILE")
        answers = answer(MultitaskBert.from_pretrained(arguments.run), task, items)
        if arguments.output is not None:
            write_answers(arguments.output, task, items, answers)
    except (ValueError, OSError) as error:
        print(f"multitask.predict: {error}", file=sys.stderr)
        return 2
    if arguments.output is None:
        print("\n".join(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
