"""BertLayer with its derivative written out by hand: what runs on a CPU, in training and out of it.

The same equations as BertLayer.forward, which is the form to read first; tests/speed/test_fast_paths.py shows equal values
and gradients. By hand, because autograd would cast, copy and add where one pass does: products run in the precision
of the moment on weights cast once, sums and LayerNorm in the weights' own, dropout needs two bytes a number, attention
sees blocks of sentences alike in length, and gradients go straight to where they are kept. And the last layer
need not say what nobody asks: the pooler reads [CLS] alone, so only [CLS] looks at the sentence there (`first_only`).
Where somebody has changed a part of the layer, the plain form runs (`applies`).

Names: x → attention → context → attended → hidden → expanded, activated → output. d_x is the derivative of the loss
with respect to x.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from minbert.attention import BertSelfAttention

from .blocks import Blocks
from .dropout import Dropout, drop_, keep_mask, rescale
from .linear import ALL_ROWS, Linear, add_product
from .packing import Packing

if TYPE_CHECKING:
    from minbert.layer import BertLayer


# Of a module: what is obeyed only where it is called, and here none of the layer's parts is.
CALLED = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def applies(layer: BertLayer, x: torch.Tensor) -> bool:
    """On a CPU, where weights and input are float32 or float64 alike and the layer is as it was built: no part of it
    replaced, pruned or parametrized, none with hooks or a `forward` of its own."""
    return (layer.by_hand and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
            and _is_as_built(layer) and layer.activation_derivative is not None
            and layer.self_attention.attend is None and max(layer.self_attention.dropout, layer.dropout.p) < 1
            and all(parameter is not None and parameter.dtype == x.dtype for parameter in _parameters_of(layer)))


def _is_as_built(layer: BertLayer) -> bool:
    # by __dict__, since a module looks up its parts slowly, and this is asked at each call
    parts = layer._modules
    attention = parts["self_attention"]
    return (is_plain(attention, BertSelfAttention) and is_plain(attention._modules["query_key_value"], Linear)
            and is_plain(parts["dropout"], Dropout)
            and all(is_plain(parts[name], kind) for name, kind in MODULES.items()))


def is_plain(part: nn.Module, kind: type, *methods: str) -> bool:
    """Whether it is of this very class, without hooks, and neither `forward` nor one of these methods was set on it."""
    own = part.__dict__
    return (type(part) is kind and not any(map(own.__getitem__, CALLED))
            and not any(method in own for method in ("forward", *methods)))


# the product that makes queries, keys and values
MIX = "self_attention.query_key_value"
# the other parts that have parameters, in the order of the forward
MODULES = {"attention_dense": Linear, "attention_layer_norm": nn.LayerNorm, "intermediate_dense": Linear,
         "output_dense": Linear, "output_layer_norm": nn.LayerNorm}
PARAMETERS = [f"{part}.{name}" for part in (MIX, *MODULES) for name in ("weight", "bias")]


def _parameters_of(layer: BertLayer) -> list[nn.Parameter]:
    """Those of PARAMETERS, in their order."""
    parts = (layer.self_attention.query_key_value, *(layer._modules[name] for name in MODULES))
    return [part._parameters[name] for part in parts for name in ("weight", "bias")]


@contextmanager
def gradients_in_place(module: nn.Module, places: Sequence[Mapping[nn.Parameter, torch.Tensor]]) -> Iterator[None]:
    """Inside, where the form by hand runs, backward adds the gradients of the layers' parameters to these tensors
    instead of giving them to autograd.

    places: parameter → tensor of its shape; one mapping, or one for each of `Packing.parts`, whose tokens' gradient
    goes there. A parameter that is frozen or has a hook is left to autograd, which looks at such things, but would
    sum over all parts: with several, nobody may have a hook.
    """
    layers = [part for part in module.modules() if hasattr(part, "gradient_places")]
    try:
        for layer in layers:
            named = {name: parameter for name, parameter in layer.named_parameters(remove_duplicate=False)
                     if name in PARAMETERS and parameter in places[0] and parameter.requires_grad
                     and not has_hook(parameter)}
            layer.gradient_places = [{name: place[parameter] for name, parameter in named.items()} for place in places]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("gradient_places", None)


def has_hook(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def forward(layer: BertLayer, x: torch.Tensor, packing: Packing, first_only: bool = False) -> torch.Tensor:
    """BertLayer.forward: (tokens, hidden) → (tokens, hidden); with first_only, of each sentence's first token alone:
    (batch, hidden), no sentence being empty."""
    is_cast = torch.is_autocast_enabled("cpu") and x.dtype == torch.float32  # float64 is none of autocast's business
    dtype = torch.get_autocast_dtype("cpu") if is_cast else x.dtype
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            return _Layer.apply(layer, packing, dtype, first_only, x, *_parameters_of(layer))
        return _forward(layer, x, packing, dtype, first_only)[0]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer: BertLayer, packing: Packing, dtype: torch.dtype, first_only: bool, x: torch.Tensor,
                *parameters):
        output, kept = _forward(layer, x, packing, dtype, first_only)
        leaves, ctx.structure = pytree.tree_flatten(kept)
        # tensors that autograd keeps are freed by backward, however long the graph is held
        ctx.save_for_backward(*(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)))
        ctx.others = [None if isinstance(leaf, torch.Tensor) else (leaf,) for leaf in leaves]
        ctx.layer = layer
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output: torch.Tensor):
        saved = iter(ctx.saved_tensors)
        leaves = [next(saved) if other is None else other[0] for other in ctx.others]
        with torch.autocast("cpu", enabled=False):
            gradients = _backward(ctx.layer, pytree.tree_unflatten(leaves, ctx.structure), d_output)
        return None, None, None, None, *gradients


class _Normed(NamedTuple):
    """What LayerNorm's derivative needs: its input (tokens, hidden), of every token the mean and 1/deviation, and its
    own weight and bias."""

    summed: torch.Tensor
    mean: torch.Tensor
    inverse_deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


class _Mix(NamedTuple):
    """A product of query_key_value on x, (tokens, hidden), with some rows of its weight, and the blocks of its heads.

    kinds: how many it makes of queries, keys and values. counts: of x, the tokens of each of the packing's parts.
    """

    x: torch.Tensor
    rows: slice
    kinds: int
    blocks: Blocks
    counts: Sequence[int]


class _Heads(NamedTuple):
    """Attention in one block of sentences: each (sentences · heads, width, …), the mask None without dropout."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor | None


