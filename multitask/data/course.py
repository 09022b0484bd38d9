"""The course's files → examples. Every error names file and line and says what to do.

The files are tab-separated with a header, in spite of their name. Columns are found by name, so the
unnamed index column and any further one do no harm.
"""

from __future__ import annotations

import csv
import hashlib
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from minbert.files import bounded_lines, one_line, user_path
from multitask.tasks import TASKS, Task

REQUIRED_SPLITS = ("train", "dev")
TEST_SPLIT = "test-student"


@dataclass(frozen=True, slots=True)  # slots: there may be millions
class Example:
    """One line of a file: its id, its sentence or pair, and its label (None in a test file)."""

    id: str
    sentences: tuple[str, ...]
    label: float | None


class Examples(list[Example]):
    """A file's examples in file order.

    Attributes:
        left_out: Number of rows dropped because the label was missing.
    """

    left_out: int = 0


# dataset[task][split] → examples; plain lists serve as well
Dataset = dict[str, dict[str, list[Example]]]


def left_out(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Returns task → split → number of rows without a label; 0 for a list not read from a file."""
    counts: dict[str, dict[str, int]] = {}
    for name, splits in dataset.items():
        counts[name] = {split: getattr(examples, "left_out", 0)
                        for split, examples in splits.items()}
    return counts


def fingerprint(dataset: Dataset) -> str:
    """Returns a SHA-256 over ids, sentences and labels of the train and dev examples, in order.

    A checkpoint keeps it, since the indices and scores it holds belong to these examples.
    """
    digest = hashlib.sha256()
    for name, splits in dataset.items():
        for split in REQUIRED_SPLITS:
            for example in splits[split]:
                row = (name, split, example.id, example.sentences, example.label)
                digest.update(repr(row).encode())
    return digest.hexdigest()


def file_of(folder: Path, task: Task, split: str) -> Path:
    return folder / f"{task.file}-{split}.csv"


def missing_files(folder: Path) -> list[Path]:
    """Returns the train and dev files that the main job needs and the folder lacks."""
    paths = [file_of(folder, task, split) for task in TASKS.values() for split in REQUIRED_SPLITS]
    return [path for path in paths if not path.is_file()]


def load_dataset(folder: str | Path) -> Dataset:
    """Reads train and dev of every task, and test-student where it exists.

    Raises:
        FileNotFoundError, ValueError: The message names the file.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data {folder}: there is no such folder")
    missing = missing_files(folder)
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} of {2 * len(TASKS)} "
                                "train and dev files are): --data takes a folder with the course's "
                                "files")

    dataset: Dataset = {}
    for name, task in TASKS.items():
        dataset[name] = {}
        for split in REQUIRED_SPLITS:
            dataset[name][split] = read_examples(file_of(folder, task, split), task)
        test = file_of(folder, task, TEST_SPLIT)
        if test.is_file():
            dataset[name][TEST_SPLIT] = read_examples(test, task, labelled=False)
    return dataset


