"""The fast paths of the CPU against their plain twins: the same numbers, the same shares dropped.

What a student reads is the plain form. Each claim here is why the fast one may stand in for it.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from minbert import BertModel, Packing, fast
from minbert.activations import ACTIVATIONS
from minbert.fast import accumulate_into, packed, sparse_embedding_gradients, weights_cast_once
from minbert.fast import layer as by_hand
from minbert.fast.blocks import BLOCK_WEIGHTS, group_by_length
from minbert.fast.dropout import drop_, keep_mask, rescale
from minbert.layer import BertLayer

HIDDEN, LENGTHS = 12, (3, 9, 8, 2, 10)  # three blocks: of the longest three, of 3 tokens, of 2
# float64 rounding of numbers up to some hundreds
ROUNDING = {"atol": 1e-11, "rtol": 1e-11}


def layer_of(activation: str = "gelu", dropout: float = 0.0,
             dtype: torch.dtype = torch.float64) -> BertLayer:
    layer = BertLayer(HIDDEN, 3, 20, activation, 1e-12, dropout, dropout).to(dtype)
    for parameter in layer.parameters():
        # not the usual start, where biases and LayerNorm have no effect
        nn.init.normal_(parameter, std=0.5)
    return layer


def row_of(lengths=LENGTHS, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Packing]:
    """A packed row of random numbers, and where its sentences lie."""
    return torch.randn(sum(lengths), HIDDEN, dtype=dtype), Packing.from_lengths(lengths)


def run_fast(layer: BertLayer, x: torch.Tensor, packing: Packing,
             first_only: bool = False) -> torch.Tensor:
    """As the encoder does: by hand, or part by part on the packed row where a part was changed."""
    return packed.encode_layers(SimpleNamespace(layers=[layer]), x, packing, first_only)


def run_plain(layer: BertLayer, x: torch.Tensor, packing: Packing,
              first_only: bool = False) -> torch.Tensor:
    out = layer(packing.pad(x), packing.mask)
    return out[:, 0] if first_only else packing.unpad(out)


def loss_of(layer: BertLayer, x: torch.Tensor, packing: Packing,
            first_only: bool = False) -> torch.Tensor:
    return run_fast(layer, x, packing, first_only).square().sum()


def uneven_sum(out: torch.Tensor) -> torch.Tensor:
    """A sum in which every number has a weight of its own."""
    return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()


def value_and_gradients(run, layer: BertLayer, x: torch.Tensor, packing: Packing,
                        first_only: bool = False) -> list[torch.Tensor]:
    """The layer's output, and the gradients of x and of all parameters."""
    out = run(layer, x, packing, first_only)
    return [out.detach(), *torch.autograd.grad(uneven_sum(out), [x, *layer.parameters()])]