class _Kept(NamedTuple):
    """What backward needs of a forward; masks are None without dropout.

    starts: the tokens that ask, (batch,), with first_only; None for all. mixes: one, of all tokens; with first_only
    two, that of the tokens that ask and that of all. heads: one for each block. attention_rescale, rescale: dropout's.
    weights: the linear layers', by name, so that autograd refuses a backward through weights that have changed since.
    """

    starts: torch.Tensor | None
    mixes: list[_Mix]
    heads: list[_Heads]
    attention_rescale: float
    context: torch.Tensor
    attended_mask: torch.Tensor | None
    hidden_norm: _Normed
    hidden: torch.Tensor
    expanded: torch.Tensor
    activated: torch.Tensor
    output_mask: torch.Tensor | None
    output_norm: _Normed
    rescale: float
    weights: dict[str, torch.Tensor]


def _forward(layer: BertLayer, x: torch.Tensor, packing: Packing, dtype: torch.dtype,
             first_only: bool) -> tuple[torch.Tensor, _Kept]:
    share = layer.dropout.p if layer.dropout.training else 0.0
    attention = layer.self_attention
    attention_share = attention.dropout if attention.training else 0.0
    starts = packing.starts if first_only else None
    residual = x if starts is None else x.index_select(0, starts)
    mixes = _mixes(x.to(dtype), starts, packing, packing.blocks(attention.num_heads))
    weights = {MIX: attention.query_key_value.weight.detach(),
               **{name: getattr(layer, name).weight.detach() for name, kind in MODULES.items() if kind is Linear}}
    context, heads = _attend(attention, mixes, attention_share)
    summed, attended_mask = _add_dropped(residual, layer.attention_dense.product(context), share)
    hidden, hidden_norm = _normalise(layer.attention_layer_norm, summed)
    hidden_in = hidden.to(dtype)
    expanded = layer.intermediate_dense.product(hidden_in)
    activated = layer.activation(expanded)
    summed, output_mask = _add_dropped(hidden, layer.output_dense.product(activated), share)
    output, output_norm = _normalise(layer.output_layer_norm, summed)
    return output, _Kept(starts, mixes, heads, rescale(attention_share), context, attended_mask, hidden_norm,
                         hidden_in, expanded, activated, output_mask, output_norm, rescale(share), weights)


