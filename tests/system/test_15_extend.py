"""Lesson 15: the programs of docs/how-to/extend.md, as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```",
                           (ROOT / "docs" / "how-to" / "extend.md").read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def data(small_data, tmp_path_factory) -> Path:
    """A little of the sample, and files of one's own."""
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(small_data, folder)
    for split in ("train", "dev"):
        rows = [f"{split}{number}\tSure, a <b>great</b> film number {number}\t{number % 2}"
                for number in range(20)]
        (folder / f"irony-{split}.csv").write_text("\n".join(["id\tsentence\tironic", *rows])
                                                   + "\n")
    return folder


def run(name: str, data: Path, folder: Path, *flags: str) -> dict:
    """Runs a program of the page for two steps; its metrics."""
    (folder / name).write_text(PROGRAMS[name])
    done = subprocess.run(
        [sys.executable, name, "--data", data, "--model", "scratch", "--max-steps", "2", "--out",
         "run", *flags],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_three_short_programs():
    assert set(PROGRAMS) == {"fourth_task.py", "wide_head.py", "equal_say.py"}
    for name, text in PROGRAMS.items():
        assert len([line for line in text.splitlines() if line.strip()]) < 20, name


def test_fourth_task(data, tmp_path):
    metrics = run("fourth_task.py", data, tmp_path, "--gs", "wrap", "--fl")
    assert list(metrics["dev"])[:4] == ["sst", "para", "sts", "irony"]
    assert len(metrics["surgery"]["conflict_rate"]) == 6  # pairs of four tasks
    lines = (tmp_path / "run" / "predictions" / "irony-dev-output.csv").read_text().splitlines()
    assert lines[0] == "id \t Predicted_Irony "
    assert len(lines) == 21
    page = (tmp_path / "run" / "report.html").read_text()
    assert "irony (my own)" in page
    assert "<b>great</b>" not in page  # shown as text, not as HTML


def test_own_head(data, tmp_path):
    run("wide_head.py", data, tmp_path, "--arch", "concatB_wide")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arch"] == "concatB_wide"


def test_own_surgery(data, tmp_path):
    metrics = run("equal_say.py", data, tmp_path, "--surgery", "equal_say")
    assert metrics["surgery"]["method"] == "equal_say"
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for step in (event for event in steps if event["event"] == "step"):
        for name, norm in step["gradient_norms"].items():
            assert step["weights"][name] * norm == pytest.approx(1, rel=1e-5)
