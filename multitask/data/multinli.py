"""MultiNLI's files → examples, in a folder or in the published zip (Williams et al. 2018).

They are DATA/multinli/multinli_1.0_train.jsonl and …_dev_matched.jsonl, or in
multinli_1.0.zip, in DATA or DATA/multinli. The zip is read in place.
"""

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from minbert.files import bounded_lines, counted, one_line, user_path
from multitask.commands import command_line
from multitask.tasks import NLI

from .examples import Example, Examples, label_of
from .tables import read_json_lines

FOLDER, ZIP_FILE = "multinli", "multinli_1.0.zip"
FILES = {"train": NLI.train, "dev": NLI.dev}
MEMBER_LIMIT = 1 << 30  # bytes; every file of MultiNLI is below half of it
NO_CONSENSUS = "-"  # the annotators disagreed; the corpus's authors leave such pairs out too


def load_multinli(data: str | Path) -> dict[str, Examples]:
    """Returns {"train": examples, "dev": examples}.

    Raises:
        FileNotFoundError, ValueError: The message names file and line.
    """
    return {split: read_multinli(user_path(data), name) for split, name in FILES.items()}


def read_multinli(data: Path, name: str) -> Examples:
    """Returns one file's labelled pairs in file order.

    Pairs without consensus ('-') or with a blank label are left out; a warning counts the latter.
    """
    examples = Examples()
    blank = 0

    with open_file(data, name) as (file, where):
        for line, row in read_pairs(file, where):
            text = row[NLI.label]
            if text == NO_CONSENSUS or not text.strip():
                examples.left_out += 1
                if not text.strip():
                    blank += 1
                continue

            label = label_of(NLI, text, f"{where}, line {line}")
            sentences = tuple(row[column] for column in NLI.text)
            examples.append(Example(one_line(row.get(NLI.id, line)), sentences, label))

    if blank:
        warnings.warn(f"{where}: left out {counted(blank, 'pair')} with a blank {NLI.label}",
                      stacklevel=2)
    if not examples:
        raise ValueError(f"{where} holds no pair with a label: expected one JSON object per line")
    return examples


def read_pairs(file: TextIO, where: str) -> Iterator[tuple[int, dict]]:
    """Yields line number and JSON object; blank lines are skipped."""
    try:
        yield from read_json_lines(bounded_lines(file, where), where, (NLI.label, *NLI.text))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{where} is damaged ({error}); fetch it again") from None


@contextmanager
def open_file(data: Path, name: str) -> Iterator[tuple[TextIO, str]]:
    """Yields the file and its name for errors: DATA/multinli/NAME, or NAME in the zip."""
    path = data / FOLDER / name
    if path.is_file():
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            yield file, str(path)
        return

    archive = find_zip(data)
    if archive is None:
        raise FileNotFoundError(f"{path} is missing: put MultiNLI's two .jsonl files into that "
                                f"folder, or {ZIP_FILE} into {data}; "
                                f"{command_line('data')} --download {data} fetches them")
    with _open_member(archive, name) as file:
        yield file, f"{archive}, {name}"


def find_zip(data: Path) -> Path | None:
    """The published zip, if it is in the data folder or in its folder multinli."""
    for archive in (data / ZIP_FILE, data / FOLDER / ZIP_FILE):
        if archive.is_file():
            return archive
    return None


def check_zip(archive: Path) -> str:
    """Says what a zip holds, after a look at the first pair of both files.

    Raises:
        ValueError: It is not MultiNLI's zip.
    """
    for name in FILES.values():
        where = f"{archive}, {name}"
        with _open_member(archive, name) as file:
            if next(read_pairs(file, where), None) is None:
                raise ValueError(f"{where} is empty: expected one JSON object per line")
    return f"{archive.stat().st_size:,} bytes"


@contextmanager
def _open_member(archive: Path, name: str) -> Iterator[TextIO]:
    """Opens one file of the zip, found by the last part of its name; that never becomes a path."""
    try:
        with zipfile.ZipFile(archive) as package:
            found = [entry for entry in package.infolist()
                     if entry.filename.rsplit("/", 1)[-1] == name
                     and not entry.filename.startswith("__MACOSX")]
            if len(found) != 1:
                raise ValueError(f"{archive} holds {len(found)} files {name}; "
                                 "expected the official zip with one")

            [info] = found
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED,
                                                                zipfile.ZIP_DEFLATED):
                raise ValueError(f"{archive} is encrypted or packed in an unusual way; "
                                 "the official zip is not: fetch it again")
            if info.file_size > MEMBER_LIMIT:
                raise ValueError(f"{archive}: {name} would unpack to {info.file_size:,} bytes, "
                                 f"where at most {MEMBER_LIMIT:,} are expected; fetch it again")
            with (package.open(info) as raw,
                  io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape") as file):
                yield file
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise ValueError(f"{archive} is not a zip file ({one_line(error)}); "
                         "fetch it again") from None
