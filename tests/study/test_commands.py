"""The commands: start, check, hint, skeleton, grade."""

import csv
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from handed_in import hand_in, solution

from minbert_study import checking, grading, worker
from minbert_study.__main__ import main
from minbert_study.exercise import FILES, NAMES, load


def test_start(tmp_path, capsys):
    """All files are there; what a student has written stays at a second start."""
    assert main(["start", str(tmp_path / "a")]) == 0
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {"README.md", *FILES.values()}
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "a").iterdir())
    assert text.count("raise NotImplementedError") >= len(NAMES)

    mine = tmp_path / "a" / FILES["attention"]
    mine.write_text("mine")
    (tmp_path / "a" / FILES["adamw"]).unlink()
    capsys.readouterr()
    assert main(["start", str(tmp_path / "a")]) == 0
    assert "files written: 1\n" in capsys.readouterr().out
    assert mine.read_text() == "mine"


def test_check(folder, capsys):
    assert main(["check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "✓ ex02_attention.py: scaled dot-product attention with a mask: all 8 checks pass" in out
    assert "· ex11_adamw.py: AdamW: adamw_update is not written yet (ex11_adamw.py, line " in out
    assert out.endswith("exercises done: 1 of 2\n")
    assert main(["check", str(folder), "ex02_attention.py"]) == 0


def test_progress(folder):
    """What is done is remembered, until the file changes."""
    main(["check", str(folder)])
    assert json.loads((folder / "progress.json").read_text())["attention"]["passed"] == 8
    assert checking.Progress(folder).done() == ["attention"]
    with (folder / FILES["attention"]).open("a") as file:
        file.write("# changed\n")
    assert checking.Progress(folder).done() == []


def test_watch(folder, monkeypatch):
    """A file is checked again when it is saved."""
    monkeypatch.setattr(checking, "WATCHED_EVERY", 0.01)

    def save():
        time.sleep(0.3)
        (folder / "saved").write_text(solution("adamw"))
        # at once: a half-written file is checked too
        (folder / "saved").rename(folder / FILES["adamw"])

    names = ["attention", "adamw"]
    before = checking.saved(folder, names)
    threading.Thread(target=save).start()
    verdict = next(checking.watch(folder, names, before))
    assert (verdict.name, verdict.is_done) == ("adamw", True)


def test_watch_on_coarse_clocks(folder):
    """On some disks a file that is saved twice within two seconds has the same time."""
    path = folder / FILES["attention"]
    times, before = path.stat(), checking.saved(folder, ["attention"])
    path.write_text(path.read_text() + "# changed\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checking.saved(folder, ["attention"]) != before


@pytest.mark.parametrize("words", [
    ["adamw", "--watch"], ["--watch", "adamw"], ["attention", "--watch", "adamw"]])
def test_watch_from_the_start(words, folder, monkeypatch):
    """A file that is saved during the first check is checked again.

    The flag may stand anywhere.
    """
    checked = []

    def check_and_save(_, names):
        checked.append([*names])
        if len(checked) == 2:
            raise KeyboardInterrupt
        hand_in(folder, "adamw")
        return []

    monkeypatch.setattr(checking, "check_folder", check_and_save)
    assert main(["check", str(folder), *words]) == 130
    assert checked == [[word for word in words if word != "--watch"], ["adamw"]]


@pytest.mark.parametrize(("argv", "says"), [
    (["check", "mine", "--wach", "adamw"], "unrecognized arguments: --wach"),
    (["train", "mine", "adamw"], "unrecognized arguments: adamw"),
    (["check"], "required: folder; "),  # but no exercise
])
def test_wrong_words(argv, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert says in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_no_place_for_progress(folder, monkeypatch, capsys):
    """In a folder that cannot be written, a verdict and a hint are shown nevertheless."""
    def refuse(path, value):
        raise PermissionError(13, "Permission denied", path.name)

    monkeypatch.setattr(checking, "write_json", refuse)
    capsys.readouterr()
    for argv, says in ((["check", str(folder), "attention"], "all 8 checks pass"),
                       (["hint", str(folder), "attention"], "hint 1 of 3: ")):
        assert main(argv) == 0
        out, err = capsys.readouterr()
        assert says in out
        assert err == ("warning: progress is not kept: [Errno 13] Permission denied: "
                       "'progress.json'\n")


def test_hints(folder, capsys):
    """One more at each call; then the flag that shows the solution is named."""
    capsys.readouterr()
    for number in (1, 2, 3, 3):
        assert main(["hint", str(folder), "attention"]) == 0
        out = capsys.readouterr().out
        assert out.count("hint ") == number
        assert ("--solution" in out) == (number == 3)


@pytest.mark.parametrize("name", NAMES)
def test_solutions_are_shown(name, folder, capsys):
    """What is shown defines what the student's file is to define."""
    main(["start", str(folder)])
    capsys.readouterr()
    assert main(["hint", str(folder), name, "--solution"]) == 0
    shown = capsys.readouterr().out
    assert ".py, line " in shown
    for wanted in load(name).names:
        assert f"def {wanted}(" in shown or f"class {wanted}(" in shown


@pytest.mark.parametrize(("argv", "says"), [
    (["check", "none"], "there is no such folder"),
    (["check", "no folder"], "start 'no folder'"),
    (["check", "."], "holds no exercise"),
    (["check", "mine", "atention"], "is attention meant?"),
    (["check", "mine", "gelu"], "mine/ex04_gelu.py is missing; if yours has another name"),
    (["hint", "mine", "ex04_gelu.py"], "mine/ex04_gelu.py is missing"),
    (["check", "attention"], "attention is an exercise; the folder comes first: python -m "
     "minbert_study check FOLDER attention"),
    (["check", "mine/ex02_attention.py"], "check mine attention"),
    (["hint", "mine", "gelus"], "there is no exercise 'gelus'"),
    (["skeleton", "x", "--only", "attention,what"], "there is no exercise 'what'"),
    (["start", "mine/README.md"], "is a file"),
    (["grade", "mine", "--points", "none.csv"], "none.csv: there is no such file"),
    (["grade", "mine", "--points", "bad.csv"], "bad.csv, line 2: expected EXERCISE,POINTS"),
    (["grade", "mine", "--points", "other.csv"], "other.csv, line 1: there is no exercise 'x'"),
    (["grade", "mine", "--points", "excel.csv"], "POINTS, found 'exercise;points'"),
    (["grade", "mine", "--points", "utf16.csv"],
     "utf16.csv, line 1: not UTF-8, it looks like UTF-16"),
    (["grade", "mine", "--points", "twice.csv"], "twice.csv, line 2: adamw has points already"),
    (["grade", "mine", "--out", "grades.xlsx"], "--out grades.xlsx: expected FILE.csv"),
    (["grade", "mine", "--out", "twice.csv"], "twice.csv is not a table of these"),
    (["grade", "subs/*", "none"], "subs/*: there is no such folder"),
    (["grade", "."],
     "in 2 of its subfolders (a b, mine): grade one of them, or each as a student's "
     "with ./*"),
    (["grade", "../my class"], "with '../my class'/*"),
    (["grade", "mine/ex02_attention.py"], "this is a file; if it is an archive, unpack it"),
])
def test_wrong_input(argv, says, folder, monkeypatch, capsys):
    inside = folder.parent / "my class"
    shutil.copytree(folder, inside / "mine")
    shutil.copytree(folder, inside / "a b")
    monkeypatch.chdir(inside)
    Path("bad.csv").write_text("attention,5\nadamw,-3\n")
    Path("other.csv").write_text("x,5\n")
    Path("excel.csv").write_text("exercise;points\nadamw;5\n")
    Path("utf16.csv").write_text("adamw,5\n", encoding="utf-16")
    Path("twice.csv").write_text("adamw,5\nadamw,6\n")
    assert main(argv) == 2
    assert says in capsys.readouterr().err
    assert not Path("grades.csv").exists()


def test_grade(tmp_path, capsys, monkeypatch):
    """One row per folder, whatever is in it; points by check; nothing handed in is changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "SECONDS", 3)
    for student in ("right", "wrong", "loop", "deletes"):
        Path("in", student).mkdir(parents=True)
        hand_in(Path("in", student), "attention")
        hand_in(Path("in", student), "adamw")
    hand_in(Path("in/wrong"), "attention", ("dim=-1", "dim=-2"))
    hand_in(Path("in/loop"), "attention", ("import math\n", "while True: pass\n"))
    Path("in/deletes", FILES["adamw"]).write_text(
        f"import shutil\nshutil.rmtree('{tmp_path}')\n{solution('adamw')}")
    Path("in/right/ex13_pcgrad.py").symlink_to("/etc/hostname")
    Path("in/=empty").mkdir()
    Path("in/=empty/adamw.py").write_text(solution("adamw"))
    Path("points.csv").write_text("Exercise, Points\nattention,8\n , \nadamw,4\npcgrad,1.5\n")
    before = {path: path.read_bytes() for path in Path("in").rglob("*.py")}

    students = [f"in/{name}" for name in ("right", "wrong", "loop", "deletes", "=empty", "gone")]
    assert main(["grade", *students, "--points", "points.csv", "--out", "out/g.csv"]) == 0

    header, points, *rows = csv.reader(Path("out/g.csv").read_text().splitlines())
    assert header == ["folder", "attention", "adamw", "pcgrad", "total", "notes"]
    assert points[1:5] == ["8", "4", "1.5", "13.5"]
    table = {row[0]: row for row in rows}
    assert table["in/right"][1:5] == ["8", "4", "0", "12"]
    assert "ex13_pcgrad.py is not a regular file" in table["in/right"][5]
    passed = checking.check_exercise(Path("in/wrong"), "attention", []).passed
    assert table["in/wrong"][1] == f"{8 * passed / len(load('attention').checks):.3g}"
    assert table["in/loop"][1:4] == ["0", "4", "0"]
    assert "stopped after 3 seconds" in table["in/loop"][5]
    assert table["in/deletes"][1:4] == ["8", "0", "0"]
    assert table["in/=empty"][4:] == [
        "0", "ex02_attention.py is missing; ex11_adamw.py is missing; ex13_pcgrad.py is missing; "
             "also there: adamw.py"]
    assert table["in/gone"][5] == "there is no such folder"
    assert {path: path.read_bytes() for path in Path("in").rglob("*.py")} == before

    page = Path("out/g-feedback/wrong.html").read_text()
    assert "over the queries" in page
    assert len(list(Path("out/g-feedback").iterdir())) == 6
    assert Path("out/g-feedback/loop.html").read_text().count("<pre>stopped after 3 seconds") == 1


def test_skeleton_here(tmp_path, monkeypatch):
    """The table of points stands beside the folder, also if that is the current one."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["skeleton", ".", "--only", "adamw"]) == 0
    assert (tmp_path / "mine-points.csv").is_file()


def test_skeleton_again(tmp_path, capsys):
    """The teacher's points are kept; what they lack is named."""
    main(["skeleton", str(tmp_path / "mine"), "--only", "adamw"])
    assert "is kept" not in capsys.readouterr().out
    assert main(["skeleton", str(tmp_path / "mine"), "--only", "adamw, gelu"]) == 0
    assert "mine-points.csv is kept as it is and lacks gelu: " in capsys.readouterr().out
    assert (tmp_path / "mine-points.csv").read_text() == "exercise,points\nadamw,10\n"


def test_readme_lists_the_exercises(tmp_path):
    """Also those that a second call adds, unless somebody changed the file."""
    path = tmp_path / "mine/README.md"
    main(["skeleton", str(tmp_path / "mine"), "--only", "adamw"])
    main(["skeleton", str(tmp_path / "mine"), "--only", "gelu"])
    assert re.findall(r"^\| ex.._(\w+)", path.read_text(), re.MULTILINE) == ["gelu", "adamw"]
    path.write_text("changed")
    main(["start", str(tmp_path / "mine")])
    assert path.read_text() == "changed"


def test_printed_commands(tmp_path, capsys):
    """They can be pasted if the folder's name has a space."""
    folder = tmp_path / "my bert"
    main(["start", str(folder)])
    words = shlex.split(capsys.readouterr().out.rpartition("then: ")[2])
    assert words[-3:] == ["check", str(folder), NAMES[0]]
    main(["skeleton", str(folder)])
    words = shlex.split(capsys.readouterr().out.rpartition("grade with: ")[2])
    assert words[-2:] == ["--points", str(tmp_path / "my bert-points.csv")]


def test_unreadable_folder(tmp_path, monkeypatch):
    """A student's folder that may not be read becomes a note."""
    exists = Path.exists

    def refusing(path, **named):
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **named)

    monkeypatch.setattr(Path, "exists", refusing)
    assert grading.check_copy(tmp_path, ["adamw"], 1) == (
        {}, ["ex11_adamw.py: Permission denied"])


def test_formulas_stay_text():
    grade = grading.Grade("=cmd()", {"attention": 1.0}, ("-2", "x"))
    assert grading.row_of(grade) == ["'=cmd()", "1", "1", "'-2; x"]


@pytest.mark.parametrize(("folders", "pages"), [
    (["c/a", "./d e"], ["a", "d e"]),
    (["a/hw", "../b=/hw", "c d"], ["a_hw", "_b__hw", "c d"]),
    (["e f", "e_f", "x/e_f (2)"], ["e f", "e_f", "e_f (2)"]),
    (["a/Ann", "b/ann"], ["a_Ann", "b_ann"]),
    (["."], ["student"]),
    (["c/a#1", "c/a@1"], ["c_a_1-033852", "c_a_1-6f3efd"]),
    (["p/q", "r/q", "x/p_q"], ["p_q-4fdaa4", "r_q", "x_p_q"]),
    (["caf\udce9", "caf\udce8"], ["caf_-dafd66", "caf_-f56aee"]),
])
def test_same_names(folders, pages):
    """Two students whose folders have one name get two pages, in whatever order the rows are."""
    for rows in (folders, folders[::-1]):
        assert [grading.page_name(rows, folder) for folder in folders] == [
            f"{page}.html" for page in pages]


def test_pages_of_one_name(folder, monkeypatch):
    """A page keeps its name if the table is sorted, or only one student is graded again."""
    monkeypatch.chdir(folder.parent)
    for student in ("a", "b"):
        Path(student, "hw").mkdir(parents=True)
    Path("points.csv").write_text("adamw,4\n")
    assert main(["grade", "b/hw", "a/hw", "--points", "points.csv"]) == 0
    header, points, *rows = Path("grades.csv").read_text().splitlines()
    Path("grades.csv").write_text("\n".join([header, points, *sorted(rows)]))
    assert main(["grade", "b/hw", "--points", "points.csv"]) == 0
    assert {path.name for path in Path("grades-feedback").iterdir()} == {"a_hw.html", "b_hw.html"}
    for student in ("a", "b"):
        assert f"Feedback: {student}/hw<" in Path(f"grades-feedback/{student}_hw.html").read_text()


def test_console_command(folder, capsys, monkeypatch):
    from multitask.__main__ import main as minbert

    monkeypatch.setattr(sys, "argv", ["minbert", "study"])
    capsys.readouterr()
    assert minbert(["study", "check", str(folder), "attention"]) == 0
    assert "all 8 checks pass" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        minbert(["study", "--help"])
    help_text = capsys.readouterr().out
    assert "    minbert study start my-bert\n" in help_text
    assert "python" not in help_text
