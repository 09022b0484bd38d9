"""Lesson 2: attention, softmax(Q Kᵀ / √d) V.

Every token asks a question (its query), and every token offers a key and a value. The answer is an
average of the values, weighted by how well their keys match the query. You learn what the mask
does, where √d enters, and that the fused kernel computes the same.

Write it yourself: minbert study, ex02_attention.py; minbert study, ex03_multi_head.py.
"""

import math

import pytest
import torch
from oracle import stored_reference
from torch.nn import functional as F
from torch.testing import assert_close

from minbert.attention import BertSelfAttention, attention
from minbert.fast import Packing, packed

# True: a real token, which may be looked at. Padding need not stand at the end.
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).bool()


def random_heads(batch=3, heads=2, seq=5, head_dim=4, dtype=torch.float64):
    """Queries, keys and values."""
    shape = (batch, heads, seq, head_dim)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]


def self_attention() -> BertSelfAttention:
    return BertSelfAttention(hidden_size=6, num_heads=3, dropout=0.0).double().eval()


def test_two_tokens_by_hand():
    """With keys 0 and ln 3, query 1 weights the values 1 : 3, and query 0 weights them 1 : 1.

    The head dimension is 1, and v = [0, 1].
    """
    query = torch.tensor([[[[1.0], [0.0]]]])
    key = torch.tensor([[[[0.0], [math.log(3.0)]]]])
    value = torch.tensor([[[[0.0], [1.0]]]])

    out = attention(query, key, value).flatten()

    # float32 rounding of numbers near 1
    assert_close(out, torch.tensor([0.75, 0.5]), atol=1e-6, rtol=0)


def test_scores_over_root_d():
    """Scores are divided by √head_dim, here √16 = 4. The formula is written as plain loops."""
    query, key, value = random_heads(head_dim=16)

    out = attention(query, key, value)

    for head in range(2):
        for token in range(5):
            scores = torch.stack([query[0, head, token] @ k / 4 for k in key[0, head]])
            weights = torch.softmax(scores, dim=0)
            answer = sum(w * v for w, v in zip(weights, value[0, head], strict=True))
            assert_close(out[0, head, token], answer, atol=1e-12, rtol=0)


def test_masked_keys():
    """Masked keys have no weight, and the other weights sum to one."""
    query, key, _ = random_heads()
    # with the identity as values, the output is the weights
    identity = torch.eye(5, dtype=torch.float64).expand(3, 2, 5, 5)

    weights = attention(query, key, identity, MASK)

    masked = ~MASK[:, None, None, :].expand_as(weights)
    assert weights[masked].abs().max() == 0
    assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), atol=1e-12, rtol=0)


def test_all_padding_is_finite():
    """A row of nothing but padding gives finite values."""
    out = attention(*random_heads(batch=1), torch.zeros(1, 5, dtype=torch.bool))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_fused_equals_formula(mask, dtype, tolerance):
    """The fused kernel gives the formula's values and gradients."""
    inputs = random_heads(dtype=dtype)
    upstream = torch.randn_like(inputs[0])
    fused_mask = None if mask is None else mask[:, None, None, :]

    plain = attention(*inputs, mask)
    fused = F.scaled_dot_product_attention(*inputs, fused_mask)

    # rounding of the dtype in sums of 5 to 30 terms near 1
    assert_close(fused, plain, atol=tolerance, rtol=0)
    fused_gradients = torch.autograd.grad(fused, inputs, upstream)
    plain_gradients = torch.autograd.grad(plain, inputs, upstream)
    assert_close(fused_gradients, plain_gradients, atol=tolerance, rtol=0)


def test_dropout():
    """Dropout keeps the mean: kept attention weights are divided by 1 − p.

    With equal scores and all values 1, an output is the share of weights kept, over 1 − p.
    """
    zeros, ones = torch.zeros(64, 8, 16, 4), torch.ones(64, 8, 16, 4)

    out = attention(zeros, zeros, ones, None, 0.5)[..., 0]

    # 8,192 outputs of standard deviation 1/√16 = 0.25: the mean's standard error is 0.003
    assert abs(float(out.mean()) - 1) < 0.015
    assert abs(float(out.std()) - 0.25) < 0.02


def test_one_product_three_heads():
    """One matrix product makes the same heads as three separate ones."""
    module = self_attention()
    rows = torch.randn(4, 6, dtype=torch.float64)
    weights = module.query_key_value.weight.chunk(3)
    biases = module.query_key_value.bias.chunk(3)
    query, key, value = (rows @ w.T + b for w, b in zip(weights, biases, strict=True))

    heads = []
    for h in range(3):
        columns = slice(2 * h, 2 * h + 2)
        scores = query[:, columns] @ key[:, columns].T / math.sqrt(2)
        heads.append(torch.softmax(scores, dim=-1) @ value[:, columns])

    assert_close(module(rows[None])[0], torch.cat(heads, dim=1), atol=1e-12, rtol=0)


def test_equals_torch():
    """Outputs and weights equal those of torch's own multi-head attention."""
    ours = self_attention()
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True).double().eval()
    theirs.load_state_dict({
        "in_proj_weight": ours.query_key_value.weight, "in_proj_bias": ours.query_key_value.bias,
        # torch also projects the result; BERT does so in the layer, see lesson 3
        "out_proj.weight": torch.eye(6), "out_proj.bias": torch.zeros(6)})
    rows = torch.randn(1, 4, 6, dtype=torch.float64)

    expected, weights = theirs(rows, rows, rows, average_attn_weights=False)

    assert_close(ours(rows), expected, atol=1e-12, rtol=0)
    assert_close(ours.weights(rows), weights, atol=1e-12, rtol=0)


def test_stored_weights():
    """The attention weights equal those of the stored reference."""
    model, inputs, stored = stored_reference()
    out = model(**inputs, output_attentions=True)

    # only rows of real tokens: what padding looks at is unspecified
    real = inputs["attention_mask"].bool()[:, None, :, None].expand_as(out.attentions[0])
    for ours, theirs in zip(out.attentions, stored["attentions"], strict=True):
        assert_close(ours[real], theirs[real], atol=1e-12, rtol=0)


def test_packed_sentences_are_apart():
    """Sentences packed into one row never see each other."""
    module = self_attention()
    first = torch.randn(4, 6, dtype=torch.float64)
    second = torch.randn(2, 6, dtype=torch.float64)

    together = packed.attend(module, torch.cat([first, second]), Packing.from_lengths([4, 2]))

    apart = torch.cat([module(first[None])[0], module(second[None])[0]])
    assert_close(together, apart, atol=1e-12, rtol=0)


def test_pad_and_unpad():
    """Padding a row and unpadding it gives the row back."""
    packing = Packing.from_lengths([3, 1, 2])
    row = torch.randn(6, 5)

    assert packing.slots.tolist() == [0, 1, 2, 3, 6, 7]
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert torch.equal(packing.unpad(packing.pad(row)), row)
    assert packing.pad(row)[~packing.mask].abs().max() == 0
    assert torch.equal(packing.first_tokens(row), row[[0, 3, 4]])
