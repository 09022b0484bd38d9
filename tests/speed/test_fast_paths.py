"""The fast paths of the CPU against their plain twins: the same numbers, the same shares dropped.

What a student reads is the plain form; each claim here is why the other one may stand in for it.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from minbert import BertModel, Packing, fast
from minbert.activations import ACTIVATIONS
from minbert.fast import accumulate_into, packed, sparse_embedding_gradients, weights_cast_once
from minbert.fast import layer as by_hand
from minbert.fast.blocks import BLOCK_WEIGHTS, Blocks, group_by_length
from minbert.fast.dropout import drop_, keep_mask, rescale
from minbert.fast.gradients import GradBuffers, current_buffers
from minbert.fast.linear import add_weight_gradient, input_gradient, product
from minbert.layer import BertLayer

HIDDEN, LENGTHS = 12, (3, 9, 8, 2, 10)


def layer_of(activation: str = "gelu", dropout: float = 0.0,
             dtype: torch.dtype = torch.float64) -> BertLayer:
    layer = BertLayer(HIDDEN, 3, 20, activation, 1e-12, dropout, dropout).to(dtype)
    for parameter in layer.parameters():
        # far from a start at which biases and LayerNorm would say nothing
        nn.init.normal_(parameter, std=0.5)
    return layer


def run_fast(layer: BertLayer, x: torch.Tensor, packing: Packing,
             first_only: bool = False) -> torch.Tensor:
    """As the encoder does: by hand, or, where a part was changed, part by part on the packed
    row."""
    return packed.encode_layers(SimpleNamespace(layers=[layer]), x, packing, first_only)


def run_plain(layer: BertLayer, x: torch.Tensor, packing: Packing,
              first_only: bool = False) -> torch.Tensor:
    out = layer(packing.pad(x), packing.attention_mask)
    return out[:, 0] if first_only else packing.unpad(out)


def grads_of(module: nn.Module) -> dict[nn.Parameter, torch.Tensor]:
    """Where `accumulate_into` is to put them: into the parameters' own `.grad`."""
    return {parameter: parameter.grad for parameter in module.parameters()}


