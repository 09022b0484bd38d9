"""What every reader of a file from outside needs: JSON and lines that stay within bounds, and words fit for an error.

Such a file may be damaged, hostile or another kind of file. What is wrong with it is told by a ValueError in one line
that names it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

JSON_BYTES = 1 << 26       # a configuration or an index; the largest models' are a hundredth of it
LINE_CHARACTERS = 1 << 22  # of a line of data; MultiNLI's longest has 106,016


def read_object(path: Path) -> dict:
    """The JSON object that a file holds, in UTF-8. Raises ValueError, naming the file, if it holds anything else."""
    size = path.stat().st_size
    if size > JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, where at most {JSON_BYTES:,} are expected of such a file")
    value = parse(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def parse(text: str | bytes, where: str) -> object:
    """Any JSON value; ValueError, beginning with `where`, for what is none, nested too deeply or of too many digits."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # its kinds: no JSON, no UTF-8, a number of more than 4,300 digits
        reason = one_line(error)
    raise ValueError(f"{where} is not valid JSON ({reason})")


def bounded_lines(file: TextIO, where: str) -> Iterator[str]:
    """The file's lines, like iterating over it; ValueError for one that is too long to be read into memory."""
    number = 0
    while line := file.readline(LINE_CHARACTERS):
        number += 1
        if len(line) == LINE_CHARACTERS and not line.endswith("\n"):
            raise ValueError(f"{where}, line {number}: more than {LINE_CHARACTERS:,} characters in one line; is it "
                             "another kind of file?")
        yield line


def one_line(text: object, limit: int = 300) -> str:
    """Words from outside as part of an error: no line breaks or control characters, the middle left out if it is long.

    >>> one_line("a\\nb \\x1b[31m")
    'a b ?[31m'
    """
    words = " ".join(str(text).split())
    words = "".join(character if character.isprintable() else "?" for character in words)
    return words if len(words) <= limit else f"{words[:limit // 2]} … {words[-limit // 2:]}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write to; the file takes its place, at once, when the block ends well.

    The bytes are on the disk before the name is, and the name before this returns. What was written is removed if the
    block fails, so that a full disk is not fuller than before. Raises OSError where safetensors cannot write.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # what a killed process has left
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; safetensors puts files there that only their owner reads
        yield partial
        partial.chmod(mode)
        sync(partial)
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{path}: {error}") from None
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's bytes, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # some network disks know it of files only
            raise
    finally:
        os.close(descriptor)
