"""Many folders at once, for teachers: one row of points and one page of feedback for each.

Every folder's exercises are copied first, so that no student's code runs where it was handed in.
"""

import csv
import io
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minbert.files import choice_hint, one_line, write_text
from multitask.reports.page import heading, page, paragraph, preformatted

from .checking import LARGEST_FILE, Verdict, check_folder
from .exercise import FILES, NAMES, load

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
        ValueError: an exercise that does not exist, or points that are not a number from 0, with
            file and line; or a table without an exercise.
    """
    if path is None:
        return dict.fromkeys(NAMES, POINTS)
    points: dict[str, float] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.reader(file), start=1):
            row = [cell.strip() for cell in row]
            if not any(row) or [cell.casefold() for cell in row] == ["exercise", "points"]:
                continue
            name = row[0]
            if name not in NAMES:
                raise ValueError(f"{path}, line {line}: there is no exercise {name!r}; "
                                 f"{choice_hint(name, NAMES)}")
            if len(row) != 2 or not row[1].replace(".", "", 1).isdecimal():
                raise ValueError(f"{path}, line {line}: expected EXERCISE,POINTS, found "
                                 f"{one_line(','.join(row))!r}")
            points[name] = float(row[1])
    if not points:
        raise ValueError(f"{path} names no exercise: expected lines EXERCISE,POINTS")
    return {name: points[name] for name in NAMES if name in points}


def points_table(names: Sequence[str]) -> str:
    return "".join(["exercise,points\n", *(f"{name},{POINTS}\n" for name in names)])


def grade(folders: Sequence[Path], out: Path, points: Mapping[str, float], seed: int,
          say: Callable[[str], None]) -> list[Grade]:
    """Grades folder after folder. The table and the pages are complete after each.

    Args:
        out: the CSV; the pages go into a folder beside it.
        points: exercise → points for all of its checks; each check counts alike.
        seed: of the random draws, other ones than a student saw.
    """
    pages = pages_of(out)
    pages.mkdir(parents=True, exist_ok=True)
    grades: list[Grade] = []
    for folder in folders:
        verdicts, notes = check_copy(folder, list(points), seed)
        found = {name: round(points[name] * share_passed(verdicts.get(name)), 2)
                 for name in points}
        grades.append(Grade(str(folder), found, tuple(notes)))
        write_text(pages / page_name(folders, folder), feedback(grades[-1], points, verdicts))
        write_text(out, as_csv(grades, points))
        say(f"{folder}: {grades[-1].total:g} of {sum(points.values()):g} points"
            f"{''.join(f'; {note}' for note in notes)}")
    return grades


def pages_of(out: Path) -> Path:
    """The folder of the pages of feedback, beside the table."""
    return out.with_name(f"{out.stem}-feedback")


def share_passed(verdict: Verdict | None) -> float:
    return verdict.passed / len(verdict.results) if verdict else 0.0


def check_copy(folder: Path, names: Sequence[str],
               seed: int) -> tuple[dict[str, Verdict], list[str]]:
    """Checks a copy of a folder's exercises.

    Returns:
        exercise → verdict, of those that are there; and notes.
    """
    notes = []
    if not folder.is_dir():
        return {}, ["there is no such folder"]
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
                shutil.copyfile(path, copy / path.name)
            except OSError as error:
                notes.append(f"{path.name}: {error.strerror or error}")
        found = [name for name in names if (copy / FILES[name]).is_file()]
        verdicts = {verdict.name: verdict
                    for verdict in check_folder(copy, found, lambda verdict: None, seed)}
    notes += [f"{FILES[name]}: {verdict.end}"
              for name, verdict in verdicts.items() if verdict.end]
    notes += [f"{FILES[name]}: {verdict.misfit[0]}"
              for name, verdict in verdicts.items() if verdict.misfit]
    return verdicts, notes


# ---------------------------------------------------------------------------------------- written


def as_csv(grades: Sequence[Grade], points: Mapping[str, float]) -> str:
    """One row per student; the second row tells how many points there are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["folder", *points, "total", "notes"])
    writer.writerow(["(points)", *(f"{value:g}" for value in points.values()),
                     f"{sum(points.values()):g}", ""])
    for each in grades:
        writer.writerow([_cell(each.folder), *(f"{value:g}" for value in each.points.values()),
                         f"{each.total:g}", _cell("; ".join(each.notes))])
    return text.getvalue()


def _cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def page_name(folders: Sequence[Path], folder: Path) -> str:
    """A file name for a student's page, unique among the folders: all have numbers, or none."""
    names = [re.sub(r"[^\w.-]", "_", each.name)[:100] or "student" for each in folders]
    place = folders.index(folder)
    is_unique = len({name.casefold() for name in names}) == len(names)  # on macOS, Ann is ann
    number = "" if is_unique else f"-{place + 1}"
    return f"{names[place]}{number}.html"


def feedback(grade: Grade, points: Mapping[str, float], verdicts: Mapping[str, Verdict]) -> str:
    """A student's page: points, and for each check what is wrong."""
    parts = [paragraph(f"{grade.total:g} of {sum(points.values()):g} points"),
             *(paragraph(note, note=True) for note in grade.notes)]
    for name, whole in points.items():
        parts.append(heading(f"{load(name).title}: {grade.points[name]:g} of {whole:g}"))
        if name not in verdicts:
            parts.append(paragraph(f"{FILES[name]} was not handed in."))
            continue
        for result in verdicts[name].results:
            parts.append(paragraph(f"{result.mark} {result.claim}"))
            if result.lines:
                parts.append(preformatted("\n".join(result.lines)))
    return page(f"Feedback: {Path(grade.folder).name}", parts)
