"""Tests what only a GPU runs, on a computer without one: the paths, not the kernels.

    python tools/second_device                    # as on an NVIDIA GPU
    python tools/second_device --like mps         # as on a Mac's, which has no float64
    python tools/second_device tests/paper -k resume

A copy of the source takes the second device for such a GPU, and its tests run there. device.cpp
says what that device is strict about. Needs g++ and ninja; building it takes half a minute.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("minbert", "minbert_study", "optim", "heads", "multitask", "examples", "tests")
REPLACED = {
    "cuda": [(r'"cuda\b', '"fake'), (r"torch\.cuda\b", "torch.fake")],
    "mps": [('"mps"', '"fake"'), (r"torch\.mps\b", "torch.fake"),
            (r"torch\.backends\.mps\.is_available\(\)", "True"),
            (r'"cuda" if there\["cuda"\] else "cpu"', '"fake"')],  # what auto takes
}


def main() -> int:
    """Returns pytest's status."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=REPLACED, default="cuda")
    arguments, chosen = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        copy, build = Path(folder) / "minbert", Path(folder) / "build"
        build.mkdir()
        for name in FOLDERS:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("train_multitask.py", "pyproject.toml"):
            shutil.copy(ROOT / name, copy)

        for path in copy.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for pattern, replacement in REPLACED[arguments.like]:
                text = re.sub(pattern, replacement, text)
            path.write_text(text, encoding="utf-8")

        # in every process of the tests
        (build / "sitecustomize.py").write_text("import device\n", encoding="utf-8")
        paths = (build, Path(__file__).parent, copy)
        environment = os.environ | {
            "SECOND_DEVICE_LIKE": arguments.like, "SECOND_DEVICE_BUILD": str(build),
            "PYTHONPATH": os.pathsep.join(map(str, paths))}
        return subprocess.run(
            [sys.executable, "-m", "pytest",
             *(chosen or ["tests/speed", "tests/lessons", "tests/paper"])],
            cwd=copy, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
