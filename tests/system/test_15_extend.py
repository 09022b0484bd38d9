"""Lesson 15: the files of docs/how-to/extend.md, as they stand there."""

import json
import re
from unittest.mock import patch

import pytest
from programs import ROOT

from heads import ARCHITECTURES
from multitask.kinds import KINDS
from multitask.system.runlog import read_events
from multitask.tasks import BUILT_IN
from optim import SURGERY

FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```",
                        (ROOT / "docs" / "how-to" / "extend.md").read_text(), re.DOTALL))


@pytest.fixture
def run(brief_run, tmp_path):
    """(file of the page, flags …) → the metrics of two steps; the tables are restored."""
    def start(name: str, *flags: object) -> dict:
        (tmp_path / name).write_text(FILES[name])
        folder = brief_run(tmp_path / "run", "--import", tmp_path / name, "--max-steps", 2, *flags)
        return json.loads((folder / "metrics.json").read_text())

    with patch.dict(KINDS), patch.dict(BUILT_IN), patch.dict(ARCHITECTURES), patch.dict(SURGERY):
        yield start


def test_short_files():
    assert set(FILES) == {"robust.py", "wide_head.py", "equal_say.py", "steady_say.py"}
    for name, text in FILES.items():
        assert len([line for line in text.splitlines() if line.strip()]) < 20, name


def test_own_kind(run, small_data, tmp_path):
    metrics = run("robust.py", "--tasks", "sst,robust_sts")
    assert list(metrics["dev"]["robust_sts"]) == ["pearson"]
    (tmp_path / "my.toml").write_text(
        f'[mine]\nkind = "robust"\ntext = ["sentence1"]\nlabel = "similarity"\n'
        f'train = "{small_data}/sts-train.csv"\ndev_share = 0.2\n')
    run("robust.py", "--tasks", f"sst,{tmp_path / 'my.toml'}", "--out", tmp_path / "own")


def test_own_head(run, tmp_path):
    run("wide_head.py", "--arch", "concatB_wide")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["arch"] == "concatB_wide"


def test_own_surgery(run, tmp_path):
    metrics = run("equal_say.py", "--surgery", "equal_say")
    assert metrics["surgery"]["method"] == "equal_say"
    for step in read_events(tmp_path / "run", "step"):
        for name, norm in step["gradient_norms"].items():
            assert abs(step["weights"][name] * norm - 1) < 1e-5


def test_own_surgery_with_a_state(run, tmp_path):
    run("steady_say.py", "--surgery", "steady_say:beta=0.5")
    first, second = read_events(tmp_path / "run", "step")
    for name, norm in first["gradient_norms"].items():
        mean = (norm + second["gradient_norms"][name]) / 2
        assert abs(second["weights"][name] * mean - 1) < 1e-5
