"""`minbert runs`: the table, its JSON, and prune."""

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from programs import edit_json

from multitask.runs import __main__ as runs
from multitask.runs.overview import find_runs


@pytest.fixture(scope="module")
def runs_once(brief_run, tmp_path_factory) -> Path:
    """Two finished runs, one of them deep, one that is only begun, and other things."""
    folder = tmp_path_factory.mktemp("runs")
    brief_run(folder / "a", "--max-steps", 2, "--gs", "none", "--fl", "--tasks", "sst")
    brief_run(folder / "deep" / "b", "--max-steps", 2)
    (folder / "begun").mkdir()
    shutil.copy(folder / "a" / "config.json", folder / "begun")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"hidden_size": 3}')
    return folder


@pytest.fixture
def folder(runs_once, tmp_path) -> Path:
    return shutil.copytree(runs_once, tmp_path / "runs")


def test_table(folder, capsys):
    assert runs.main([str(folder)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == list(runs.COLUMNS)
    assert [Path(line.split()[0]).name for line in lines] == ["a", "begun", "b"]
    assert "concatB fl" in lines[0]
    assert lines[0].endswith("finished")
    assert lines[1].endswith("no checkpoint")
    assert "concatB wrap pcgrad" in lines[2]


def test_json_is_sorted(folder, capsys):
    assert runs.main([str(folder), "--json", "--sort", "average"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["average"] is None
    assert found[1]["average"] <= found[2]["average"]
    for one in found[1:]:
        metrics = json.loads((Path(one["run"]) / "metrics.json").read_text())
        assert (one["average"], one["steps"]) == (metrics["dev"]["average"], metrics["steps"])


def test_a_copy_keeps_its_date(folder, capsys):
    edit_json(folder / "a" / "metrics.json",
              lambda metrics: metrics["environment"].update(date="2020-12-31 23:59+01:00"))
    assert runs.main([str(folder)]) == 0
    assert "  2020-12-31 23:59  sst" in capsys.readouterr().out


def test_prune(folder, capsys, monkeypatch):
    assert runs.main(["prune", str(folder)]) == 2
    assert "run it in a terminal, or add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    before = (folder / "a" / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert runs.main(["prune", str(folder)]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert (folder / "a" / "checkpoint").is_dir()

    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert runs.main(["prune", str(folder)]) == 0
    assert "removed, " in capsys.readouterr().out
    assert not (folder / "a" / "checkpoint").exists()
    assert not (folder / "deep" / "b" / "checkpoint").exists()
    assert (folder / "a" / "model" / "model.safetensors").read_bytes() == before
    assert runs.main(["prune", str(folder), "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_an_interrupted_run_is_not_pruned(folder):
    (folder / "a" / "metrics.json").unlink()
    assert runs.main(["prune", str(folder), "--yes"]) == 0
    assert (folder / "a" / "checkpoint").is_dir()


def test_unreadable_folder(folder, monkeypatch):
    """A folder that may not be read is named; the runs beside it are found."""
    iterdir = Path.iterdir

    def refuse(self):
        if self.name == "deep":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.warns(UserWarning, match="deep is left out: .*Permission denied"):
        assert [run.name for run in find_runs(folder)] == ["a", "begun"]


def test_unusable_folders(folder, tmp_path, capsys):
    assert runs.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    (folder / "a" / "config.json").write_text('{"arch": "none", "gs": "wrap", "seed": 1}')
    assert runs.main([str(folder)]) == 0
    said = capsys.readouterr()
    assert "is left out" in said.err
    assert len(said.out.splitlines()) == 3
