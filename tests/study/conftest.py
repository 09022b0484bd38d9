"""A student's folder. Answers, right and wrong, are read by tests, no tests themselves."""

import shutil
from pathlib import Path

import pytest

from minbert_study.__main__ import main
from minbert_study.exercise import FILES

collect_ignore_glob = ["solutions/*", "wrong.py"]
SOLUTIONS = Path(__file__).parent / "solutions"


@pytest.fixture
def folder(tmp_path):
    """A student's folder with two exercises: attention is solved, adamw is not begun."""
    main(["skeleton", str(tmp_path / "mine"), "--only", "adamw,attention"])
    shutil.copy(SOLUTIONS / FILES["attention"], tmp_path / "mine")
    return tmp_path / "mine"
