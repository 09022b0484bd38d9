"""Grading many folders: what is kept, what is refused, and the reasons beside the points."""

import re
import resource
import shutil
from pathlib import Path

import pytest
from handed_in import hand_in

from minbert_study import grading, rules
from minbert_study.__main__ import main
from minbert_study.exercise import FILES


def test_grade_again(folder, monkeypatch, capsys):
    """The rows of other folders are kept; a table of other points is refused."""
    monkeypatch.chdir(folder.parent)
    shutil.copytree("mine", "ann")
    Path("ann", FILES["attention"]).write_text("def f(:")
    Path("points.csv").write_text("attention,8\nadamw,4\n")
    assert main(["grade", "mine", "ann", "--points", "points.csv"]) == 0
    hand_in(Path("ann"), "attention")
    capsys.readouterr()
    assert main(["grade", "ann/", "--points", "points.csv"]) == 0
    assert "grades.csv: rows of other folders that are kept: 1\n" in capsys.readouterr().out
    unwritten = "ex11_adamw.py: adamw_update is not written yet (ex11_adamw.py, line 33)"
    table = ("folder,attention,adamw,total,notes\n(points),8,4,12,\n"
             f'mine,8,0,8,"{unwritten}"\nann,8,0,8,"{unwritten}"\n')
    assert Path("grades.csv").read_text() == table
    assert main(["grade", "ann"]) == 2
    assert Path("grades.csv").read_text() == table


def test_full_disk(folder, monkeypatch, capsys):
    """Points already given stay: it is no fault of the student's."""
    monkeypatch.chdir(folder.parent)
    Path("points.csv").write_text("attention,8\n")
    arguments = ["grade", "mine", "--points", "points.csv"]
    assert main(arguments) == 0
    table = Path("grades.csv").read_text()
    attention = folder / FILES["attention"]
    monkeypatch.setattr(rules, "faults", lambda *_: [])
    attention.write_text(f"{attention.read_text()}\nimport resource  # as if the disk were full\n"
                         "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 1_000_000):  # no room for a copy of the file; none for answers
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            assert main(arguments) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert re.search(r"^minbert_study: .*: File too large; make room there", capsys.readouterr().err)
        assert Path("grades.csv").read_text() == table
    assert main(arguments) == 0  # with room, a crash is a crash
    assert "mine,0,0," in Path("grades.csv").read_text()


def test_one_level_deeper(folder, monkeypatch, capsys):
    """The only subfolder with exercises is graded in the student's row; of several, none is.

    A link to another student's folder does not count.
    """
    monkeypatch.chdir(folder.parent)
    for place in ("ann/hw", "bob/hw", "bob/old"):
        shutil.copytree("mine", place)
    Path("ann/link").symlink_to(folder)
    Path("eve").mkdir()
    Path("eve/hw").symlink_to(folder)
    Path("points.csv").write_text("attention,8\n")
    assert main(["grade", "ann", "bob", "eve", "--points", "points.csv"]) == 0
    assert [row.split(",")[:2] for row in Path("grades.csv").read_text().splitlines()[2:]] == [
        ["ann", "8"], ["eve", "0"]]
    assert "bob is not graded: exercises are in 2 of its subfolders (hw, old): grade " in (
        capsys.readouterr().out)


@pytest.mark.parametrize(("text", "says"), [
    ("def f(:", f"{FILES['adamw']}, line 1: Python cannot read this: "),
    ("x = 1", f"{FILES['adamw']}, adamw_update is missing: "),
    ("1 / 0\ndef adamw_update(): pass", f"{FILES['adamw']}, line 1: 1 / 0; ZeroDivisionError: "),
    ("def adamw_update(theta, *_, **__): theta += 1",
     f"{FILES['adamw']}: right so far: g, which is not to be changed; m: 3 of 3 numbers differ"),
])
def test_why_no_points(text, says, folder):
    (folder / FILES["adamw"]).write_text(text)
    _, [note] = grading.check_copy(folder, ["adamw"], 1)
    assert note.startswith(says)


def test_all_exercises(folder, monkeypatch, capsys):
    """Without points all are graded; one line says how to name some."""
    monkeypatch.chdir(folder.parent)
    assert main(["grade", "mine"]) == 0
    assert capsys.readouterr().out.endswith(
        "all 19 exercises were graded; --points FILE.csv names those that count\n")