def value_and_gradients(run, layer: BertLayer, x: torch.Tensor, packing: Packing,
                        first_only: bool) -> list[torch.Tensor]:
    """The layer's output, the gradient of x and those of all parameters, of a sum weighted
    unevenly."""
    out = run(layer, x, packing, first_only)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_layer_by_hand_is_the_layer_in_value_and_every_gradient(activation, first_only):
    layer, packing = layer_of(activation), Packing.from_lengths(LENGTHS)
    x = torch.randn(sum(LENGTHS), HIDDEN, dtype=torch.float64, requires_grad=True)
    assert by_hand.applies(layer, x)
    ours = value_and_gradients(run_fast, layer, x, packing, first_only)
    plain = value_and_gradients(run_plain, layer, x, packing, first_only)
    assert len(ours) == 2 + 12
    for mine, autograds in zip(ours, plain, strict=True):
        # float64 rounding of numbers up to some hundreds
        torch.testing.assert_close(mine, autograds, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("first_only", [False, True])
def test_with_dropout_the_derivative_by_hand_is_that_of_the_masks_drawn(first_only):
    """Finite differences, the seed set before each forward, so that all of them draw the same
    masks."""
    layer, packing = layer_of("gelu", 0.3), Packing.from_lengths([3, 1, 2])
    x = torch.randn(6, HIDDEN, dtype=torch.float64, requires_grad=True)

    def forward(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return run_fast(layer, x, packing, first_only)

    assert torch.autograd.gradcheck(forward, (x, *layer.parameters()), fast_mode=True)
    torch.manual_seed(8)
    assert not torch.equal(run_fast(layer, x, packing), forward(x))  # there is something to draw


def test_in_bf16_the_layer_by_hand_is_as_near_to_float32_as_autocast_is():
    layer, packing = layer_of(dtype=torch.float32), Packing.from_lengths(LENGTHS)
    x = torch.randn(sum(LENGTHS), HIDDEN, requires_grad=True)
    exact = value_and_gradients(run_plain, layer, x, packing, False)

    def error(run) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            rough = value_and_gradients(run, layer, x, packing, False)
        assert all(value.dtype == torch.float32 for value in rough)
        return max(float((a - b).norm() / b.norm()) for a, b in zip(rough, exact, strict=True))

    # bf16 keeps 8 bits, and a dozen products follow one another; both forms round, at other places
    assert 1e-4 < error(run_fast) < max(1.5 * error(run_plain), 0.02)


def test_weights_cast_once_and_gradients_written_in_place_change_no_bit():
    """In bf16 a gradient is rounded once, to bf16; whether it is then copied or added to zeros is
    all the same."""
    layer, packing = layer_of(dtype=torch.float32), Packing.from_lengths(LENGTHS)
    x = torch.randn(sum(LENGTHS), HIDDEN, requires_grad=True)

    def gradients() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            out = run_fast(layer, x, packing)
        out.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}

    plain = gradients()
    layer.zero_grad(set_to_none=False)
    with weights_cast_once(layer, torch.bfloat16), accumulate_into([grads_of(layer)]):
        fast = gradients()
        twice = gradients()  # the second backward adds
    assert all(torch.equal(fast[name], plain[name]) for name in plain)
    for name, value in twice.items():
        torch.testing.assert_close(value, 2 * plain[name])


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_each_part_of_a_row_has_the_gradients_it_would_have_alone(precision, first_only):
    """Of two parts, of two and three sentences, each has its own places; a second backward adds."""
    dtype, lengths = (torch.float64 if precision == "float64"
                      else torch.float32), ([3, 9], [8, 2, 10])
    layer = layer_of(dtype=dtype)
    rows = [torch.randn(sum(part), HIDDEN, dtype=dtype) for part in lengths]
    packings = [Packing.from_lengths(part) for part in lengths]

    def loss_of(row: torch.Tensor, packing: Packing) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return run_fast(layer, row, packing, first_only).square().sum()

    places = [{parameter: torch.zeros_like(parameter) for parameter in layer.parameters()}
              for _ in rows]
    with accumulate_into(places, [2, 3]):
        for _ in range(2):
            loss_of(torch.cat(rows), Packing.from_lengths([*lengths[0], *lengths[1]])).backward()
    assert all(parameter.grad is None for parameter in layer.parameters())
    for row, packing, place in zip(rows, packings, places, strict=True):
        alone = torch.autograd.grad(loss_of(row, packing), list(place))
        for found, expected in zip(place.values(), alone, strict=True):
            # float64 rounding; of bf16, where blocks of other sentences round elsewhere, some
            # hundredths of the length
            error = (found - 2 * expected).norm() / (2 * expected).norm()
            assert error < (1e-12 if precision == "float64" else 0.02), error


def test_places_for_other_parts_than_there_are_are_refused():
    layer, row = layer_of(), torch.randn(5, HIDDEN, dtype=torch.float64)
    places = [{parameter: torch.zeros_like(parameter) for parameter in layer.parameters()}] * 2
    with accumulate_into(places), pytest.raises(AssertionError,
                                                match="one mapping of buffers per part"):
        run_fast(layer, row, Packing.from_lengths([2, 3])).sum().backward()
    assert current_buffers() == GradBuffers()


def test_a_float32_gradient_is_added_in_place():
    layer = layer_of(dtype=torch.float32)
    x, packing = torch.randn(sum(LENGTHS), HIDDEN), Packing.from_lengths(LENGTHS)
    run_fast(layer, x, packing).square().sum().backward()
    plain = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    kept = layer.intermediate_dense.weight.grad
    layer.zero_grad(set_to_none=False)
    with accumulate_into([grads_of(layer)]):
        run_fast(layer, x, packing).square().sum().backward()
    assert layer.intermediate_dense.weight.grad is kept
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_a_graph_that_is_kept_gives_the_same_gradient_again():
    """As other implementations of gradient surgery need it."""
    layer = layer_of()
    loss = run_fast(layer, torch.randn(3, HIDDEN, dtype=torch.float64),
                    Packing.from_lengths([3])).square().sum()
    first, again = (torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
                    for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_backward_needed_is_freed_with_it_though_the_loss_is_held():
    """In the usual loop the last step's loss still stands while the next forward runs: its
    activations must not."""
    layer = layer_of()
    loss = run_fast(layer, torch.randn(3, HIDDEN, dtype=torch.float64),
                    Packing.from_lengths([3])).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.grad_fn.next_functions[0][0].saved_tensors  # noqa: B018


def test_a_second_derivative_is_refused_rather_than_wrong():
    layer = layer_of()
    x = torch.randn(3, HIDDEN, dtype=torch.float64, requires_grad=True)
    [first] = torch.autograd.grad(run_fast(layer, x, Packing.from_lengths([3])).square().sum(), [x],
                                  create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def replaced_by_torchs_own(layer: BertLayer) -> None:
    layer.output_dense = nn.Linear(20, HIDDEN, dtype=torch.float64)


def without_a_bias(layer: BertLayer) -> None:
    layer.output_layer_norm = nn.LayerNorm(HIDDEN, bias=False, dtype=torch.float64)


# What people do to a layer, and whether fast_layer.py still stands in for it.
CHANGES = {
    "a hook on a part": lambda layer: layer.output_dense.register_forward_hook(lambda *given: 3 * given[-1]),
    "pruned": lambda layer: prune.l1_unstructured(layer.output_dense, "weight", 0.5),
    "parametrized": lambda layer: parametrizations.weight_norm(layer.attention_dense),
    "replaced": replaced_by_torchs_own,
    "no dropout module": lambda layer: setattr(layer, "dropout", nn.Identity()),
    "no bias": without_a_bias,
    "all dropped": lambda layer: setattr(layer.dropout, "p", 1.0),
    "an activation of theirs": lambda layer: setattr(layer, "activation", F.silu),
    "dropout switched off": lambda layer: (setattr(layer.dropout, "p", 0.5), layer.dropout.eval()),
    "frozen": lambda layer: layer.intermediate_dense.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_was_changed_computes_what_its_plain_form_would(change):
    layer, packing = layer_of(), Packing.from_lengths(LENGTHS)
    torch.manual_seed(4)
    CHANGES[change](layer)
    x, results = torch.randn(sum(LENGTHS), HIDDEN, dtype=torch.float64), []
    for run in (run_fast, run_plain):
        layer.zero_grad()
        out = run(layer, x, packing)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in layer.parameters())])
    for ours, autograds in zip(*results, strict=True):
        # float64 rounding of numbers up to some hundreds
        torch.testing.assert_close(ours, autograds, atol=1e-11, rtol=1e-11)


def test_dropout_in_an_evaluated_model_is_drawn_where_its_modules_train():
    """Monte Carlo dropout (Gal and Ghahramani 2016)."""
    layer, x = layer_of(dropout=0.5).eval(), torch.randn(3, HIDDEN, dtype=torch.float64)
    assert torch.equal(run_fast(layer, x, Packing.from_lengths([3])),
                       run_fast(layer, x, Packing.from_lengths([3])))
    layer.dropout.train()
    assert not torch.equal(run_fast(layer, x, Packing.from_lengths([3])),
                           run_fast(layer, x, Packing.from_lengths([3])))


def test_a_backward_through_weights_that_have_changed_since_is_refused():
    """With the new weights, the gradient would be that of no function at all."""
    layer = layer_of()
    loss = run_fast(layer, torch.randn(3, HIDDEN, dtype=torch.float64),
                    Packing.from_lengths([3])).square().sum()
    layer.load_state_dict(layer_of().state_dict())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Once(nn.Module):
    """A layer whose forward is one of the two forms, for functional_call."""

    def __init__(self, layer: BertLayer, run) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self, x: torch.Tensor, packing: Packing) -> torch.Tensor:
        return self.run(self.layer, x, packing)


