"""Many folders at once, for teachers: one row of points and one page of feedback for each.

Every folder's exercises are copied first, so that no student's code runs where it was handed in.
"""

import csv
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from minbert.files import bounded_lines, choice_hint, one_line, rewriting, write_text
from multitask.reports.page import heading, page, paragraph, preformatted

from .checking import LARGEST_FILE, PROGRESS_FILE, Verdict, check_folder
from .exercise import FILES, NAMES, load
from .starting import README
from .worker import write_temporary

POINTS = 10          # per exercise without a table


@dataclass(frozen=True)
class Grade:
    """One student.

    Attributes:
        points: exercise → points.
        notes: what a teacher should know besides.
    """

    folder: str
    points: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        return round(sum(self.points.values()), 2)


def read_points(path: Path | None) -> dict[str, float]:
    """A table exercise,points; without one, every exercise has POINTS.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an exercise that does not exist or comes twice, points that are not a number
            from 0, or a line that is not UTF-8, with file and line; or a table without an exercise.
    """
    if path is None:
        return dict.fromkeys(NAMES, POINTS)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    points: dict[str, float] = {}
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for line, row in enumerate(csv.reader(bounded_lines(file, str(path))), start=1):
            row = [cell.strip() for cell in row]
            if not any(row) or [cell.casefold() for cell in row] == ["exercise", "points"]:
                continue
            if len(row) != 2 or not row[1].replace(".", "", 1).isdecimal():
                raise ValueError(f"{path}, line {line}: expected EXERCISE,POINTS, found "
                                 f"{one_line(','.join(row))!r}")
            name = row[0]
            if name not in NAMES:
                raise ValueError(f"{path}, line {line}: there is no exercise {name!r}; "
                                 f"{choice_hint(name, NAMES)}")
            if name in points:
                raise ValueError(f"{path}, line {line}: {name} has points already")
            points[name] = float(row[1])
    if not points:
        raise ValueError(f"{path} names no exercise: expected lines EXERCISE,POINTS")
    return {name: points[name] for name in NAMES if name in points}


def points_table(names: Sequence[str]) -> str:
    return "".join(["exercise,points\n", *(f"{name},{POINTS}\n" for name in names)])


def grade(folders: Sequence[Path], out: Path, points: Mapping[str, float], seed: int,
          say: Callable[[str], None]) -> None:
    """Grades folder after folder. The table and the pages are complete after each.

    Args:
        out: the CSV; the pages go into a folder beside it. Rows of other folders are kept.
        points: exercise → points for all of its checks; each check counts alike.
        seed: of the random draws, other ones than a student saw.

    Raises:
        ValueError: no folder can be a student's, or `out` is another table; nothing is written.
    """
    reasons = [why_not_graded(folder, points) for folder in folders]
    if all(reasons):
        raise ValueError(f"{folders[0]}: {reasons[0]}")
    rows = rows_of(out, points)
    cells = [_cell(str(folder)) for folder in folders]
    students = {*rows, *cells}
    if kept := rows.keys() - set(cells):
        say(f"{out}: rows of other folders that are kept: {len(kept)}")

    pages = pages_of(out)
    pages.mkdir(parents=True, exist_ok=True)
    for folder, cell, reason in zip(folders, cells, reasons, strict=True):
        if reason and folder.is_dir():
            say(f"{folder} is not graded: {reason}")
            continue
        verdicts, notes = check_copy(folder, list(points), seed)
        found = dict.fromkeys(points, 0.0)
        for name, verdict in verdicts.items():
            found[name] = round(points[name] * (verdict.passed / len(verdict.results)), 2)
        student = Grade(str(folder), found, tuple(notes))
        rows[cell] = row_of(student)
        write_text(pages / page_name(students, cell), feedback(student, points, verdicts))
        with rewriting(out) as file:
            csv.writer(file, lineterminator="\n").writerows([*header_of(points), *rows.values()])
        say(f"{folder}: {student.total:g} of {sum(points.values()):g} points"
            f"{''.join(f'; {note}' for note in notes)}")


def why_not_graded(folder: Path, names: Iterable[str]) -> str | None:
    """Why this cannot be a student's folder; None if it can."""
    if folder.is_file():
        return "this is a file; if it is an archive, unpack it and name the folder"
    if not folder.is_dir():
        return "there is no such folder"
    deeper = [path.name for path in places_of(folder, names)]
    if len(deeper) == 1:
        return None
    return (f"exercises are in {len(deeper)} of its subfolders ({', '.join(deeper[:3])}"
            f"{', …' if len(deeper) > 3 else ''}): grade one of them, or each as a student's with "
            f"{quote(str(folder))}/*")


def places_of(folder: Path, names: Iterable[str]) -> list[Path]:
    """Where the exercises are: the folder, or those of its subfolders that have any."""
    found = {path.parent for name in names for place in ("", "*/")
             for path in folder.glob(f"{place}{FILES[name]}")}
    deeper = sorted(path for path in found if not path.is_symlink())
    return [folder] if folder in found or not deeper else deeper


