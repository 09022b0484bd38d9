"""What every reader of a file from outside needs: JSON and lines that stay within bounds, and words fit for an error.

Such a file may be damaged, hostile or another kind of file. What is wrong with it is told by a ValueError in one line
that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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