def test_weights_lent_for_one_call_get_the_gradient_of_that_call():
    """torch.func.functional_call puts others in the place of the layer's own, and takes them away
    before backward."""
    layer, packing = layer_of(), Packing.from_lengths(LENGTHS)
    x, gradients = torch.randn(sum(LENGTHS), HIDDEN, dtype=torch.float64), []
    lent = {f"layer.{name}": (value.detach() + 0.1).requires_grad_()
            for name, value in layer.named_parameters()}
    for run in (run_fast, run_plain):
        loss = functional_call(Once(layer, run), lent, (x, packing)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(lent.values())))
    for ours, autograds in zip(*gradients, strict=True):
        # float64 rounding of numbers up to some hundreds
        torch.testing.assert_close(ours, autograds, atol=1e-10, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_around_backward_changes_nothing_and_float64_stays_what_it_is(dtype):
    """Autocast casts float32 alone, and what a backward computes in is settled by its forward."""
    layer, packing = layer_of(dtype=dtype), Packing.from_lengths(LENGTHS)
    x = torch.randn(sum(LENGTHS), HIDDEN, dtype=dtype, requires_grad=True)
    plain = value_and_gradients(run_fast, layer, x, packing, False)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float64):
        out = run_fast(layer, x, packing)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    with torch.autocast("cpu", torch.bfloat16):
        cast = [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])]
    assert all(torch.equal(a, b) for a, b in zip(cast, plain, strict=True))


