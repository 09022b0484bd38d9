"""MultiNLI's files → examples: jsonl as it is published, in a folder or still in its zip (Williams et al. 2018).

DATA/multinli/multinli_1.0_train.jsonl and …_dev_matched.jsonl, or multinli_1.0.zip in DATA or DATA/multinli.
"""

from __future__ import annotations

import io
import reprlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from minbert.files import bounded_lines, one_line, parse
from multitask.tasks import NLI

from .course import Example, Examples

FOLDER, ZIP_FILE = "multinli", "multinli_1.0.zip"
FILES = {"train": "multinli_1.0_train.jsonl", "dev": "multinli_1.0_dev_matched.jsonl"}
MEMBER_LIMIT = 1 << 30  # bytes; no file of MultiNLI is half as large
NO_CONSENSUS = "-"  # the annotators disagreed; such pairs are left out, as the corpus's authors do


def load_multinli(data: str | Path) -> dict[str, Examples]:
    """{"train": examples, "dev": examples}. Raises FileNotFoundError or ValueError, naming file and line."""
    return {split: read_multinli(Path(data), name) for split, name in FILES.items()}


def read_multinli(data: Path, name: str) -> Examples:
    """One file's pairs with a label, in file order; pairs without consensus ('-') are left out, as are blank labels,
    which a warning counts."""
    examples, blank = Examples(), 0
    with open_file(data, name) as (file, where):
        for line, row in read_rows(file, where):
            text = row[NLI.label_column]
            if text == NO_CONSENSUS or not text.strip():
                blank += not text.strip()
                examples.left_out += 1
                continue
            try:
                label = NLI.parse_label(text)
            except ValueError as error:
                raise ValueError(f"{where}, line {line}: {NLI.label_column} is {reprlib.repr(text)}, {error}") from None
            sentences = tuple(row[column] for column in NLI.text_columns)
            examples.append(Example(one_line(row.get("pairID", line)), sentences, label))
    if blank:
        warnings.warn(f"{where}: left out {blank} pairs with a blank {NLI.label_column}", stacklevel=2)
    if not examples:
        raise ValueError(f"{where} holds no pair with a label: expected one JSON object a line")
    return examples


def read_rows(file: TextIO, where: str) -> Iterator[tuple[int, dict]]:
    """Yields line number and JSON object; blank lines do no harm."""
    line = 0
    try:
        for line, text in enumerate(bounded_lines(file, where), start=1):
            if text.strip():
                yield line, _checked(parse(text, f"{where}, line {line}: not one JSON object a line, it"), where, line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}, after line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{where} is damaged ({error}); fetch it again") from None


def _checked(row: object, where: str, line: int) -> dict:
    for column in (NLI.label_column, *NLI.text_columns):
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            raise ValueError(f"{where}, line {line}: expected a JSON object with a string {column!r}")
        if any("\ud800" <= character <= "\udfff" for character in row[column]):
            raise ValueError(f"{where}, line {line}: {column} holds half a character, \\ud800 to \\udfff in pairs "
                             "only; save the file anew")
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
            info = package.getinfo(found[0])
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{archive} is encrypted or packed in an unusual way; the official zip is not: fetch "
                                 "it again")
            if info.file_size > MEMBER_LIMIT:
                raise ValueError(f"{archive}: {name} would unpack to {info.file_size:,} bytes, where at most "
                                 f"{MEMBER_LIMIT:,} are expected; fetch it again")
            with package.open(info) as file:
                yield file
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(f"{archive} is no zip file ({one_line(error)}); fetch it again") from None
