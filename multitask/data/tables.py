"""Rows of a file: tab, comma or semicolon separated with a header, or one JSON object per line.

Columns are found by name, so further ones do no harm. Every error names file and line, and says
what to do.
"""

import csv
import io
import itertools
import json
import reprlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from minbert.files import bounded_lines, one_line, parse

DELIMITERS = "\t,;"
STDIN = Path("-")  # the name of the standard input
JSON_ENDINGS = (".jsonl", ".ndjson")
# first bytes → what the file is, and what to do
OTHER_KINDS = {
    b"PK\x03\x04": "an Excel workbook or another zip file: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"\x1f\x8b": "compressed (gzip): unpack it",
}


def read_rows(path: Path, columns: Sequence[str],
              scalars: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the line a row begins in and the row, as column → field, all columns in their order.

    Args:
        path: the file, JSON lines if it ends in .jsonl or .ndjson; or "-" for the standard input,
            JSON lines if it begins with a brace.
        columns: those that must be there; their fields are text.
        scalars: those of them where, in JSON lines, a number, true or false may stand for its text,
            null for "".

    Raises:
        ValueError: a column is missing, a row has too few or too many fields, or it is not text;
            the message names file and line.
    """
    where = name_of(path)
    if path.suffix.lower() == ".json":
        raise ValueError(f"{where}: expected .jsonl, one JSON object per line, in place of .json")
    with _opened(path) as file:
        lines = bounded_lines(file, where)
        first = next(lines, "")
        every = itertools.chain([first] if first else [], lines)
        is_json = path.suffix.lower() in JSON_ENDINGS or (path == STDIN and first[:1] == "{")
        if is_json:
            yield from read_json_lines(every, where, columns, scalars)
        else:
            yield from _read_delimited(every, first, where, columns)


def header_of(path: Path, columns: Sequence[str]) -> list[str]:
    """The columns of a file that `read_rows` found to have no rows."""
    with _opened(path) as file:
        header = next(bounded_lines(file, name_of(path)), "")
    return _unique(next(csv.reader([header], delimiter=delimiter_of(header, columns)), []))


def name_of(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


def _opened(path: Path) -> TextIO:
    file = sys.stdin.buffer if path == STDIN else path.open("rb")
    begin = b"" if path == STDIN else file.peek(4)
    for signature, kind in OTHER_KINDS.items():
        if begin.startswith(signature):
            file.close()
            raise ValueError(f"{path} is {kind}")
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


# ---------------------------------------------------------------------- separated by a character


def delimiter_of(header: str, columns: Sequence[str]) -> str:
    """The delimiter with which the header has all the columns; else the one that splits it most.

    >>> delimiter_of("id,review,verdict", ["review", "verdict"])
    ','
    """
    split = {}
    for delimiter in DELIMITERS:
        try:
            split[delimiter] = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:  # a field of more than 131,072 characters
            split[delimiter] = []
    for delimiter, fields in split.items():
        if set(columns) <= set(fields):
            return delimiter
    return max(split, key=lambda delimiter: len(split[delimiter]))


def _read_delimited(lines: Iterator[str], first: str, where: str,
                    columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = delimiter_of(first, columns)
    # strict: else a quotation mark inside a field is silently dropped and the rest joined to it
    reader = csv.reader(_whole_lines(lines, where), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, None)
        _check_header(header, columns, where)
        names = _unique(header)
        places = {column: header.index(column) for column in columns}

        line = reader.line_num + 1
        blank = 0  # the first of the blank lines that have just been read
        for fields in reader:
            if fields:
                # in a file of one column such a line may be meant as an empty sentence
                if blank and len(header) == 1:
                    raise ValueError(f"{where}, line {blank}: a blank line between rows; write "
                                     'an empty sentence as "", or remove the line')
                _check_fields(fields, header, places, f"{where}, line {line}")
                if delimiter == "\t":
                    _check_no_row_is_swallowed(fields, places, f"{where}, line {line}")
                yield line, dict(itertools.zip_longest(names, fields, fillvalue=""))
            elif not blank:
                blank = line
            line = reader.line_num + 1
    except csv.Error as error:
        reason = str(error).replace("\t", "\\t")
        raise ValueError(f"{where}, line {line}: {reason}; is a quotation mark missing? A field "
                         "that begins with one ends with one, and those inside it are "
                         "doubled") from None


def _unique(header: Sequence[str]) -> list[str]:
    """The header; a name that occurs again gets a number, as the course's unnamed columns do."""
    names: list[str] = []
    for name in header:
        new, number = name, 1
        while new in names:
            new, number = f"{name}.{number}", number + 1
        names.append(new)
    return names


def _whole_lines(lines: Iterator[str], where: str) -> Iterator[str]:
    """The file's lines; a carriage return within a line would split a row in two."""
    for number, line in enumerate(lines, start=1):
        if line.endswith("\r"):
            raise ValueError(f"{where}, line {number}: a carriage return without a line feed "
                             "within the line; remove it, or save the file with LF line ends")
        yield line


def _check_fields(fields: list[str], header: list[str], places: dict[str, int],
                  where: str) -> None:
    amiss = "is a delimiter or a quotation mark missing?"
    if len(fields) > len(header):
        raise ValueError(f"{where}: more fields than the header has, {len(fields)} for "
                         f"{len(header)}; {amiss}")

    for column, place in places.items():
        if place >= len(fields):
            raise ValueError(f"{where}: no field for column {column!r}, only {len(fields)} for "
                             f"{len(header)}; {amiss}")


def _check_no_row_is_swallowed(fields: list[str], places: dict[str, int], where: str) -> None:
    for column, place in places.items():
        field = fields[place]
        if "\t" in field and ("\n" in field or "\r" in field):
            raise ValueError(f"{where}: {column} contains both tabs and line breaks, "
                             f"{reprlib.repr(field)}; is a quotation mark missing? Those inside a "
                             "quoted field are doubled")


def _check_header(header: Sequence[str] | None, columns: Sequence[str], where: str) -> None:
    if header is None:
        raise ValueError(f"{where} is empty: expected a header with {_columns(columns)}")

    found = one_line(", ".join(map(repr, header)))
    for column in columns:
        if column not in header:
            raise ValueError(f"{where}, line 1: no column {column!r}; expected "
                             f"{_columns(columns)}, separated by tabs, commas or semicolons, "
                             f"found {found}")
        if header.count(column) > 1:
            raise ValueError(f"{where}, line 1: {column!r} names {header.count(column)} columns, "
                             f"found {found}; rename the one that is not meant")


def _columns(names: Sequence[str]) -> str:
    return f"column{'s' * (len(names) > 1)} {', '.join(names)}"


# ------------------------------------------------------------------------------------ JSON lines


def read_json_lines(lines: Iterator[str], where: str, columns: Sequence[str],
                    scalars: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields line number and JSON object; blank lines are skipped. See `read_rows`."""
    for line, text in enumerate(lines, start=1):
        if text.strip():
            place = f"{where}, line {line}"
            row = parse(text, f"{place}: not one JSON object per line, it")
            texts = {column: _as_text(row, column, place, column in scalars) for column in columns}
            yield line, {**row, **texts}


def _as_text(row: object, column: str, place: str, is_scalar: bool) -> str:
    value = row.get(column, ...) if isinstance(row, dict) else ...
    if is_scalar and value is None:
        return ""
    if is_scalar and isinstance(value, (bool, int, float)):
        return str(value).lower()  # true, as JSON writes it
    if not isinstance(value, str):
        if value is not ...:
            found = f"a {type(value).__name__}"
            if not isinstance(value, (list, dict)):
                found = json.dumps(value)
            raise ValueError(f"{place}: {column!r} is {found}; expected a string, in quotes")
        keys = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{place}: expected a JSON object with a string {column!r}, found "
                         f"{one_line(keys)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{place}: {column} has an unpaired surrogate (\\ud800 to \\udfff); save "
                         "the file again")
    return value
