"""Lesson 3: one transformer layer.

Attention lets tokens talk, the feed-forward part lets each think; both add to what was there (the
residual) and are normalised after the sum. You learn what GELU is exactly, and that "post-norm"
means the outputs are normalised.
"""

import math

import pytest
import torch
from oracle import stored_reference

from minbert.activations import ACTIVATIONS, gelu, gelu_new
from minbert.layer import BertLayer

GRID = torch.linspace(-8, 8, 3201, dtype=torch.float64)


def layer(activation="gelu", dropout=0.0) -> BertLayer:
    torch.manual_seed(1)
    return BertLayer(8, 2, 12, activation, 1e-12, dropout, dropout).double()


def test_gelu_is_x_times_the_normal_distribution_function():
    by_hand = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in GRID.tolist()]
    torch.testing.assert_close(gelu(GRID), torch.tensor(by_hand, dtype=torch.float64), atol=1e-14,
                               rtol=0)


def test_gelu_new_is_the_tanh_approximation_and_not_gelu():
    by_hand = [x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
               for x in GRID.tolist()]
    torch.testing.assert_close(gelu_new(GRID), torch.tensor(by_hand, dtype=torch.float64),
                               atol=1e-14, rtol=0)
    assert 4e-4 < float((gelu(GRID) - gelu_new(GRID)).abs().max()) < 5e-4


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_is_the_two_equations_of_its_docstring(activation):
    module = layer(activation).eval()
    x = torch.randn(1, 5, 8, dtype=torch.float64)

    def normalise(rows, norm):
        centred = rows - rows.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True)
                          + 1e-12).sqrt() * norm.weight + norm.bias

    attended = module.self_attention(x) @ module.attention_dense.weight.T + module.attention_dense.bias
    h = normalise(x + attended, module.attention_layer_norm)
    inner = ACTIVATIONS[activation](h @ module.intermediate_dense.weight.T
                                    + module.intermediate_dense.bias)
    y = normalise(h + inner @ module.output_dense.weight.T + module.output_dense.bias,
                  module.output_layer_norm)
    torch.testing.assert_close(module(x), y, atol=1e-12, rtol=0)


def test_it_is_torchs_own_encoder_layer():
    ours = layer().eval()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu",
                                              layer_norm_eps=1e-12,
                                              batch_first=True, norm_first=False).double()
    attention = ours.self_attention.query_key_value
    theirs.self_attn.load_state_dict({
        "in_proj_weight": attention.weight, "in_proj_bias": attention.bias,
        "out_proj.weight": ours.attention_dense.weight, "out_proj.bias": ours.attention_dense.bias})
    for name, part in (("linear1", ours.intermediate_dense), ("linear2", ours.output_dense),
                       ("norm1", ours.attention_layer_norm), ("norm2", ours.output_layer_norm)):
        getattr(theirs, name).load_state_dict(part.state_dict())
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)


def test_every_layers_output_is_that_of_the_stored_reference():
    model, inputs, stored = stored_reference()
    out = model(**inputs, output_hidden_states=True)
    real = inputs["attention_mask"].bool()
    for ours, theirs in zip(out.hidden_states, stored["hidden_states"], strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-12, rtol=0)


def test_post_norm_outputs_have_mean_zero_and_variance_one():
    out = layer().eval()(100 * torch.randn(1, 5, 8, dtype=torch.float64))[0]
    torch.testing.assert_close(out.mean(-1), torch.zeros(5, dtype=torch.float64), atol=1e-12,
                               rtol=0)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(5, dtype=torch.float64), atol=1e-9,
                               rtol=0)


def test_without_positions_a_layer_treats_tokens_as_a_set():
    module, x = layer().eval(), torch.randn(1, 5, 8, dtype=torch.float64)
    shuffle = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(module(x[:, shuffle]), module(x)[:, shuffle], atol=1e-12, rtol=0)


def test_training_mode_drops_and_eval_mode_does_not():
    module, x = layer(dropout=0.5), torch.randn(1, 5, 8, dtype=torch.float64)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
