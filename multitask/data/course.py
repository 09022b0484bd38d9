"""The course's files → examples. Every error names file, line and what to do.

The files are tab-separated with a header, in spite of their name; columns are found by name, so the unnamed index
column and any further one do no harm.
"""

from __future__ import annotations

import csv
import hashlib
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minbert.files import bounded_lines, one_line
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
    """A file's examples, in its order. left_out: how many of its rows are not among them for want of a label."""

    left_out: int = 0


# dataset[task][split] → examples; a list of one's own making serves as well
Dataset = dict[str, dict[str, list[Example]]]


def left_out(dataset: Dataset) -> dict[str, dict[str, int]]:
    """task → split → how many rows of its file had no label; 0 for a list that was not read from a file."""
    return {name: {split: getattr(examples, "left_out", 0) for split, examples in splits.items()}
            for name, splits in dataset.items()}


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


def read_examples(path: str | Path, task: Task, labelled: bool = True) -> Examples:
    """One file → examples in file order. Rows with a blank label are left out and counted in a warning; so are ids that
    stand more than once, but all of their rows are kept. Empty sentences are kept: [CLS] [SEP].

    Raises ValueError naming file and line for a missing column, a short row, an unusable label, or no rows at all.
    """
    columns = ["id", *task.text_columns, *([task.label_column] if labelled else [])]
    examples = Examples()
    first_lines: dict[str, int] = {}
    repeated: dict[str, int] = {}
    for line, row in read_rows(Path(path), columns):
        if first_lines.setdefault(row["id"], line) != line:
            repeated.setdefault(row["id"], line)
        if len(f"{row['id']}.".splitlines()) > 1:
            raise ValueError(f"{path}, line {line}: id is {reprlib.repr(row['id'])}, expected one line: it names a "
                             "line of the prediction file")
        text = row[task.label_column].strip() if labelled else ""
        try:
            label = task.parse_label(text) if text else None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {task.label_column} is {reprlib.repr(text)}, {error}") from None
        if labelled and label is None:
            examples.left_out += 1
        else:
            examples.append(Example(row["id"], tuple(row[column] for column in task.text_columns), label))
    if examples.left_out:
        warnings.warn(f"{path}: left out {examples.left_out} rows with a blank {task.label_column}", stacklevel=2)
    if repeated:
        name, line = next(iter(repeated.items()))
        warnings.warn(f"{path}: {len(repeated)} ids stand more than once, among them {reprlib.repr(name)} in lines "
                      f"{first_lines[name]} and {line}; all rows are kept", stacklevel=2)
    if not examples:
        raise ValueError(f"{path} holds no usable rows: expected a header and at least one line below it")
    return examples


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line a row begins in and the row, as column → field, of a tab-separated file with these columns.

    Raises ValueError naming file and line for a missing column, a row with too few or too many fields, or no text.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: else a quotation mark inside a field is dropped, and what follows one joined to it, without a word
        reader = csv.reader(bounded_lines(file, str(path)), delimiter="\t", strict=True)
        line = 1
        try:
            header = next(reader, None)
            _check_header(header, columns, path)
            places = [(column, header.index(column)) for column in columns]
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    _check_fields(fields, header, places, f"{path}, line {line}")
                    yield line, {column: fields[place] for column, place in places}
                line = reader.line_num + 1
        except UnicodeDecodeError:
            raise ValueError(_not_utf8(path)) from None
        except csv.Error as error:
            reason = str(error).replace("\t", "\\t")
            raise ValueError(f"{path}, line {line}: {reason}; is a quotation mark amiss? A field that begins with one "
                             "ends with one, and those inside it are doubled") from None


def _check_fields(fields: list[str], header: list[str], places: list[tuple[str, int]], where: str) -> None:
    if len(fields) > len(header):
        raise ValueError(f"{where}: more fields than the header has, {len(fields)} for {len(header)}; is a tab or a "
                         "quotation mark amiss?")
    for column, place in places:
        if place >= len(fields):
            raise ValueError(f"{where}: no field for column {column!r}, only {len(fields)} for {len(header)}; is a tab "
                             "or a quotation mark amiss?")
        if "\t" in fields[place] and ("\n" in fields[place] or "\r" in fields[place]):
            raise ValueError(f"{where}: {column} goes on over tabs and lines, {reprlib.repr(fields[place])}; is a "
                             "quotation mark amiss? Those inside a quoted field are doubled")


def _not_utf8(path: Path) -> str:
    """Which line and byte it is, which the decoder, that reads in blocks, cannot say."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(1 << 22), b""), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (f"{path}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1} of the "
                        "line); save the file as UTF-8")
    return f"{path}: not UTF-8; save the file as UTF-8"  # a line of many MB, cut within a character


def _check_header(header: Sequence[str] | None, columns: Sequence[str], path: Path) -> None:
    if header is None:
        raise ValueError(f"{path} is empty: expected a header with the columns {', '.join(columns)}")
    found = one_line(", ".join(map(repr, header)))
    for column in columns:
        if column not in header:
            hint = "; is it a test file, which has no labels?" if column == columns[-1] and len(columns) > 2 else ""
            raise ValueError(f"{path}, line 1: no column {column!r}; expected tab-separated columns "
                             f"{', '.join(columns)}, found {found}{hint}")
        if header.count(column) > 1:
            raise ValueError(f"{path}, line 1: {column!r} names {header.count(column)} columns, found {found}; rename "
                             "the one that is not meant")