def named_grads(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


# -------------------------------------------------------------------------------- a layer's numbers


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_gradients(activation, first_only):
    """The layer by hand has the value and every gradient of the plain layer."""
    layer, (x, packing) = layer_of(activation), row_of()
    x.requires_grad_()
    assert by_hand.applies(layer, x)

    ours = value_and_gradients(run_fast, layer, x, packing, first_only)
    plain = value_and_gradients(run_plain, layer, x, packing, first_only)

    assert len(ours) == 2 + 12
    torch.testing.assert_close(ours, plain, **ROUNDING)


@pytest.mark.parametrize("first_only", [False, True])
def test_gradients_with_dropout(first_only):
    """With dropout, the derivative by hand is that of the masks drawn, by finite differences."""
    layer, (x, packing) = layer_of("gelu", 0.3), row_of([3, 1, 2])
    x.requires_grad_()

    def forward(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)  # so that every forward draws the same masks
        return run_fast(layer, x, packing, first_only)

    assert torch.autograd.gradcheck(forward, (x, *layer.parameters()), fast_mode=True)
    torch.manual_seed(8)
    assert not torch.equal(run_fast(layer, x, packing), forward(x))  # there is something to draw


def test_error_in_bf16():
    """In bf16 the layer by hand is as near to float32 as autocast is."""
    layer, (x, packing) = layer_of(dtype=torch.float32), row_of(dtype=torch.float32)
    x.requires_grad_()
    exact = value_and_gradients(run_plain, layer, x, packing)

    def error(run) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            rough = value_and_gradients(run, layer, x, packing)
        assert all(value.dtype == torch.float32 for value in rough)
        return max(float((a - b).norm() / b.norm()) for a, b in zip(rough, exact, strict=True))

    # bf16 keeps 8 bits, and a dozen products follow one another; both forms round, at other places
    assert 1e-4 < error(run_fast) < max(1.5 * error(run_plain), 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_around_backward(dtype):
    """Autocast around backward changes nothing, and float64 stays float64.

    Autocast casts float32 alone, and the forward settles what its backward computes in.
    """
    layer, (x, packing) = layer_of(dtype=dtype), row_of(dtype=dtype)
    x.requires_grad_()
    plain = value_and_gradients(run_fast, layer, x, packing)

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float64):
        out = run_fast(layer, x, packing)
    loss = uneven_sum(out)
    with torch.autocast("cpu", torch.bfloat16):
        cast = [out.detach(), *torch.autograd.grad(loss, [x, *layer.parameters()])]

    assert all(torch.equal(a, b) for a, b in zip(cast, plain, strict=True))


# ----------------------------------------------------------------------- gradients and their places


def test_cast_once_and_in_place():
    """Weights cast once, and gradients written in place, change no bit.

    In bf16 a gradient is rounded once. It is then copied or added to zeros, which is the same.
    """
    layer, (x, packing) = layer_of(dtype=torch.float32), row_of(dtype=torch.float32)
    x.requires_grad_()

    def gradients() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            out = run_fast(layer, x, packing)
        out.square().sum().backward()
        return named_grads(layer)

    plain = gradients()
    layer.zero_grad(set_to_none=False)
    waiting = {parameter: parameter.grad for parameter in layer.parameters()}
    with weights_cast_once(layer, torch.bfloat16), accumulate_into([waiting]):
        once = gradients()
        twice = gradients()  # the second backward adds

    assert all(torch.equal(once[name], plain[name]) for name in plain)
    torch.testing.assert_close(twice, {name: 2 * value for name, value in plain.items()})


# ------------------------------------------------------------------------------ graphs and backward


def test_a_kept_graph():
    """It gives the same gradient again, as other implementations of gradient surgery need."""
    layer = layer_of()
    loss = loss_of(layer, *row_of([3]))
    first, again = (torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
                    for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_backward_frees_its_tensors():
    """What backward needed is freed with it, though the loss is held.

    In the usual loop the last step's loss still stands while the next forward runs. Its activations
    must not.
    """
    loss = run_fast(layer_of(), *row_of([3])).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.grad_fn.next_functions[0][0].saved_tensors  # noqa: B018


@pytest.mark.parametrize("ask", [
    lambda loss, x: torch.autograd.grad(loss, x, create_graph=True),
    lambda loss, x: torch.autograd.grad(loss, x, torch.ones(2), is_grads_batched=True),
    lambda loss, x: torch.vmap(lambda given: torch.autograd.grad(loss, x, given))(torch.ones(2)),
])
def test_one_derivative(ask):
    """A second derivative, or several at once as TorchJD asks, is refused rather than wrong."""
    layer, (x, packing) = layer_of(), row_of([3])
    x.requires_grad_()
    with pytest.raises(RuntimeError, match=r"no second derivative .* MINBERT_PLAIN=1"):
        ask(loss_of(layer, x, packing), x)


def test_weights_changed_since():
    """A backward is refused when weights have changed since the forward.

    With the new weights, its gradient would be that of no function at all.
    """
    layer = layer_of()
    loss = loss_of(layer, *row_of([3]))
    layer.load_state_dict(layer_of().state_dict())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_casts_are_renewed():
    """Weights that change while their cast is kept are cast again."""
    layer, other = layer_of(dtype=torch.float32), layer_of(dtype=torch.float32)
    x, packing = row_of(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), weights_cast_once(layer, torch.bfloat16):
        layer.load_state_dict(other.state_dict())
        assert torch.equal(run_fast(layer, x, packing), run_fast(other, x, packing))


def test_no_bias_to_cast():
    layer, (x, packing) = layer_of(dtype=torch.float32), row_of(dtype=torch.float32)
    layer.output_dense = nn.Linear(20, HIDDEN, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run_fast(layer, x, packing)
        with weights_cast_once(layer, torch.bfloat16):
            assert torch.equal(run_fast(layer, x, packing), expected)


# ------------------------------------------------------------------------- what people do to layers


CHANGES = {
    "pruned": lambda layer: prune.l1_unstructured(layer.output_dense, "weight", 0.5),
    "parametrized": lambda layer: parametrizations.weight_norm(layer.attention_dense),
    "replaced": lambda layer: setattr(layer, "output_dense",
                                      nn.Linear(20, HIDDEN, dtype=torch.float64)),
    "no dropout module": lambda layer: setattr(layer, "dropout", nn.Identity()),
    "no bias": lambda layer: setattr(layer, "output_layer_norm",
                                     nn.LayerNorm(HIDDEN, bias=False, dtype=torch.float64)),
    "all dropped": lambda layer: setattr(layer.dropout, "p", 1.0),
    "an activation of theirs": lambda layer: setattr(layer, "activation", F.silu),
    "dropout switched off": lambda layer: (setattr(layer.dropout, "p", 0.5), layer.dropout.eval()),
    "frozen": lambda layer: layer.intermediate_dense.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_layers(change):
    """A layer that was changed computes what its plain form does."""
    layer = layer_of()
    torch.manual_seed(4)
    CHANGES[change](layer)
    x, packing = row_of()

    results = []
    for run in (run_fast, run_plain):
        layer.zero_grad()
        out = run(layer, x, packing)
        uneven_sum(out).backward()
        results.append([out.detach(), *(parameter.grad for parameter in layer.parameters())])

    torch.testing.assert_close(*results, **ROUNDING)


def test_monte_carlo_dropout():
    """In evaluation, dropout is drawn where its modules train (Gal and Ghahramani 2016)."""
    layer, (x, packing) = layer_of(dropout=0.5).eval(), row_of([3])
    assert torch.equal(run_fast(layer, x, packing), run_fast(layer, x, packing))
    layer.dropout.train()
    assert not torch.equal(run_fast(layer, x, packing), run_fast(layer, x, packing))


def test_lent_weights():
    """Weights lent for one call get the gradient of that call.

    torch.func.functional_call puts them in the place of the layer's own, and takes them away before
    backward.
    """
    class Once(nn.Module):
        def __init__(self, layer: BertLayer, run) -> None:
            super().__init__()
            self.layer, self.run = layer, run

        def forward(self, x: torch.Tensor, packing: Packing) -> torch.Tensor:
            return self.run(self.layer, x, packing)

    layer, given = layer_of(), row_of()
    lent = {f"layer.{name}": (value.detach() + 0.1).requires_grad_()
            for name, value in layer.named_parameters()}

    gradients = []
    for run in (run_fast, run_plain):
        loss = functional_call(Once(layer, run), lent, given).square().sum()
        gradients.append(torch.autograd.grad(loss, list(lent.values())))

    # float64 rounding of numbers up to some hundreds
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-11)


def test_tracing(tiny_model: BertModel):
    """What is traced on full sentences is right for padded ones: the book is traced."""
    ids, mask = torch.randint(50, (2, 5)), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    tiny_model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and the checks of inputs are left out
        traced = torch.jit.trace(lambda *given: tiny_model(*given).pooler_output,
                                 (ids, torch.ones_like(ids)))
    torch.testing.assert_close(traced(ids, mask), tiny_model(ids, mask).pooler_output)


def test_functional_transforms(tiny_model: BertModel):
    """torch.func differentiates the book."""
    ids = torch.randint(50, (2, 5))

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(tiny_model, weights, (ids,)).pooler_output.sum()

    named = dict(tiny_model.named_parameters())
    found = grad(loss)({name: value.detach() for name, value in named.items()})
    loss(named).backward()
    torch.testing.assert_close(found, named_grads(tiny_model))


def test_a_hook_on_all_modules(tiny_model: BertModel):
    """It sees every part of a layer, though the fast form calls none."""
    seen = set()
    with nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module)):
        tiny_model(torch.randint(50, (2, 5)))
    assert set(tiny_model.layers[0].children()) <= seen


# ----------------------------------------------------------------------------- products and dropout


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.9])
def test_share_dropped(share):
    """The share dropped is right, and what stays makes up for it."""
    mask = keep_mask((1000, 1001), share)
    assert mask.unique().tolist() == [-1, 0]
    # a million draws: the share's standard error is below 0.0005
    assert abs(float((mask == 0).double().mean()) - share) < 0.0025
    # the share is rounded to sixteen bits: 1 / (1 − share) is met to 2⁻¹⁷ / (1 − share)
    assert rescale(share) == pytest.approx(1 / (1 - share), rel=2**-17 / (1 - share) + 1e-6)


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
def test_extreme_shares(share):
    """A share of almost nothing or almost all can be drawn."""
    mask = keep_mask((1000, 1000), share)
    # 2⁻¹⁶ of a million draws is 15, with a standard deviation of 4
    assert min((mask == 0).sum(), (mask == -1).sum()) < 50
    assert rescale(share) == pytest.approx(1 / (1 - share), rel=2**-16) or rescale(share) == 2**16
    assert rescale(0.0) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mask_of_bits(dtype):
    """A mask of bits keeps a number whole or sets it to zero."""
    x = torch.tensor([1.5, -0.0, -3e-5, 1e30, 7.0, float("inf")], dtype=dtype)
    mask = torch.tensor([-1, -1, -1, -1, 0, 0], dtype=torch.int16)
    assert torch.equal(drop_(x.clone(), mask), torch.cat([x[:4], x.new_zeros(2)]))
    assert drop_(x, None) is x


