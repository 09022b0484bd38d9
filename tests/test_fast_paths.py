"""The fast paths of the CPU against their plain twins: the same numbers, the same shares dropped.

What a student reads is the plain form; each claim here is why the other one may stand in for it.
"""

import pytest
import torch
from torch.nn import functional as F

from minbert import BertModel, Packing
from minbert.attention import BertSelfAttention, attention, grouped_attention
from minbert.dropout import Dropout, dropout, keep_mask
from minbert.embeddings import Embedding, sparse_embedding_gradients
from minbert.linear import Linear, linear


@pytest.mark.parametrize(("rows", "width", "out"), [(7, 5, 11), (7, 11, 5), (1, 3, 3)])
def test_the_linear_layer_is_torchs_own_in_value_and_gradient(rows, width, out):
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((rows, width), (out, width), (out,))]
    upstream = torch.randn(rows, out)
    ours, theirs = linear(*inputs), F.linear(*inputs)
    # float32 rounding of sums of up to 11 products near 1
    torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0)
    for a, b in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream),
                    strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=0)


def test_other_dtypes_and_shapes_take_torchs_own_linear():
    layer = Linear(3, 4)
    assert layer(torch.randn(2, 5, 3)).shape == (2, 5, 4)
    assert layer.double()(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_grouped_products_equals_the_formula(masked):
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).bool() if masked else None
    inputs = [torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    plain, fast = attention(*inputs, mask), grouped_attention(*inputs, mask)
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=0)
    for a, b in zip(torch.autograd.grad(fast, inputs, upstream), torch.autograd.grad(plain, inputs, upstream),
                    strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_grouped_attention_drops_weights_and_keeps_their_mean():
    """Equal scores and values 1: an output is the share kept over (1 − p), its mean 1."""
    zeros, ones = torch.zeros(64, 8, 16, 4), torch.ones(64, 8, 16, 4)
    out = grouped_attention(zeros, zeros, ones, None, 0.5)[..., 0]
    # 8,192 outputs of standard deviation 1/√16 = 0.25: the mean's standard error is 0.003
    assert abs(float(out.mean()) - 1) < 0.015
    assert abs(float(out.std()) - 0.25) < 0.02


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.9])
def test_the_share_dropped_is_right_and_what_stays_makes_up_for_it(share):
    mask = keep_mask(torch.empty(1000, 1001), share)
    kept = mask[mask > 0]
    # a million draws: the share's standard error is below 0.0005
    assert abs(1 - len(kept) / mask.numel() - share) < 0.0025
    assert kept.unique().numel() == 1
    # the share is rounded to sixteen bits: 1 / (1 − share) is met to 2⁻¹⁷ / (1 − share)
    assert kept[0].item() == pytest.approx(1 / (1 - share), rel=2**-17 / (1 - share) + 1e-6)


def test_neighbouring_draws_are_independent():
    """Four draws come out of one 64-bit number: no two positions within it may go together."""
    kept = (keep_mask(torch.empty(250_000, 4), 0.5) > 0).double()
    # 250,000 pairs: the standard error of a correlation is 0.002
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01


def test_dropout_repeats_with_the_seed_and_its_gradient_uses_the_same_mask():
    x, residual = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    module = Dropout(0.4)
    torch.manual_seed(3)
    added = module.add(residual, x)
    torch.manual_seed(3)
    mask = keep_mask(x, 0.4)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.4), x * mask)
    # addcmul may fuse product and sum into one rounding
    torch.testing.assert_close(added, residual + x * mask, atol=1e-6, rtol=0)
    grads = torch.autograd.grad(added.sum(), [residual, x])
    assert torch.equal(grads[0], torch.ones(5, 7))
    assert torch.equal(grads[1], mask)
    assert torch.equal(module.eval().add(residual, x), residual + x)


def test_an_embedding_adds_the_same_gradient_to_one_that_waits():
    ids = torch.tensor([3, 1, 3, 0])
    upstream = torch.randn(4, 2)
    table = Embedding(5, 2)
    table(ids).backward(upstream)                  # none waits: a dense gradient
    dense = table.weight.grad.clone()
    table.weight.grad = waiting = torch.ones(5, 2)
    with sparse_embedding_gradients(table):
        table(ids).backward(upstream)              # only rows 0, 1 and 3 are added to
    assert table.weight.grad is waiting
    # float32 rounding of 1 + g
    torch.testing.assert_close(waiting - 1, dense, atol=1e-6, rtol=0)


def test_the_usual_loop_meets_dense_gradients_only(tiny_model: BertModel):
    """Forward, zero_grad, backward, step: at the second forward the first gradient is still there."""
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = tiny_model(torch.tensor([[1, 2, 3]])).pooler_output.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss = tiny_model(torch.tensor([[1, 2, 3]])).pooler_output.sum()
    [gradient] = torch.autograd.grad(loss, [tiny_model.embeddings.word_embeddings.weight])
    assert not gradient.is_sparse


def test_a_second_derivative_is_refused_rather_than_wrong():
    layer = Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    [first] = torch.autograd.grad(layer(x).square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_batch_of_padding_alone_gives_an_empty_row(tiny_model: BertModel):
    mask = torch.zeros(2, 3, dtype=torch.long)
    for mode in (True, False):
        out = tiny_model.train(mode)(torch.zeros(2, 3, dtype=torch.long), mask)
        assert torch.isfinite(out.last_hidden_state).all()


def test_groups_hold_every_token_once_and_neighbours_alike_in_length():
    packing = Packing.from_lengths([3, 9, 8, 2, 10])
    assert [group.lengths.tolist() for group in packing.groups] == [[3], [9, 8], [2], [10]]
    tokens, back, by_length = packing.by_length()
    assert by_length.lengths.tolist() == [10, 9, 8, 3, 2]
    assert [group.lengths.tolist() for group in by_length.groups] == [[10, 9, 8], [3], [2]]
    assert torch.equal(tokens[back], torch.arange(32))
    assert torch.equal(by_length.position_ids, packing.position_ids[tokens])


def test_attention_in_groups_is_attention_over_the_whole_padded_batch():
    module = BertSelfAttention(6, 3, 0.0).double()
    packing = Packing.from_lengths([2, 9, 1, 8])
    row = torch.randn(20, 6, dtype=torch.float64)
    grouped = module(row, packing)
    whole = Packing.from_lengths([2, 9, 1, 8])
    whole.__dict__["groups"] = [whole]
    torch.testing.assert_close(grouped, module(row, whole), atol=1e-12, rtol=0)


def test_encoding_the_longest_first_gives_the_tokens_back_in_their_order(tiny_model: BertModel):
    packing = Packing.from_mask(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]))
    ids, types = torch.randint(50, (8,)), torch.randint(2, (8,))
    kept: list[torch.Tensor] = []
    plain = tiny_model.encode_packed(ids, types, packing, layer_inputs=kept)  # who asks for layers gets no reordering
    # float32 rounding
    torch.testing.assert_close(tiny_model.encode_packed(ids, types, packing), plain, atol=2e-6, rtol=0)
