"""The course's files → examples. Every error names file, line and what to do.

The files are tab-separated with a header, in spite of their name; columns are found by name, so the unnamed index
column and any further one do no harm.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .tasks import TASKS, Task

REQUIRED_SPLITS = ("train", "dev")
TEST_SPLIT = "test-student"


@dataclass(frozen=True)
class Example:
    """One line of a file: its id, its sentence or pair, and its label (None in a test file)."""

    id: str
    sentences: tuple[str, ...]
    label: float | None


# dataset[task][split] → examples
Dataset = dict[str, dict[str, list[Example]]]


def fingerprint(dataset: Dataset) -> str:
    """A sha256 over the train and dev examples, ids, sentences and labels, in order: whose indices a checkpoint holds,
    and whose scores."""
    digest = hashlib.sha256()
    for name, splits in dataset.items():
        for split in REQUIRED_SPLITS:
            for example in splits[split]:
                digest.update(repr((name, split, example.id, example.sentences, example.label)).encode())
    return digest.hexdigest()


def file_of(folder: Path, task: Task, split: str) -> Path:
    return folder / f"{task.file}-{split}.csv"


def missing_files(folder: Path) -> list[Path]:
    """The train and dev files that the main job needs and the folder lacks."""
    paths = [file_of(folder, task, split) for task in TASKS.values() for split in REQUIRED_SPLITS]
    return [path for path in paths if not path.is_file()]


def load_dataset(folder: str | Path) -> Dataset:
    """Reads train and dev of every task, and test-student where there is one.

    Raises FileNotFoundError or ValueError, naming the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data {folder}: there is no such folder")
    missing = missing_files(folder)
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} of {2 * len(TASKS)} train and dev files "
                                "are): --data takes a folder with the course's files")
    dataset: Dataset = {}
    for name, task in TASKS.items():
        dataset[name] = {split: read_examples(file_of(folder, task, split), task) for split in REQUIRED_SPLITS}
        test = file_of(folder, task, TEST_SPLIT)
        if test.is_file():
            dataset[name][TEST_SPLIT] = read_examples(test, task, labelled=False)
    return dataset


def read_examples(path: str | Path, task: Task, labelled: bool = True) -> list[Example]:
    """One file → examples in file order. Rows with a blank label are left out and counted in a warning.

    Raises ValueError naming file and line for a missing column, a short row, an unusable label, or no rows at all.
    """
    columns = ["id", *task.text_columns, *([task.label_column] if labelled else [])]
    examples, blank = [], 0
    for line, row in read_rows(Path(path), columns):
        text = row[task.label_column].strip() if labelled else ""
        try:
            label = task.parse_label(text) if text else None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {task.label_column} is {text!r}, {error}") from None
        if labelled and label is None:
            blank += 1
        else:
            examples.append(Example(row["id"], tuple(row[column] for column in task.text_columns), label))
    if blank:
        warnings.warn(f"{path}: left out {blank} rows with a blank {task.label_column}", stacklevel=2)
    if not examples:
        raise ValueError(f"{path} holds no usable rows: expected a header and at least one line below it")
    return examples


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and row, as column → field, of a tab-separated file with a header that has these columns.

    Raises ValueError naming file and line for a missing column, a row with too few or too many fields, or no text.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        try:
            _check_header(reader.fieldnames, columns, path)
            for row in reader:
                if None in row:
                    raise ValueError(f"{path}, line {reader.line_num}: more fields than the header has; is a tab or a "
                                     "quotation mark amiss?")
                short = [column for column in columns if row[column] is None]
                if short:
                    raise ValueError(f"{path}, line {reader.line_num}: no field for column {short[0]!r}; is a tab or a "
                                     "quotation mark amiss?")
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, after line {reader.line_num}: not UTF-8 ({error.reason}); "
                             "save the file as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _check_header(header: Sequence[str] | None, columns: Sequence[str], path: Path) -> None:
    if header is None:
        raise ValueError(f"{path} is empty: expected a header with the columns {', '.join(columns)}")
    missing = [column for column in columns if column not in header]
    if missing:
        found = ", ".join(repr(name) for name in header)
        raise ValueError(f"{path}, line 1: no column {missing[0]!r}; expected tab-separated columns "
                         f"{', '.join(columns)}, found {found}")


if __name__ == "__main__":  # python -m multitask.data --download data
    import sys

    from .sources import main

    sys.exit(main())
