"""What the README shows is run as it stands there."""

import re
from pathlib import Path

import train_multitask
from multitask import predict, pretrain
from multitask.data import __main__ as data
from multitask.experiments import __main__ as experiments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_nothing_to_fill_in():
    assert "@@" not in README


def test_two_commands():
    main_job, tests = [line for line in blocks("sh")[0].splitlines() if line.strip()]
    assert main_job.startswith("pip install -e . && python train_multitask.py --arch concatB --gs "
                               "wrap")
    assert tests.startswith("pip install -e '.[test]' && pytest")


def test_own_loop_learns():
    code = next(block for block in blocks("python") if "project_conflicting" in block)
    assert len(code[code.index("flat ="):].strip().splitlines()) == 10
    names: dict = {}
    exec(code, names)
    assert sum(names["losses"]()).item() < 0.2


def test_notebook_lines(capsys):
    code = next(block for block in blocks("python") if "BertModel.from_pretrained" in block)
    exec(code, {})
    assert "torch.Size([2, 256])" in capsys.readouterr().out


def test_flags():
    """Every flag of the README exists, and every flag of the main job gives its default."""
    text = ""
    for module in (train_multitask, predict, experiments, pretrain, data):
        text += module.build_parser().format_help()
    for flag in set(re.findall(r"--[a-z][a-z-]+", README)):
        assert flag in text, flag

    for action in train_multitask.build_parser()._actions:
        assert action.dest == "help" or "default" in action.help, action.dest
