"""A student's masking, losses and metrics are put to work in the library."""

from types import SimpleNamespace

import numpy as np
import torch

from minbert import Masking, masking
from minbert_study.exercise import install, load, name_of, resolve
from multitask.kinds import KINDS
from multitask.tasks import TASKS


def test_masking(monkeypatch):
    """Masking calls the student's function, but for whole words and other shares."""
    monkeypatch.setattr(masking.Masking, "__call__", masking.Masking.__call__)
    ones = torch.ones(3, dtype=torch.int64)
    install(load("masking"), SimpleNamespace(
        mask_tokens=lambda row, special, mask_id, vocab_size, _: (row + mask_id, ones, 9 * ones)))
    none = torch.zeros(30, dtype=torch.bool)
    words = none.index_fill(0, torch.tensor([7]), True)
    row, drawn = torch.full((40,), 6), torch.Generator().manual_seed(0)

    masked = Masking(none, none, 4, 30)(row, drawn)

    assert masked.input_ids.tolist() == [10] * 40
    assert masked.positions.tolist() == [1] * 3
    assert masked.labels.tolist() == [9] * 3
    for other in (Masking(none, words, 4, 30), Masking(none, none, 4, 30, share=0.3)):
        assert other(row, drawn).labels.tolist() == [6] * (6 if other.share == 0.15 else 12)


def test_losses_and_metrics(monkeypatch):
    """Every task's loss and metrics are the student's; macro-F1 and Spearman stay the library's."""
    exercise = load("losses")
    for place in exercise.places:
        module, _, name = place.partition(":")
        monkeypatch.setattr(f"{module}.{name}", resolve(place))  # put back afterwards
    for kind in KINDS.values():
        for name, metric in kind.metrics.items():
            monkeypatch.setitem(kind.metrics, name, metric)
    names = [name_of(place) for place in exercise.places]
    install(exercise, SimpleNamespace(**{name: lambda *_, name=name: f"own {name}"
                                         for name in names}))

    losses = [TASKS[name].loss(torch.zeros(2, TASKS[name].outputs), torch.ones(2))
              for name in ("sst", "para", "sts")]
    numbers = np.array([0.0, 1, 1])
    found = {(kind, name): metric(numbers, numbers) for kind, each in KINDS.items()
             for name, metric in each.metrics.items()}

    assert losses == ["own cross_entropy", "own binary_cross_entropy", "own mean_squared_error"]
    assert found == {("classes", "accuracy"): "own accuracy", ("classes", "f1"): 1.0,
                     ("yes_no", "accuracy"): "own accuracy", ("yes_no", "f1"): "own f1",
                     ("scale", "pearson"): "own pearson", ("scale", "spearman"): 1.0}