def pages_of(out: Path) -> Path:
    """The folder of the pages of feedback, beside the table."""
    return out.with_name(f"{out.stem}-feedback")


def check_copy(folder: Path, names: Sequence[str],
               seed: int) -> tuple[dict[str, Verdict], list[str]]:
    """Checks a copy of a folder's exercises.

    Returns:
        exercise → verdict, of those that are there; and notes.
    """
    if reason := why_not_graded(folder, names):
        return {}, [reason]
    [folder] = places_of(folder, names)
    notes = []
    with tempfile.TemporaryDirectory(prefix="minbert-study-") as temporary:
        copy = Path(temporary)
        for name in names:
            path = folder / FILES[name]
            try:
                if not path.exists() and not path.is_symlink():
                    notes.append(f"{path.name} is missing")
                    continue
                if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_FILE:
                    notes.append(f"{path.name} is not a regular file, or is too large")
                    continue
                content = path.read_bytes()
            except OSError as error:
                notes.append(f"{path.name}: {error.strerror or error}")
                continue
            write_temporary(copy / path.name, content)
        found = [name for name in names if (copy / FILES[name]).is_file()]
        if len(found) < len(names) and (others := other_files(folder)):
            notes.append(f"also there: {', '.join(others[:5])}")
        verdicts = {verdict.name: verdict for verdict in check_folder(copy, found, seed)}
    notes += [one_line(why) for verdict in verdicts.values() if (why := why_no_points(verdict))]
    notes += [f"{FILES[name]}: {verdict.misfit[0]}"
              for name, verdict in verdicts.items() if verdict.misfit]
    return verdicts, notes


def other_files(folder: Path) -> list[str]:
    """What a folder holds besides exercises: perhaps one under another name."""
    known = {*FILES.values(), README, PROGRESS_FILE}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
    return [one_line(name, 60) for name in names if name not in known and name[0] not in "._"]


def why_no_points(verdict: Verdict) -> str | None:
    """Why the process ended early, or why no check passes; None if neither is so."""
    file = FILES[verdict.name]
    if verdict.end:
        return f"{file}: {verdict.end}"
    if verdict.passed:
        return None
    lines = [line for line in verdict.results[0].lines if not line.startswith(" ")]  # no table
    return f"{'' if lines[0].startswith(file) else f'{file}: '}{'; '.join(lines[:2])}"


# ---------------------------------------------------------------------------------------- written


def header_of(points: Mapping[str, float]) -> list[list[str]]:
    """The first two rows; the second tells how many points there are."""
    return [["folder", *points, "total", "notes"],
            ["(points)", *(f"{value:g}" for value in points.values()),
             f"{sum(points.values()):g}", ""]]


def row_of(grade: Grade) -> list[str]:
    return [_cell(grade.folder), *(f"{value:g}" for value in grade.points.values()),
            f"{grade.total:g}", _cell("; ".join(grade.notes))]


def rows_of(out: Path, points: Mapping[str, float]) -> dict[str, list[str]]:
    """The students' rows of a table that exists, by folder.

    Raises:
        ValueError: the file is another table.
    """
    if not out.exists():
        return {}
    try:
        with out.open(encoding="utf-8-sig", newline="") as file:
            first, second, *rows = csv.reader(file)
    except (ValueError, csv.Error):  # too few rows, not UTF-8, not a CSV
        first = second = None
    if [first, second] != header_of(points):
        raise ValueError(f"{out} is not a table of these exercises and points; name another file "
                         "with --out")
    return {row[0]: row for row in rows if row}


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def page_name(folders: Collection[str], folder: str) -> str:
    """A file name for a student's page: the folder's name, or its path if another has this name.

    If another could have that, too, such as a@1 beside a#1, part of a checksum is added.
    """
    def of_path(path: str) -> str:
        return re.sub(r"[^\w .()-]", "_", path).lstrip(".")[-80:] or "student"

    def of_name(path: str) -> str:
        return of_path(Path(path).name)

    forms = of_name, of_path
    taken = {form(other).casefold() for other in folders if other != folder for form in forms}
    for form in forms:
        if form(folder).casefold() not in taken:  # on macOS, Ann is ann
            return f"{form(folder)}.html"
    return f"{of_path(folder)}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}.html"


def feedback(grade: Grade, points: Mapping[str, float], verdicts: Mapping[str, Verdict]) -> str:
    """A student's page: points, and for each check what is wrong."""
    parts = [paragraph(f"{grade.total:g} of {sum(points.values()):g} points"),
             *(paragraph(note, note=True) for note in grade.notes)]
    for name, whole in points.items():
        parts.append(heading(f"{load(name).title}: {grade.points[name]:g} of {whole:g}"))
        if name not in verdicts:
            parts.append(paragraph(f"{FILES[name]} was not handed in."))
            continue
        told = ()
        for result in verdicts[name].results:
            parts.append(paragraph(f"{result.mark} {result.claim}"))
            if result.lines not in ((), told):
                parts.append(preformatted("\n".join(result.lines)))
            told = result.lines
    return page(f"Feedback: {grade.folder}", parts)
