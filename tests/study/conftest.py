"""A student's folder. Answers, right and wrong, are read by tests, no tests themselves."""

import pytest
from handed_in import hand_in

from minbert_study.__main__ import main

collect_ignore_glob = ["solutions/*", "wrong.py"]


@pytest.fixture
def folder(tmp_path):
    """A student's folder with two exercises: attention is solved, adamw is not begun."""
    main(["skeleton", str(tmp_path / "mine"), "--only", "adamw,attention"])
    return hand_in(tmp_path / "mine", "attention")
