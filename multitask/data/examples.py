"""A task's files → examples. Every error names file and line and says what to do.

The course's files are tab-separated with a header, in spite of their name, and have an unnamed
index column.
"""

import hashlib
import reprlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minbert.files import counted, user_path
from multitask.tasks import TASKS, Task

from .tables import read_rows

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


def file_of(folder: Path, task: Task, split: str) -> Path | None:
    """Where a split of a task lies; None if the task names no file for it."""
    name = {"train": task.train, "dev": task.dev, TEST_SPLIT: task.test}[split]
    return folder / name if name else None


def missing_files(folder: Path, tasks: Iterable[Task] = tuple(TASKS.values())) -> list[Path]:
    """Returns the train and dev files that the main job needs and the folder lacks."""
    paths = [file_of(folder, task, split) for task in tasks for split in REQUIRED_SPLITS]
    return [path for path in paths if path is not None and not path.is_file()]


def load_dataset(folder: str | Path | None, tasks: Iterable[Task] | None = None) -> Dataset:
    """Reads train and dev of every task, and test examples where there are any.

    Args:
        folder: of the built-in tasks' files; None if all tasks have files of their own.
        tasks: by default those of the paper.

    Raises:
        FileNotFoundError, ValueError: The message names the file.
    """
    folder = user_path(folder or ".")
    tasks = tuple(TASKS.values() if tasks is None else tasks)
    in_folder = [task for task in tasks if not task.has_own_files]
    if in_folder:
        if not folder.is_dir():
            raise FileNotFoundError(f"--data {folder}: there is no such folder")
        missing = missing_files(folder, in_folder)
        if missing:
            raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} of "
                                    f"{2 * len(in_folder)} train and dev files are): --data takes "
                                    "a folder with the course's files")
    return {task.name: _load_splits(folder, task) for task in tasks}


def _load_splits(folder: Path, task: Task) -> dict[str, list[Example]]:
    files = {split: file_of(folder, task, split) for split in (*REQUIRED_SPLITS, TEST_SPLIT)}
    for split, path in files.items():
        if path is not None and task.has_own_files and not path.is_file():
            raise FileNotFoundError(f"[{task.name}] {split.removesuffix('-student')}: {path} is "
                                    "missing; correct the task file, or name it again with --tasks "
                                    "if files have moved")

    splits: dict[str, list[Example]] = {"train": read_examples(files["train"], task)}
    if files["dev"] is None:
        splits["train"], splits["dev"] = draw_dev(splits["train"], task)
    else:
        splits["dev"] = read_examples(files["dev"], task)
    if task.has_own_files:
        _warn_of_absent_classes(task, splits["train"], files["train"])

    test = files[TEST_SPLIT]
    if test is not None and test.is_file():
        splits[TEST_SPLIT] = read_examples(test, task, labelled=False)
    return splits


def draw_dev(examples: Examples, task: Task) -> tuple[Examples, Examples]:
    """Training examples → (train, dev): about `dev_share` of them, both in file order.

    An example is for dev if a hash of its texts, a number from 0 to 1, is at most `dev_share`, or
    the smallest of all. So it stays on its side when the file is sorted or grows, and copies of a
    text are on one side.
    """
    hashes = [_hash(example) for example in examples]
    border = max(task.dev_share, min(hashes))
    train, dev = Examples(), Examples()
    train.left_out = examples.left_out
    for example, value in zip(examples, hashes, strict=True):
        (dev if value <= border else train).append(example)
    if not train:
        raise ValueError(f"[{task.name}] dev_share = {task.dev_share:g} of {len(examples)} "
                         "examples leaves none for training: give a smaller share, or more "
                         "examples")
    return train, dev


def _hash(example: Example) -> float:
    digest = hashlib.sha256("\n".join(example.sentences).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _warn_of_absent_classes(task: Task, examples: list[Example], path: Path) -> None:
    present = {example.label for example in examples}
    absent = [name for number, name in enumerate(task.labels[:task.classes])
              if number not in present]
    if absent:
        warnings.warn(f"{path}: no training example of {task.name} has the label "
                      f"{', '.join(map(repr, absent))}, so it cannot be learnt", stacklevel=2)


def label_of(task: Task, text: str, place: str) -> float:
    """A label as a file writes it → a number. Raises ValueError, which names the place."""
    try:
        return task.parse_label(text)
    except ValueError as error:
        raise ValueError(f"{place}: {task.label} is {reprlib.repr(text)}, {error}") from None


def read_examples(path: str | Path, task: Task, labelled: bool = True) -> Examples:
    """Reads one file's examples in file order.

    Rows with a blank label are left out, and a warning counts them. Another warning names ids that
    occur twice; all of their rows are kept. Empty sentences are kept too: [CLS] [SEP].

    Raises:
        ValueError: A column is missing, a row is too short, a label is unusable, or there are no
            rows; the message names file and line.
    """
    columns = [task.id] if task.id else []
    columns += task.text
    if labelled:
        columns.append(task.label)
    examples = Examples()
    first_lines: dict[str, int] = {}
    repeated: dict[str, int] = {}

    rows = read_rows(user_path(path), columns, scalars=(task.id, task.label))
    for number, (line, row) in enumerate(rows, start=1):
        name = row[task.id] if task.id else str(number)
        if first_lines.setdefault(name, line) != line:
            repeated.setdefault(name, line)
        if len(f"{name}.".splitlines()) > 1:
            raise ValueError(f"{path}, line {line}: {task.id} is {reprlib.repr(name)}, expected "
                             "one line: it names a line of the prediction file")

        sentences = tuple(row[column] for column in task.text)
        if not labelled:
            examples.append(Example(name, sentences, None))
            continue
        text = row[task.label].strip()
        if not text:
            examples.left_out += 1
            continue
        label = label_of(task, text, f"{path}, line {line}")
        examples.append(Example(name, sentences, label))

    if task.has_own_files:
        empty = sum(1 for example in examples if not any(map(str.strip, example.sentences)))
        if empty:
            warnings.warn(f"{path}: kept {counted(empty, 'row')} without text", stacklevel=2)
    if examples.left_out:
        warnings.warn(f"{path}: left out {counted(examples.left_out, 'row')} with a blank "
                      f"{task.label}", stacklevel=2)
    if repeated:
        name, line = next(iter(repeated.items()))
        warnings.warn(f"{path}: {counted(len(repeated), 'id')} more than once, among them "
                      f"{reprlib.repr(name)} in lines {first_lines[name]} and {line}; all rows are "
                      "kept", stacklevel=2)
    if not examples:
        raise ValueError(f"{path} holds no usable rows: at least one is needed")
    return examples