def test_draws_are_independent():
    """Four draws come out of one 64-bit number: no two positions within it may go together."""
    kept = -keep_mask((250_000, 4), 0.5).double()
    # 250,000 pairs: the standard error of a correlation is 0.002
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01


# --------------------------------------------------------------------------------------- embeddings


def test_sparse_into_dense():
    """An embedding adds the same gradient, row by row, to one that waits."""
    ids, upstream = torch.tensor([3, 1, 3, 0]), torch.randn(4, 2)
    table = nn.Embedding(5, 2)
    table(ids).backward(upstream)                  # none waits: a dense gradient
    dense = table.weight.grad.clone()

    table.weight.grad = waiting = torch.ones(5, 2)
    with sparse_embedding_gradients(table):
        table(ids).backward(upstream)              # only rows 0, 1 and 3 are added to

    assert table.weight.grad is waiting
    torch.testing.assert_close(waiting - 1, dense, atol=1e-6, rtol=0)  # float32 rounding of 1 + g


def test_usual_loop_is_dense(tiny_model: BertModel):
    """Forward, zero_grad, backward, step: the second forward still meets the first gradient."""
    ids = torch.tensor([[1, 2, 3]])
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = tiny_model(ids).pooler_output.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    loss = tiny_model(ids).pooler_output.sum()
    [gradient] = torch.autograd.grad(loss, [tiny_model.embeddings.word_embeddings.weight])
    assert not gradient.is_sparse


