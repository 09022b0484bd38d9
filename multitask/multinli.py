"""MultiNLI's files → examples: jsonl as it is published, in a folder or still in its zip (Williams et al. 2018).

DATA/multinli/multinli_1.0_train.jsonl and …_dev_matched.jsonl, or multinli_1.0.zip in DATA or DATA/multinli.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .data import Example
from .tasks import NLI

FOLDER, ZIP_FILE = "multinli", "multinli_1.0.zip"
FILES = {"train": "multinli_1.0_train.jsonl", "dev": "multinli_1.0_dev_matched.jsonl"}
NO_CONSENSUS = "-"  # the annotators disagreed; such pairs are left out, as the corpus's authors do


def load_multinli(data: str | Path) -> dict[str, list[Example]]:
    """{"train": examples, "dev": examples}. Raises FileNotFoundError or ValueError, naming file and line."""
    return {split: read_multinli(Path(data), name) for split, name in FILES.items()}


def read_multinli(data: Path, name: str) -> list[Example]:
    """One file's pairs with a label, in file order; pairs without consensus ('-') are left out."""
    examples = []
    with open_file(data, name) as (file, where):
        for line, row in read_rows(file, where):
            text = row[NLI.label_column]
            if text == NO_CONSENSUS:
                continue
            try:
                label = NLI.parse_label(text)
            except ValueError as error:
                raise ValueError(f"{where}, line {line}: {NLI.label_column} is {text!r}, {error}") from None
            sentences = tuple(row[column] for column in NLI.text_columns)
            examples.append(Example(str(row.get("pairID", line)), sentences, label))
    if not examples:
        raise ValueError(f"{where} holds no pair with a label: expected one JSON object a line")
    return examples


def read_rows(file: TextIO, where: str) -> Iterator[tuple[int, dict]]:
    """Yields line number and JSON object; blank lines do no harm."""
    line = 0
    try:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, _checked(json.loads(text), where, line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}, after line {line}: not UTF-8 ({error.reason})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}, line {line}: not one JSON object a line ({error})") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{where} is damaged ({error}); fetch it again") from None


def _checked(row: object, where: str, line: int) -> dict:
    for column in (NLI.label_column, *NLI.text_columns):
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            raise ValueError(f"{where}, line {line}: expected a JSON object with a string {column!r}")
    return row


@contextmanager
def open_file(data: Path, name: str) -> Iterator[tuple[TextIO, str]]:
    """The file and how an error names it: DATA/multinli/NAME, or the member NAME of the official zip."""
    path = data / FOLDER / name
    if path.is_file():
        with path.open(encoding="utf-8-sig") as file:
            yield file, str(path)
        return
    for archive in (data / ZIP_FILE, data / FOLDER / ZIP_FILE):
        if archive.is_file():
            with _member(archive, name) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
                yield file, f"{archive}, {name}"
            return
    raise FileNotFoundError(f"{path} is missing: --nli takes MultiNLI's two .jsonl files in that folder, or "
                            f"{ZIP_FILE} in {data}; python -m multitask.data --download {data} fetches them")


@contextmanager
def _member(archive: Path, name: str) -> Iterator[io.BufferedIOBase]:
    try:
        with zipfile.ZipFile(archive) as package:
            found = [entry for entry in package.namelist()
                     if entry.rsplit("/", 1)[-1] == name and not entry.startswith("__MACOSX")]
            if len(found) != 1:
                raise ValueError(f"{archive} holds {len(found)} files {name}; expected the official zip with one")
            if package.getinfo(found[0]).flag_bits & 1:
                raise ValueError(f"{archive} is encrypted; the official zip is not: fetch it again")
            with package.open(found[0]) as file:
                yield file
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no zip file ({error}); fetch it again") from None