def read_examples(path: str | Path, task: Task, labelled: bool = True) -> Examples:
    """Reads one file's examples in file order.

    Rows with a blank label are left out, and a warning counts them. Another warning names ids that
    occur twice; all of their rows are kept. Empty sentences are kept too: [CLS] [SEP].

    Raises:
        ValueError: A column is missing, a row is too short, a label is unusable, or there are no
            rows; the message names file and line.
    """
    columns = ["id", *task.text_columns]
    if labelled:
        columns.append(task.label_column)
    examples = Examples()
    first_lines: dict[str, int] = {}
    repeated: dict[str, int] = {}

    for line, row in read_rows(user_path(path), columns):
        if first_lines.setdefault(row["id"], line) != line:
            repeated.setdefault(row["id"], line)
        if len(f"{row['id']}.".splitlines()) > 1:
            raise ValueError(f"{path}, line {line}: id is {reprlib.repr(row['id'])}, expected one "
                             "line: it names a line of the prediction file")

        sentences = tuple(row[column] for column in task.text_columns)
        if not labelled:
            examples.append(Example(row["id"], sentences, None))
            continue
        text = row[task.label_column].strip()
        if not text:
            examples.left_out += 1
            continue
        try:
            label = task.parse_label(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {task.label_column} is {reprlib.repr(text)}, "
                             f"{error}") from None
        examples.append(Example(row["id"], sentences, label))

    if examples.left_out:
        warnings.warn(f"{path}: left out {examples.left_out} rows with a blank {task.label_column}",
                      stacklevel=2)
    if repeated:
        name, line = next(iter(repeated.items()))
        warnings.warn(f"{path}: {len(repeated)} ids occur more than once, among them "
                      f"{reprlib.repr(name)} in lines {first_lines[name]} and {line}; all rows are "
                      "kept", stacklevel=2)
    if not examples:
        raise ValueError(f"{path} holds no usable rows: expected a header and at least one line "
                         "below it")
    return examples


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line a row begins in and the row, as column → field, of a tab-separated file.

    Raises:
        ValueError: A column is missing, a row has too few or too many fields, or it is not text;
            the message names file and line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: else a quotation mark inside a field is silently dropped and the rest joined to it
        reader = csv.reader(_whole_lines(file, path), delimiter="\t", strict=True)
        line = 1
        try:
            header = next(reader, None)
            _check_header(header, columns, path)
            places = {column: header.index(column) for column in columns}

            line = reader.line_num + 1
            blank = 0  # the first of the blank lines that have just been read
            for fields in reader:
                if fields:
                    # in a file of one column such a line may be meant as an empty sentence
                    if blank and len(header) == 1:
                        raise ValueError(f"{path}, line {blank}: a blank line between rows; write "
                                         'an empty sentence as "", or remove the line')
                    _check_fields(fields, header, places, f"{path}, line {line}")
                    yield line, {column: fields[place] for column, place in places.items()}
                elif not blank:
                    blank = line
                line = reader.line_num + 1
        except UnicodeDecodeError:
            raise ValueError(_not_utf8(path)) from None
        except csv.Error as error:
            reason = str(error).replace("\t", "\\t")
            raise ValueError(f"{path}, line {line}: {reason}; is a quotation mark amiss? A field "
                             "that begins with one ends with one, and those inside it are "
                             "doubled") from None


def _whole_lines(file: TextIO, path: Path) -> Iterator[str]:
    """The file's lines; a carriage return within a line would split a row in two."""
    for number, line in enumerate(bounded_lines(file, str(path)), start=1):
        if line.endswith("\r"):
            raise ValueError(f"{path}, line {number}: a carriage return without a line feed within "
                             "the line; remove it, or save the file with LF line ends")
        yield line


def _check_fields(fields: list[str], header: list[str], places: dict[str, int], where: str) -> None:
    if len(fields) > len(header):
        raise ValueError(f"{where}: more fields than the header has, {len(fields)} for "
                         f"{len(header)}; is a tab or a quotation mark amiss?")

    for column, place in places.items():
        if place >= len(fields):
            raise ValueError(f"{where}: no field for column {column!r}, only {len(fields)} for "
                             f"{len(header)}; is a tab or a quotation mark amiss?")
        field = fields[place]
        if "\t" in field and ("\n" in field or "\r" in field):
            raise ValueError(f"{where}: {column} runs over tabs and lines, {reprlib.repr(field)}; "
                             "is a quotation mark amiss? Those inside a quoted field are doubled")


def _not_utf8(path: Path) -> str:
    """Finds line and byte, which the decoder cannot name since it reads in blocks."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(1 << 22):
            number += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at "
                        f"{error.start + 1} of the line); save the file as UTF-8")
    return f"{path}: not UTF-8; save the file as UTF-8"  # a line of many MB, cut within a character


def _check_header(header: Sequence[str] | None, columns: Sequence[str], path: Path) -> None:
    if header is None:
        raise ValueError(f"{path} is empty: expected a header with the columns "
                         f"{', '.join(columns)}")

    found = one_line(", ".join(map(repr, header)))
    for column in columns:
        if column not in header:
            hint = ""
            if column == columns[-1] and len(columns) > 2:
                hint = "; is it a test file, which has no labels?"
            raise ValueError(f"{path}, line 1: no column {column!r}; expected tab-separated "
                             f"columns {', '.join(columns)}, found {found}{hint}")
        if header.count(column) > 1:
            raise ValueError(f"{path}, line 1: {column!r} names {header.count(column)} columns, "
                             f"found {found}; rename the one that is not meant")