def test_weights_that_change_while_their_cast_is_kept_are_cast_anew():
    layer, other = layer_of(dtype=torch.float32), layer_of(dtype=torch.float32)
    x, packing = torch.randn(sum(LENGTHS), HIDDEN), Packing.from_lengths(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16), weights_cast_once(layer, torch.bfloat16):
        layer.load_state_dict(other.state_dict())
        assert torch.equal(run_fast(layer, x, packing), run_fast(other, x, packing))


def test_a_weight_that_is_frozen_or_has_a_hook_gets_no_gradient_in_place():
    layer = layer_of()
    layer.output_dense.weight.requires_grad_(False)
    layer.attention_dense.weight.register_hook(torch.zeros_like)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with accumulate_into([grads_of(layer)]):
        run_fast(layer, torch.randn(3, HIDDEN, dtype=torch.float64),
                 Packing.from_lengths([3])).square().sum().backward()
    zero = {name for name, parameter in layer.named_parameters() if not parameter.grad.any()}
    assert zero == {"output_dense.weight", "attention_dense.weight"}


@pytest.mark.parametrize(("rows", "width", "out"), [(7, 5, 11), (7, 11, 5), (1, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_products_by_hand_are_torchs_own_linear(rows, width, out, dtype):
    layer = nn.Linear(width, out, dtype=dtype)
    x, upstream = torch.randn(rows, width, dtype=dtype,
                              requires_grad=True), torch.randn(rows, out, dtype=dtype)
    plain = F.linear(x, layer.weight, layer.bias)
    gradients = torch.autograd.grad(plain, [x, layer.weight, layer.bias], upstream)
    found = [product(layer, x.detach()), input_gradient(layer, upstream, layer.weight.detach()),
             torch.zeros_like(layer.weight), upstream.sum(0)]
    add_weight_gradient(found[2], upstream, x.detach())
    for ours, theirs in zip(found, [plain, *gradients], strict=True):
        # float32 rounding of sums of up to 11 products near 1
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.9])
def test_the_share_dropped_is_right_and_what_stays_makes_up_for_it(share):
    mask = keep_mask((1000, 1001), share)
    assert mask.unique().tolist() == [-1, 0]
    # a million draws: the share's standard error is below 0.0005
    assert abs(float((mask == 0).double().mean()) - share) < 0.0025
    # the share is rounded to sixteen bits: 1 / (1 − share) is met to 2⁻¹⁷ / (1 − share)
    assert rescale(share) == pytest.approx(1 / (1 - share), rel=2**-17 / (1 - share) + 1e-6)


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
def test_a_share_of_almost_nothing_or_almost_all_can_be_drawn(share):
    mask = keep_mask((1000, 1000), share)
    # 2⁻¹⁶ of a million draws is 15, with a standard deviation of 4
    assert min((mask == 0).sum(), (mask == -1).sum()) < 50
    assert rescale(share) == pytest.approx(1 / (1 - share), rel=2**-16) or rescale(share) == 2**16
    assert rescale(0.0) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mask_of_bits_keeps_a_number_whole_or_sets_it_to_zero(dtype):
    x = torch.tensor([1.5, -0.0, -3e-5, 1e30, 7.0, float("inf")], dtype=dtype)
    mask = torch.tensor([-1, -1, -1, -1, 0, 0], dtype=torch.int16)
    assert torch.equal(drop_(x.clone(), mask), torch.cat([x[:4], x.new_zeros(2)]))
    assert drop_(x, None) is x


def test_neighbouring_draws_are_independent():
    """Four draws come out of one 64-bit number: no two positions within it may go together."""
    kept = -keep_mask((250_000, 4), 0.5).double()
    # 250,000 pairs: the standard error of a correlation is 0.002
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01


def test_an_embedding_adds_the_same_gradient_to_one_that_waits():
    ids = torch.tensor([3, 1, 3, 0])
    upstream = torch.randn(4, 2)
    table = nn.Embedding(5, 2)
    table(ids).backward(upstream)                  # none waits: a dense gradient
    dense = table.weight.grad.clone()
    table.weight.grad = waiting = torch.ones(5, 2)
    with sparse_embedding_gradients(table):
        table(ids).backward(upstream)              # only rows 0, 1 and 3 are added to
    assert table.weight.grad is waiting
    # float32 rounding of 1 + g
    torch.testing.assert_close(waiting - 1, dense, atol=1e-6, rtol=0)


def test_the_usual_loop_meets_dense_gradients_only(tiny_model: BertModel):
    """Forward, zero_grad, backward, step: at the second forward the first gradient is still
    there."""
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = tiny_model(torch.tensor([[1, 2, 3]])).pooler_output.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loss = tiny_model(torch.tensor([[1, 2, 3]])).pooler_output.sum()
    [gradient] = torch.autograd.grad(loss, [tiny_model.embeddings.word_embeddings.weight])
    assert not gradient.is_sparse


def test_a_batch_of_padding_alone_gives_an_empty_row(tiny_model: BertModel):
    mask = torch.zeros(2, 3, dtype=torch.long)
    for mode in (True, False):
        out = tiny_model.train(mode)(torch.zeros(2, 3, dtype=torch.long), mask)
        assert torch.isfinite(out.last_hidden_state).all()


def test_blocks_hold_every_head_of_every_token_once_and_give_them_back():
    lengths = [3, 9, 0, 8, 2, 10]
    blocks, row = Blocks(lengths, num_heads=2), torch.randn(32, 3 * 2 * 4)
    query, key, value = heads = blocks.split(row, 3)
    assert torch.equal(blocks.join(heads), row)
    sentences = row.unflatten(1, (3, 2, 4)).split(lengths)
    # alike in length: the first block, two heads each, 16 wide
    for place, number in enumerate([5, 1, 3]):
        for head in range(2):
            for part, found in enumerate((query, key, value)):
                [first, *_] = blocks.each(found)
                assert torch.equal(first[2 * place + head, :lengths[number]],
                                   sentences[number][:, part, head])
    assert [tuple(block.shape) for block in blocks.each(query)] == [(6, 16, 4), (2, 8, 4),
                                                                    (2, 8, 4)]


def test_blocks_are_zero_or_shut_out_where_no_token_is():
    blocks, row = Blocks([3, 9, 0, 8], num_heads=2), torch.randn(20, 2 * 4)
    whole, shut = blocks.each(blocks.split_padded(row)), blocks.biases(torch.float64)
    for block, bias, lengths in zip(whole, shut, ([9, 8], [3]), strict=True):
        real = torch.arange(block.shape[1]) < torch.tensor(lengths).repeat_interleave(2)[:, None]
        assert torch.equal(block.any(2), real)
        assert torch.equal(bias[:, 0] == 0, real)
        assert (bias[:, 0][~real] == torch.finfo(torch.float64).min).all()
    assert torch.equal(blocks.join(blocks.split_padded(row)[None]), row)
    assert not Blocks([8, 8], num_heads=2).biases(torch.float32)[0].any()


def test_a_block_never_holds_more_attention_weights_than_memory_is_meant_for():
    assert [len(block) for block in group_by_length([512] * 5)] == [1] * 5
    assert 512**2 <= BLOCK_WEIGHTS < 2 * 512**2


def test_attention_in_blocks_is_attention_over_the_whole_padded_batch():
    layer, row = layer_of(), torch.randn(20, HIDDEN, dtype=torch.float64)
    packing, whole = Packing.from_lengths([2, 9, 1, 8]), Packing.from_lengths([2, 9, 1, 8])
    whole.__dict__["_blocks"] = one = Blocks([2, 9, 1, 8], 3, [range(4)], 1)
    assert whole.blocks(3) is one
    # float64 rounding
    torch.testing.assert_close(run_fast(layer, row, packing), run_fast(layer, row, whole),
                               atol=1e-12, rtol=0)


def test_the_first_token_alone_is_the_first_of_all(tiny_model: BertModel):
    """Also where a sentence is empty or begins late: there the whole layer is computed, and zeros
    stand for it."""
    ids, types = torch.randint(50, (9,)), torch.randint(2, (9,))
    late = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    for packing in (Packing.from_lengths([2, 4, 3]), Packing.from_mask(late)):
        first = fast.encode_packed(tiny_model, ids, types, packing, first_only=True)
        whole = fast.encode_packed(tiny_model, ids, types, packing)
        # float32 rounding
        torch.testing.assert_close(first, packing.first_tokens(whole), atol=2e-6, rtol=0)


def test_sentences_that_begin_late_or_are_empty_are_what_the_plain_form_makes_of_them(tiny_model, monkeypatch):
    packing = Packing.from_mask(torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0],
                                              [0, 1, 1, 0]]))
    ids, types, found = torch.randint(50, (8,)), torch.randint(2, (8,)), []
    for plain in ("0", "1"):
        monkeypatch.setenv("MINBERT_PLAIN", plain)
        found.append(fast.encode_packed(tiny_model, ids, types, packing))
    # float32 rounding
    torch.testing.assert_close(*found, atol=2e-6, rtol=0)
