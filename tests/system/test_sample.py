"""The embedded sample: its generator still makes the shipped files; no dev sentence is in train."""

from collections import Counter
from pathlib import Path

import make_sample
import pytest
from programs import python
from sound_files import read

from multitask.data.examples import load_dataset
from multitask.data.sample import write_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def dataset(folder):
    return load_dataset(folder)


def test_generator_makes_it(folder, tmp_path):
    """In another process with another hash seed, so no set's order can matter."""
    assert python(make_sample.__file__, tmp_path / "again", PYTHONHASHSEED="7").returncode == 0
    assert read(tmp_path / "again") == read(folder)
    assert read(make_sample.write_sample(tmp_path / "other", seed=1)) != read(folder)


@pytest.mark.parametrize("split", ["dev", "test-student"])
def test_splits_are_disjoint(dataset, split):
    for splits in dataset.values():
        seen = {text for example in splits["train"] for text in example.sentences}
        fresh = {text for example in splits[split] for text in example.sentences}
        assert not seen & fresh


def test_no_label_is_a_safe_bet(dataset):
    for name, most in (("sst", 0.30), ("para", 0.60)):
        for split in ("train", "dev"):
            counts = Counter(example.label for example in dataset[name][split])
            assert max(counts.values()) / sum(counts.values()) < most, (name, split)

    scores = [example.label for example in dataset["sts"]["train"]]
    assert min(scores) == 0
    assert max(scores) == 5
    assert len(set(scores)) > 20  # graded, not two heaps
