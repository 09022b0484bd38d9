"""A student's part is put to work in the library, also where it replaces no function of it."""

from types import SimpleNamespace

import torch
from torch import nn

from minbert import activations, attention, layer
from minbert.layer import BertLayer
from minbert_study.exercise import install, load


def test_imported_names(monkeypatch):
    """A part takes its place also in the modules that imported the library's by name."""
    monkeypatch.setattr(attention, "BertSelfAttention", attention.BertSelfAttention)
    monkeypatch.setattr(layer, "BertSelfAttention", layer.BertSelfAttention)
    own = type("BertSelfAttention", (nn.Module,), {})
    install(load("multi_head"), SimpleNamespace(BertSelfAttention=own))
    assert attention.BertSelfAttention is own
    assert layer.BertSelfAttention is own


def test_gelu(monkeypatch):
    """Layers made from now on use the student's function, and its derivative by autograd."""
    monkeypatch.setattr(activations, "gelu", activations.gelu)  # both are put back afterwards
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", activations.ACTIVATIONS["gelu"])
    install(load("gelu"), SimpleNamespace(gelu=lambda x: x**3))

    activation = BertLayer(4, 2, 3, "gelu", 1e-12, 0.0, 0.0).activation

    assert activation(torch.tensor([2.0])) == 8
    assert activation.derivative(torch.tensor([10.0]), torch.tensor([2.0])) == 120
    assert activations.gelu(torch.tensor([2.0])) == 8


def test_layer_norm(monkeypatch):
    """Every nn.LayerNorm calls the student's function with its weight, bias and eps."""
    monkeypatch.setattr(nn.LayerNorm, "forward", nn.LayerNorm.forward)
    part = SimpleNamespace(layer_norm=lambda x, weight, bias, eps: 10 * x + 2 * weight + bias + eps)
    install(load("layer_norm"), part)

    module = nn.LayerNorm(3, eps=0.5)

    assert torch.equal(module(torch.ones(2, 3)), torch.full((2, 3), 12.5))
