"""A student's part is put to work in the library, also where it replaces no function of it."""

import sys
from pkgutil import resolve_name
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import optim
from minbert import Masking, activations, attention, layer, masking
from minbert.layer import BertLayer
from minbert_study.exercise import PACKAGES, install, load, name_of
from multitask.kinds import KINDS
from multitask.tasks import TASKS
from optim import surgery


def put_back(monkeypatch, *places):
    """After the test, what stands at these places now is again wherever it was imported to."""
    found = [resolve_name(place) for place in places]
    for module in [*sys.modules.values()]:
        if module.__name__.split(".")[0] in PACKAGES:
            for name, value in [*vars(module).items()]:
                if any(value is each for each in found):
                    monkeypatch.setattr(module, name, value)


def test_imported_names(monkeypatch):
    """A part takes its place also in the modules that imported the library's by name."""
    put_back(monkeypatch, *load("multi_head").places)
    own = type("BertSelfAttention", (nn.Module,), {})
    install(load("multi_head"), SimpleNamespace(BertSelfAttention=own))
    assert attention.BertSelfAttention is own
    assert layer.BertSelfAttention is own


def test_gelu(monkeypatch):
    """Layers made from now on use the student's function, and its derivative by autograd."""
    put_back(monkeypatch, *load("gelu").places)
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", activations.ACTIVATIONS["gelu"])
    install(load("gelu"), SimpleNamespace(gelu=lambda x: x**3))

    activation = BertLayer(4, 2, 3, "gelu", 1e-12, 0.0, 0.0).activation

    assert activation(torch.tensor([2.0])) == 8
    assert activation.derivative(torch.tensor([10.0]), torch.tensor([2.0])) == 120
    assert activations.gelu(torch.tensor([2.0])) == 8


def test_layer_norm(monkeypatch):
    """Every nn.LayerNorm calls the student's function with its weight, bias and eps."""
    put_back(monkeypatch, *load("layer_norm").places)
    monkeypatch.setattr(nn.LayerNorm, "forward", nn.LayerNorm.forward)
    part = SimpleNamespace(layer_norm=lambda x, weight, bias, eps: 10 * x + 2 * weight + bias + eps)
    install(load("layer_norm"), part)

    module = nn.LayerNorm(3, eps=0.5)

    assert torch.equal(module(torch.ones(2, 3)), torch.full((2, 3), 12.5))


def test_masking(monkeypatch):
    """Masking calls the student's function, but for whole words and other shares."""
    put_back(monkeypatch, *load("masking").places)
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


@pytest.mark.parametrize(("name", "function"), [
    ("pcgrad", "project_conflicting"), ("paper", "project_paper")])
def test_surgery(name, function, monkeypatch):
    """The library's function is the student's, also where it was imported to."""
    put_back(monkeypatch, *load(name).places, f"optim.surgery:{function}")
    own = SimpleNamespace(**{function: lambda gradients: gradients[0]})
    install(load(name), own)
    assert getattr(surgery, function) is getattr(optim, function) is getattr(own, function)


def test_losses_and_metrics(monkeypatch):
    """Every task's loss and metrics are the student's; macro-F1 and Spearman stay the library's."""
    exercise = load("losses")
    put_back(monkeypatch, *exercise.places)
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
