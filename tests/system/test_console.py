"""`minbert train`, `minbert predict`, …: the commands under one name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minbert
import train_multitask
from multitask import __main__ as console
from multitask import predict
from multitask.commands import COMMANDS, command_line, shown, typed
from multitask.data import __main__ as data


@pytest.fixture
def installed(monkeypatch):
    """As if the installed program were running."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/minbert"])


def test_list_and_version(capsys):
    assert console.main([]) == console.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == f"minbert {minbert.__version__}\n"
    assert minbert.__version__[0].isdigit()


def test_an_unknown_command(capsys):
    assert console.main(["trian"]) == 2
    assert "is train meant?" in capsys.readouterr().err


def test_every_command_has_a_main():
    for name, command in COMMANDS.items():
        with pytest.raises(SystemExit) as stopped:
            console.main([name, "--help"])
        assert stopped.value.code == 0
        assert shown(command.python) == command.python  # this is pytest, not the program


@pytest.mark.parametrize(("argv", "expected"), [
    (["/usr/bin/python3", "-u", "/a/train_multitask.py", "--out", "a b"],
     "python /a/train_multitask.py --out 'a b'"),
    (["python", "-m", "multitask.experiments", "--seeds", "2"],
     "python -m multitask.experiments --seeds 2"),
    (["python", "-m", "multitask", "train"], "python -m multitask train"),
    (["torchrun", "-m", "multitask.pretrain"], "python -m multitask.pretrain"),
    (["python", "sweep.py", "--out", "runs/multitask"], ""),
    (["python", "-m", "ipykernel_launcher", "-f", "kernel.json"], "")])
def test_the_command_as_it_was_typed(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert typed() == expected


def test_the_program_as_it_was_typed(installed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "train", "--fl"])
    assert typed() == "minbert train --fl"


def test_messages_name_the_program(installed, capsys, tmp_path):
    assert command_line("hand-in") == "minbert hand-in"
    assert console.main(["predict", "nowhere", "--task", "sst", "a"]) == 2
    assert capsys.readouterr().err.startswith("minbert predict: nowhere: there is no such folder")
    with pytest.raises(SystemExit):
        console.main(["train", "--gs", "nothing"])
    assert capsys.readouterr().err.startswith("minbert train: argument --gs")
    with pytest.raises(SystemExit):
        console.main(["data", "--help"])
    assert capsys.readouterr().out.startswith("usage: minbert data")


def test_messages_name_the_module(capsys):
    assert predict.main(["nowhere", "--task", "sst", "a"]) == 2
    assert capsys.readouterr().err.startswith("multitask.predict: nowhere")
    assert train_multitask.build_parser().prog == "train_multitask.py"
    assert data.build_parser().prog == "python -m multitask.data"


def test_advice_names_the_package(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "multitask", "train", "--fl"])
    assert command_line("hand-in") == "python -m multitask hand-in"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "multitask.predict", "run"])
    assert command_line("hand-in") == "python -m multitask.hand_in"


@pytest.mark.parametrize("script", ["train_multitask.py", "/a/train_multitask.py"])
def test_advice_names_the_script(script, monkeypatch):
    """Where it is: the run may have been started in another folder."""
    monkeypatch.setattr(sys, "argv", [script])
    assert command_line("train") == f"python {script}"
    assert command_line("predict") == "python -m multitask.predict"


def test_advice(installed, brief_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    brief_run("a run", "--max-steps", 1)
    assert "try it: minbert predict 'a run' --task sst" in capsys.readouterr().out


def test_beside_files_of_the_same_names(tmp_path):
    """The installed program, in a folder that holds an optim.py and heads/ of the user's own."""
    program = shutil.which("minbert", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("minbert is not installed as a program: pip install -e . installs it")
    (tmp_path / "heads").mkdir()
    for name in ("optim.py", "heads/__init__.py", "multitask.py"):
        (tmp_path / name).write_text("raise ImportError('the one of the user')\n")
    done = subprocess.run([program, "predict", "nowhere", "a"], cwd=tmp_path, text=True,
                          capture_output=True, check=False,
                          env={key: value for key, value in os.environ.items()
                               if key != "PYTHONPATH"})
    assert done.returncode == 2
    assert done.stderr.startswith("minbert predict: nowhere: there is no such folder")
