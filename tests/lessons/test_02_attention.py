"""Lesson 2: attention, softmax(Q Kᵀ / √d) V.

Every token asks a question (query), every token offers a key and a value; the answer is the values'
average, weighted by how well the keys fit. You learn what the mask does, what √d is for, and that
the fused kernel computes the same.
"""

import math

import pytest
import torch
from oracle import stored_reference
from torch.nn import functional as F

from minbert.attention import BertSelfAttention, attention
from minbert.fast import Packing, packed


def random_heads(batch=3, heads=2, seq=5, head_dim=4, dtype=torch.float64):
    return [torch.randn(batch, heads, seq, head_dim, dtype=dtype, requires_grad=True)
            for _ in range(3)]


def test_two_tokens_by_hand():
    """d = 1, q = [1, 0], k = [0, ln 3], v = [0, 1]: token 1 weighs its keys 1 : 3, token 2 weighs
    them 1 : 1."""
    query = torch.tensor([[[[1.0], [0.0]]]])
    key = torch.tensor([[[[0.0], [math.log(3.0)]]]])
    value = torch.tensor([[[[0.0], [1.0]]]])
    # float32 rounding of numbers near 1
    torch.testing.assert_close(attention(query, key, value).flatten(), torch.tensor([0.75, 0.5]),
                               atol=1e-6, rtol=0)


def test_scores_are_divided_by_the_root_of_head_dim():
    query, key, value = random_heads(head_dim=16)
    loops = torch.stack([torch.stack([
        sum(w * v for w, v in zip(torch.softmax(torch.stack([q @ k / 4 for k in keys]), 0), values,
                                  strict=True))
        for q in queries]) for queries, keys, values in zip(query[0], key[0], value[0],
                                                            strict=True)])
    torch.testing.assert_close(attention(query, key, value)[0], loops, atol=1e-12, rtol=0)


def test_masked_keys_have_no_weight_and_the_rest_sum_to_one():
    query, key, _ = random_heads()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).bool()
    # as values: the output is the weights
    identity = torch.eye(5, dtype=torch.float64).expand(3, 2, 5, 5)
    weights = attention(query, key, identity, mask)
    assert weights.masked_select(~mask[:, None, None, :].expand_as(weights)).abs().max() == 0
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-12,
                               rtol=0)


def test_a_row_of_padding_alone_gives_finite_values():
    query, key, value = random_heads(batch=1)
    out = attention(query, key, value, torch.zeros(1, 5, dtype=torch.bool))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_the_fused_kernel_equals_the_written_out_formula(masked, dtype, tolerance):
    """Values and gradients; the tolerances are rounding of the dtype, sums of 5 to 30 terms near
    1."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1],
                         [1, 0, 1, 0, 1]]).bool() if masked else None
    inputs = random_heads(dtype=dtype)
    upstream = torch.randn_like(inputs[0])
    plain = attention(*inputs, mask)
    fused = F.scaled_dot_product_attention(*inputs,
                                           None if mask is None else mask[:, None, None, :])
    torch.testing.assert_close(fused, plain, atol=tolerance, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(fused, inputs, upstream),
                            torch.autograd.grad(plain, inputs, upstream),
                            strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_dropout_takes_its_share_of_attention():
    """With equal scores and values 1, an output is the share kept over (1 − p): mean 1, and 0 where
    all are dropped."""
    zeros, ones = torch.zeros(64, 8, 16, 4), torch.ones(64, 8, 16, 4)
    out = attention(zeros, zeros, ones, None, 0.5)[..., 0]
    # 8,192 outputs of standard deviation 1/√16 = 0.25: the mean's standard error is 0.003
    assert abs(float(out.mean()) - 1) < 0.015
    assert abs(float(out.std()) - 0.25) < 0.02


def test_one_product_makes_the_same_heads_as_three_separate_ones():
    module = BertSelfAttention(hidden_size=6, num_heads=3, dropout=0.0).double().eval()
    rows = torch.randn(4, 6, dtype=torch.float64)
    query, key, value = (rows @ w.T + b for w, b in zip(module.query_key_value.weight.chunk(3),
                                                        module.query_key_value.bias.chunk(3),
                                                        strict=True))
    heads = []
    for h in range(3):
        columns = slice(2 * h, 2 * h + 2)
        weights = torch.softmax(query[:, columns] @ key[:, columns].T / math.sqrt(2), dim=-1)
        heads.append(weights @ value[:, columns])
    ours = module(rows[None])[0]
    torch.testing.assert_close(ours, torch.cat(heads, dim=1), atol=1e-12, rtol=0)


def test_it_is_torchs_own_multi_head_attention():
    ours = BertSelfAttention(hidden_size=6, num_heads=3, dropout=0.0).double().eval()
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True).double().eval()
    theirs.load_state_dict({"in_proj_weight": ours.query_key_value.weight,
                            "in_proj_bias": ours.query_key_value.bias,
                            "out_proj.weight": torch.eye(6), "out_proj.bias": torch.zeros(6)})
    rows = torch.randn(1, 4, 6, dtype=torch.float64)
    expected, weights = theirs(rows, rows, rows, average_attn_weights=False)
    torch.testing.assert_close(ours(rows), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.weights(rows), weights, atol=1e-12, rtol=0)


def test_the_weights_are_those_of_the_stored_reference():
    model, inputs, stored = stored_reference()
    out = model(**inputs, output_attentions=True)
    real = inputs["attention_mask"].bool()[:, None, :, None].expand_as(out.attentions[0])
    for ours, theirs in zip(out.attentions, stored["attentions"], strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-12, rtol=0)


def test_sentences_in_one_row_never_see_each_other():
    module = BertSelfAttention(hidden_size=6, num_heads=3, dropout=0.0).double().eval()
    first, second = torch.randn(4, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    packing = Packing.from_lengths([4, 2])
    together = packed.attend(module, torch.cat([first, second]), packing)
    apart = torch.cat([module(first[None])[0], module(second[None])[0]])
    torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)


def test_packing_and_padding_are_inverse_and_each_others_transpose():
    packing = Packing.from_lengths([3, 1, 2])
    assert packing.slots.tolist() == [0, 1, 2, 3, 6, 7]
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    row = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    grid = torch.randn(3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(packing.unpad(packing.pad(row)), row)
    assert packing.pad(row)[~packing.mask].abs().max() == 0
    assert torch.equal(packing.first_tokens(row), row[[0, 3, 4]])
    # <pad(row), grid> = <row, unpad(grid)>: what autograd needs of a linear map and its backward
    torch.testing.assert_close((packing.pad(row) * grid).sum(), (row * packing.unpad(grid)).sum())
    assert torch.autograd.gradcheck(packing.pad, row)
    assert torch.autograd.gradcheck(packing.unpad, grid)
