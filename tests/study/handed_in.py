"""Right solutions, as a student hands them in."""

from pathlib import Path

from minbert_study.exercise import FILES

SOLUTIONS = Path(__file__).parent / "solutions"


def solution(name: str, *edits: tuple[str, str]) -> str:
    """The text of the right solution of an exercise, edited: pairs of (find, replace)."""
    text = (SOLUTIONS / FILES[name]).read_text(encoding="utf-8")
    for find, replace in edits:
        assert find in text, f"the solution of {name} has no {find!r}"
        text = text.replace(find, replace)
    return text


def hand_in(folder: Path, name: str, *edits: tuple[str, str]) -> Path:
    """The folder, with this solution in it."""
    (folder / FILES[name]).write_text(solution(name, *edits), encoding="utf-8")
    return folder
