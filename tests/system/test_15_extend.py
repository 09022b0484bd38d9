"""Lesson 15: the files of docs/how-to/extend.md, as they stand there."""

import json
import re
from pathlib import Path

from programs import ROOT, python

from multitask.system.runlog import read_events

FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```",
                        (ROOT / "docs" / "how-to" / "extend.md").read_text(), re.DOTALL))


def run(name: str, data: Path, folder: Path, *flags: str) -> dict:
    """Runs the main job with a file of the page for two steps; its metrics."""
    (folder / name).write_text(FILES[name])
    done = python(ROOT / "train_multitask.py", "--import", name, "--data", data, "--model",
                  "scratch", "--max-steps", "2", "--out", "run", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_three_short_files():
    assert set(FILES) == {"robust.py", "wide_head.py", "equal_say.py"}
    for name, text in FILES.items():
        assert len([line for line in text.splitlines() if line.strip()]) < 20, name


def test_own_kind(small_data, tmp_path):
    metrics = run("robust.py", small_data, tmp_path, "--tasks", "sst,robust_sts")
    assert list(metrics["dev"]["robust_sts"]) == ["pearson"]
    (tmp_path / "my.toml").write_text(
        f'[mine]\nkind = "robust"\ntext = ["sentence1"]\nlabel = "similarity"\n'
        f'train = "{small_data}/sts-train.csv"\ndev_share = 0.2\n')
    run("robust.py", small_data, tmp_path, "--tasks", "my.toml", "--out", "own")


def test_own_head(small_data, tmp_path):
    run("wide_head.py", small_data, tmp_path, "--arch", "concatB_wide")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arch"] == "concatB_wide"


def test_own_surgery(small_data, tmp_path):
    metrics = run("equal_say.py", small_data, tmp_path, "--surgery", "equal_say")
    assert metrics["surgery"]["method"] == "equal_say"
    for step in read_events(tmp_path / "run", "step"):
        for name, norm in step["gradient_norms"].items():
            assert abs(step["weights"][name] * norm - 1) < 1e-5