# ----------------------------------------------------------------------------- blocks and sentences


def test_padding_alone(tiny_model: BertModel):
    """A batch of nothing but padding gives finite numbers."""
    ids = mask = torch.zeros(2, 3, dtype=torch.long)
    for mode in (True, False):
        out = tiny_model.train(mode)(ids, mask)
        assert torch.isfinite(out.last_hidden_state).all()


def test_block_size():
    """A block never holds more attention weights than memory is meant for."""
    assert [len(block) for block in group_by_length([512] * 5)] == [1] * 5
    assert 512**2 <= BLOCK_WEIGHTS < 2 * 512**2


def test_first_token_alone(tiny_model: BertModel):
    """The first token alone is the first of all tokens.

    This holds where a sentence is empty or begins late, too: there the whole layer is computed, and
    zeros stand for what is missing.
    """
    ids, types = torch.randint(50, (9,)), torch.randint(2, (9,))
    late = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    for packing in (Packing.from_lengths([2, 4, 3]), Packing.from_mask(late)):
        first = fast.encode_packed(tiny_model, ids, types, packing, first_only=True)
        whole = fast.encode_packed(tiny_model, ids, types, packing)
        # float32 rounding
        torch.testing.assert_close(first, packing.first_tokens(whole), atol=2e-6, rtol=0)
