"""Lesson 3: one transformer layer.

Attention mixes the tokens; the feed-forward part treats each token alone. Each part's output is
added to its input (the residual connection), and LayerNorm follows the sum. You learn what exactly
GELU is, and that "post-norm" means that a layer's outputs are normalised.

Write it yourself: minbert study, ex04_gelu.py; minbert study, ex06_layer.py.
"""

import math

import pytest
import torch
from oracle import stored_reference
from torch.testing import assert_close

from minbert.activations import ACTIVATIONS, gelu, gelu_new
from minbert.layer import BertLayer

GRID = torch.linspace(-8, 8, 3201, dtype=torch.float64)


def layer(activation="gelu", dropout=0.0) -> BertLayer:
    torch.manual_seed(1)
    return BertLayer(8, 2, 12, activation, 1e-12, dropout, dropout).double()


def sentence(scale=1) -> torch.Tensor:
    return scale * torch.randn(1, 5, 8, dtype=torch.float64)


def exact_gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("ours", "formula"), [(gelu, exact_gelu), (gelu_new, tanh_gelu)])
def test_gelu(ours, formula):
    """gelu(x) is x · Φ(x), Φ being the standard normal CDF; gelu_new approximates it with tanh."""
    by_hand = [formula(x) for x in GRID.tolist()]
    assert_close(ours(GRID), torch.tensor(by_hand, dtype=torch.float64), atol=1e-14, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layer_equations(activation):
    """A layer computes the two equations in its docstring."""
    module, x = layer(activation).eval(), sentence()

    def linear(rows, part):
        return rows @ part.weight.T + part.bias

    def normalise(rows, norm):
        centred = rows - rows.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / deviation * norm.weight + norm.bias

    attended = linear(module.self_attention(x), module.attention_dense)
    h = normalise(x + attended, module.attention_layer_norm)
    inner = ACTIVATIONS[activation](linear(h, module.intermediate_dense))
    y = normalise(h + linear(inner, module.output_dense), module.output_layer_norm)

    assert_close(module(x), y, atol=1e-12, rtol=0)


def test_equals_torch():
    """A layer equals torch's own encoder layer."""
    ours, x = layer().eval(), sentence()
    attention = ours.self_attention.query_key_value
    theirs = torch.nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True,
        norm_first=False).double()
    theirs.self_attn.load_state_dict({
        "in_proj_weight": attention.weight, "in_proj_bias": attention.bias,
        "out_proj.weight": ours.attention_dense.weight, "out_proj.bias": ours.attention_dense.bias})
    theirs.linear1.load_state_dict(ours.intermediate_dense.state_dict())
    theirs.linear2.load_state_dict(ours.output_dense.state_dict())
    theirs.norm1.load_state_dict(ours.attention_layer_norm.state_dict())
    theirs.norm2.load_state_dict(ours.output_layer_norm.state_dict())

    assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)


def test_stored_hidden_states():
    """Every layer's output equals that of the stored reference."""
    model, inputs, stored = stored_reference()
    out = model(**inputs, output_hidden_states=True)

    real = inputs["attention_mask"].bool()
    for ours, theirs in zip(out.hidden_states, stored["hidden_states"], strict=True):
        assert_close(ours[real], theirs[real], atol=1e-12, rtol=0)


def test_post_norm():
    """A new layer's outputs have mean 0 and variance 1, however large its inputs are."""
    out = layer().eval()(sentence(scale=100))[0]

    zeros = torch.zeros(5, dtype=torch.float64)
    assert_close(out.mean(-1), zeros, atol=1e-12, rtol=0)
    assert_close(out.square().mean(-1), zeros + 1, atol=1e-9, rtol=0)


def test_tokens_are_a_set():
    """Without position embeddings, a layer ignores order: shuffled tokens give shuffled outputs."""
    module, x = layer().eval(), sentence()
    shuffle = torch.tensor([3, 1, 4, 0, 2])
    assert_close(module(x[:, shuffle]), module(x)[:, shuffle], atol=1e-12, rtol=0)


def test_dropout():
    """Dropout acts in training mode and not in eval mode."""
    module, x = layer(dropout=0.5), sentence()
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