def _mixes(x: torch.Tensor, starts: torch.Tensor | None, packing: Packing, blocks: Blocks) -> list[_Mix]:
    """Queries, keys and values in one product; or queries of the tokens that ask, keys and values of all."""
    hidden = x.shape[1]
    if starts is None:
        return [_Mix(x, ALL_ROWS, 3, blocks, packing.part_tokens)]
    return [_Mix(x.index_select(0, starts), slice(0, hidden), 1, blocks.firsts, packing.parts),
            _Mix(x, slice(hidden, 3 * hidden), 2, blocks, packing.part_tokens)]


def _backward(layer: BertLayer, kept: _Kept, d_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """d_x, and of PARAMETERS the gradients that have no place of their own."""
    dtype, gradients, asking = kept.context.dtype, _Gradients(layer), kept.mixes[0].counts

    def through(name: str, d_product: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        gradients.of_linear(name, d_product, x, asking)
        return getattr(layer, name).input_gradient(d_product, kept.weights[name])

    def through_norm(name: str, normed: _Normed, d_normed: torch.Tensor) -> torch.Tensor:
        return gradients.of_norm(name, d_normed.contiguous(), normed, asking)

    def through_dropout(d_summed: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return d_summed.to(dtype) if mask is None else drop_((d_summed * kept.rescale).to(dtype), mask)

    d_summed = through_norm("output_layer_norm", kept.output_norm, d_output)
    d_activated = through("output_dense", through_dropout(d_summed, kept.output_mask), kept.activated)
    d_expanded = layer.activation_derivative(d_activated, kept.expanded)
    d_hidden = d_summed.add_(through("intermediate_dense", d_expanded, kept.hidden).to(d_summed.dtype))
    d_summed = through_norm("attention_layer_norm", kept.hidden_norm, d_hidden)
    d_context = through("attention_dense", through_dropout(d_summed, kept.attended_mask), kept.context)
    d_rows = []
    for mix, d_mixed in zip(kept.mixes, _attend_backward(kept, d_context), strict=True):
        gradients.of_linear(MIX, d_mixed, mix.x, mix.counts, mix.rows)
        d_row = layer.self_attention.query_key_value.input_gradient(d_mixed, kept.weights[MIX], mix.rows)
        d_rows.append(d_row.to(d_summed.dtype))
    if kept.starts is None:
        return d_summed.add_(d_rows[0]), *gradients.left()
    d_asking, d_x = d_rows
    return d_x.index_add_(0, kept.starts, d_summed.add_(d_asking)), *gradients.left()


class _Gradients:
    """Of a layer's parameters, as they come up: added to the places of `gradients_in_place`, part by part, or kept for
    autograd."""

    def __init__(self, layer: BertLayer) -> None:
        self._parameters = dict(zip(PARAMETERS, _parameters_of(layer), strict=True))
        self._places = layer.gradient_places
        self._left: dict[str, torch.Tensor] = {}

    def left(self) -> list[torch.Tensor | None]:
        """What autograd is to have, in the order of PARAMETERS."""
        return [self._left.get(name) for name in PARAMETERS]

    def of_linear(self, name: str, grad: torch.Tensor, x: torch.Tensor, counts: Sequence[int],
                  rows: slice = ALL_ROWS) -> None:
        """dL/dW = gᵀ x and dL/db = Σ g, of each part's tokens; of some rows of W and b only."""
        for part, (g, x_part) in enumerate(self._split(counts, grad, x)):
            add_product(self._place(f"{name}.weight", part)[rows], g, x_part)
            self._place(f"{name}.bias", part)[rows].add_(g.sum(0))

    def of_norm(self, name: str, d_normed: torch.Tensor, normed: _Normed, counts: Sequence[int]) -> torch.Tensor:
        """LayerNorm's derivative: returns that of its input, (tokens, hidden)."""
        d_summed = []
        rows = self._split(counts, d_normed, normed.summed, normed.mean, normed.inverse_deviation)
        for part, (d_part, summed, mean, inverse_deviation) in enumerate(rows):
            d_x, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
                d_part, summed, normed.weight.shape, mean, inverse_deviation, normed.weight, normed.bias, [True] * 3)
            self._place(f"{name}.weight", part).add_(d_weight)
            self._place(f"{name}.bias", part).add_(d_bias)
            d_summed.append(d_x)
        return torch.cat(d_summed) if len(d_summed) > 1 else d_summed[0]

    def _split(self, counts: Sequence[int], *rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Rows of all tokens → those of each part; of all together where there is one place for all."""
        if len(self._places) == 1:
            return iter([rows])
        assert len(self._places) == len(counts), "a place for each part"
        return zip(*(row.split(counts) for row in rows), strict=True)

    def _place(self, name: str, part: int) -> torch.Tensor:
        """What a gradient is added to."""
        if name in self._places[part]:
            return self._places[part][name]
        if name not in self._left:
            self._left[name] = torch.zeros_like(self._parameters[name])
        return self._left[name]


def _add_dropped(residual: torch.Tensor, x: torch.Tensor,
                 share: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """residual + dropout(x), and dropout's mask; x is used up."""
    if not share:
        return residual + x.to(residual.dtype), None
    mask = keep_mask(x.shape, share)
    return torch.add(residual, drop_(x, mask).to(residual.dtype), alpha=rescale(share)), mask


def _normalise(norm: torch.nn.LayerNorm, summed: torch.Tensor) -> tuple[torch.Tensor, _Normed]:
    normed, mean, inverse_deviation = torch.native_layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias,
                                                              norm.eps)
    return normed, _Normed(summed, mean, inverse_deviation, norm.weight.detach(), norm.bias.detach())


def _attend(attention: BertSelfAttention, mixes: list[_Mix], share: float) -> tuple[torch.Tensor, list[_Heads]]:
    """softmax(Q Kᵀ / √d) V for every head, the softmax in float32 at least: (asking, hidden), and what is kept."""
    asking, asked, linear = mixes[0].blocks, mixes[-1].blocks, attention.query_key_value
    query, key, value = (part for mix in mixes for part in mix.blocks.split(linear.product(mix.x, mix.rows), mix.kinds))
    wide = torch.promote_types(query.dtype, torch.float32)
    context, kept = torch.empty_like(query), []
    for q, k, v, bias, out in zip(asking.each(query), asked.each(key), asked.each(value), asked.biases(wide),
                                  asking.each(context), strict=True):
        scores = torch.add(bias, torch.bmm(q, k.transpose(1, 2)).to(wide), alpha=1 / math.sqrt(attention.head_dim))
        weights = scores.softmax(-1).to(q.dtype)
        mask = keep_mask(weights.shape, share) if share else None
        _scaled_product(_dropped(weights, mask), v, rescale(share), out)
        kept.append(_Heads(q, k, v, weights, mask))
    return asking.join(context[None]), kept


def _attend_backward(kept: _Kept, d_context: torch.Tensor) -> list[torch.Tensor]:
    """(asking, hidden) → the derivative of each mix's product."""
    asking, asked, scale = kept.mixes[0].blocks, kept.mixes[-1].blocks, kept.attention_rescale
    # zeros at the padding: queries there hold some token's numbers, which must not reach keys and values
    d_context = asking.split_padded(d_context)
    d_mixes = [mix.blocks.empty(d_context, mix.kinds) for mix in kept.mixes]
    d_query, d_key, d_value = (part for d_mixed in d_mixes for part in d_mixed)
    for (query, key, value, weights, mask), d_out, d_q, d_k, d_v in zip(
            kept.heads, asking.each(d_context), asking.each(d_query), asked.each(d_key), asked.each(d_value),
            strict=True):
        d_weights = drop_(_scaled_product(d_out, value.transpose(1, 2), scale), mask)
        wide = torch.promote_types(weights.dtype, torch.float32)
        d_scores = torch._softmax_backward_data(d_weights.to(wide), weights.to(wide), -1, wide).to(weights.dtype)
        alpha = 1 / math.sqrt(query.shape[-1])
        _scaled_product(d_scores, key, alpha, d_q)
        _scaled_product(d_scores.transpose(1, 2), query, alpha, d_k)
        _scaled_product(_dropped(weights, mask).transpose(1, 2), d_out, scale, d_v)
    return [mix.blocks.join(d_mixed) for mix, d_mixed in zip(kept.mixes, d_mixes, strict=True)]


def _scaled_product(a: torch.Tensor, b: torch.Tensor, scale: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """scale · a b, over a batch of matrices."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


def _dropped(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else drop_(weights.clone(), mask)
