"""BertLayer with its derivative written out by hand: what runs on a CPU, in training and out of it.

The same equations as BertLayer.forward, which is the form to read first; tests/test_fast_paths.py shows equal values
and gradients. By hand, because autograd would cast, copy and add where one pass does: products run in the precision
of the moment on weights cast once, sums and LayerNorm in the weights' own, dropout needs two bytes a number, attention
sees groups of sentences alike in length, and weight gradients go straight to where they are kept. And the last layer
need not say what nobody asks: the pooler reads [CLS] alone, so only [CLS] looks at the sentence there (`first_only`).
Where somebody has changed a part of the layer, the plain form runs (`applies`).

Names: x → attention → context → attended → hidden → expanded, activated → output. d_x is the derivative of the loss
with respect to x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from .attention import BertSelfAttention
from .dropout import Dropout, drop_, keep_mask, rescale
from .linear import Linear
from .packing import Packing

if TYPE_CHECKING:
    from .layer import BertLayer


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
    return (_is_plain(attention, BertSelfAttention) and _is_plain(attention._modules["query_key_value"], Linear)
            and _is_plain(parts["dropout"], Dropout)
            and all(_is_plain(parts[name], kind) for name, kind in PARTS.items()))


def _is_plain(part: nn.Module, kind: type) -> bool:
    own = part.__dict__
    return type(part) is kind and "forward" not in own and not any(map(own.__getitem__, CALLED))


# in the order in which `_backward` gives their parameters' gradients; before them comes query_key_value
PARTS = {"attention_dense": Linear, "attention_layer_norm": nn.LayerNorm, "intermediate_dense": Linear,
         "output_dense": Linear, "output_layer_norm": nn.LayerNorm}


def _parameters_of(layer: BertLayer) -> list[nn.Parameter]:
    parts = (layer.self_attention.query_key_value, *(layer._modules[name] for name in PARTS))
    return [part._parameters[name] for part in parts for name in ("weight", "bias")]


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


class _Kept(NamedTuple):
    """What backward needs of a forward; masks are None without dropout.

    starts: the tokens that ask, (batch,), with first_only; None for all. asking: x, at these tokens. weights: the
    linear layers', by name, so that autograd refuses a backward through weights that have changed since.
    """

    x: torch.Tensor
    asking: torch.Tensor
    starts: torch.Tensor | None
    heads: list[_Heads]
    context: torch.Tensor
    attended_mask: torch.Tensor | None
    hidden_norm: _Normed
    hidden: torch.Tensor
    expanded: torch.Tensor
    activated: torch.Tensor
    output_mask: torch.Tensor | None
    output_norm: _Normed
    scale: float
    weights: dict[str, torch.Tensor]


def _forward(layer: BertLayer, x: torch.Tensor, packing: Packing, dtype: torch.dtype,
             first_only: bool) -> tuple[torch.Tensor, _Kept]:
    share = layer.dropout.p if layer.dropout.training else 0.0
    starts = packing.starts if first_only else None
    x_in = x.to(dtype)
    residual, asking = (x, x_in) if starts is None else (x.index_select(0, starts), x_in.index_select(0, starts))
    queries, keys_values = _parts(x.shape[1])
    mix = layer.self_attention.query_key_value
    weights = {"mix": mix.weight.detach(), **{name: getattr(layer, name).weight.detach()
                                              for name, kind in PARTS.items() if kind is Linear}}
    context, heads = _attend(layer, mix.product(asking, queries), mix.product(x_in, keys_values), packing, first_only)
    summed, attended_mask = _add_dropped(residual, layer.attention_dense.product(context), share)
    hidden, hidden_norm = _normalise(layer.attention_layer_norm, summed)
    hidden_in = hidden.to(dtype)
    expanded = layer.intermediate_dense.product(hidden_in)
    activated = layer.activation(expanded)
    summed, output_mask = _add_dropped(hidden, layer.output_dense.product(activated), share)
    output, output_norm = _normalise(layer.output_layer_norm, summed)
    return output, _Kept(x_in, asking, starts, heads, context, attended_mask, hidden_norm, hidden_in, expanded,
                         activated, output_mask, output_norm, rescale(share), weights)


def _parts(hidden_size: int) -> tuple[slice, slice]:
    """The rows of query_key_value.weight that make the queries, and those that make keys and values."""
    return slice(0, hidden_size), slice(hidden_size, 3 * hidden_size)


def _backward(layer: BertLayer, kept: _Kept, d_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """d_x, and the gradients of `_parameters_of` in their order."""
    dtype, parameter_gradients = kept.x.dtype, []

    def through(name: str, d_product: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        linear = getattr(layer, name)
        parameter_gradients[:0] = linear.take_gradients((d_product, x))
        return linear.input_gradient(d_product, kept.weights[name])

    def through_norm(normed: _Normed, d_normed: torch.Tensor) -> torch.Tensor:
        d_summed, *gradients = torch.ops.aten.native_layer_norm_backward(
            d_normed.contiguous(), normed.summed, normed.weight.shape, normed.mean, normed.inverse_deviation,
            normed.weight, normed.bias, [True, True, True])
        parameter_gradients[:0] = gradients
        return d_summed

    def through_dropout(d_summed: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return d_summed.to(dtype) if mask is None else drop_((d_summed * kept.scale).to(dtype), mask)

    d_summed = through_norm(kept.output_norm, d_output)
    d_activated = through("output_dense", through_dropout(d_summed, kept.output_mask), kept.activated)
    d_expanded = layer.activation_derivative(d_activated, kept.expanded)
    d_hidden = d_summed.add_(through("intermediate_dense", d_expanded, kept.hidden).to(d_summed.dtype))
    d_summed = through_norm(kept.hidden_norm, d_hidden)
    d_context = through("attention_dense", through_dropout(d_summed, kept.attended_mask), kept.context)
    d_query, d_key_value = _attend_backward(kept.heads, d_context)
    queries, keys_values = _parts(d_query.shape[1])
    mix, weight = layer.self_attention.query_key_value, kept.weights["mix"]
    parameter_gradients[:0] = mix.take_gradients((d_query, kept.asking), (d_key_value, kept.x))
    d_x = mix.input_gradient(d_key_value, weight, keys_values).to(d_summed.dtype)
    d_asking = d_summed.add_(mix.input_gradient(d_query, weight, queries).to(d_summed.dtype))
    d_x = d_x.add_(d_asking) if kept.starts is None else d_x.index_add_(0, kept.starts, d_asking)
    return d_x, *parameter_gradients


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


class _Heads(NamedTuple):
    """Attention in one group of sentences; the first four are (batch · heads, seq, …)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    asking: Packing
    asked: Packing
    num_heads: int


def _attend(layer: BertLayer, queries: torch.Tensor, keys_values: torch.Tensor, packing: Packing,
            first_only: bool) -> tuple[torch.Tensor, list[_Heads]]:
    """softmax(Q Kᵀ / √d) V for every head: (asking, hidden), (tokens, 2·hidden) → (asking, hidden).

    The softmax is in float32 at least.
    """
    attention = layer.self_attention
    share = attention.dropout if attention.training else 0.0
    scale = rescale(share)
    groups = [(group.firsts if first_only else group, group) for group in packing.groups]
    rows = zip(groups, queries.split([len(asking.slots) for asking, _ in groups]),
               keys_values.split([len(asked.slots) for _, asked in groups]), strict=True)
    contexts, kept = [queries[:0]], []
    for (asking, asked), query_row, key_value_row in rows:
        [query] = _split_heads(asking.fill(query_row), 1, asking, attention.num_heads)
        key, value = _split_heads(asked.fill(key_value_row), 2, asked, attention.num_heads)
        scores = torch.bmm(query, key.transpose(1, 2))
        wide = torch.promote_types(scores.dtype, torch.float32)
        scores = torch.add(asked.key_bias(attention.num_heads, wide), scores.to(wide),
                           alpha=1 / math.sqrt(attention.head_dim))
        weights = scores.softmax(-1).to(query.dtype)
        mask = keep_mask(weights.shape, share) if share else None
        context = _scaled_product(_dropped(weights, mask), value, scale)
        contexts.append(asking.unpad(_merge_heads(context[None], asking)))
        kept.append(_Heads(query, key, value, weights, mask, scale, asking, asked, attention.num_heads))
    return torch.cat(contexts), kept


def _attend_backward(kept: list[_Heads], d_context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(asking, hidden) → (asking, hidden), (tokens, 2·hidden)."""
    d_queries, d_keys_values = [d_context[:0]], [d_context.new_empty(0, 2 * d_context.shape[1])]
    for heads, row in zip(kept, d_context.split([len(heads.asking.slots) for heads in kept]), strict=True):
        query, key, value, weights, mask, scale, asking, asked, num_heads = heads
        [d_out] = _split_heads(asking.pad(row), 1, asking, num_heads)
        d_weights = drop_(_scaled_product(d_out, value.transpose(1, 2), scale), mask)
        wide = torch.promote_types(weights.dtype, torch.float32)
        d_scores = torch._softmax_backward_data(d_weights.to(wide), weights.to(wide), -1, wide).to(weights.dtype)
        alpha = 1 / math.sqrt(query.shape[-1])
        d_query = _scaled_product(d_scores, key, alpha)
        d_key_value = key.new_empty(2, *key.shape)
        _scaled_product(d_scores.transpose(1, 2), query, alpha, out=d_key_value[0])
        _scaled_product(_dropped(weights, mask).transpose(1, 2), d_out, scale, out=d_key_value[1])
        d_queries.append(asking.unpad(_merge_heads(d_query[None], asking)))
        d_keys_values.append(asked.unpad(_merge_heads(d_key_value, asked)))
    return torch.cat(d_queries), torch.cat(d_keys_values)


def _scaled_product(a: torch.Tensor, b: torch.Tensor, scale: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """scale · a b, over a batch of matrices."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


def _dropped(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else drop_(weights.clone(), mask)


def _split_heads(grid: torch.Tensor, parts: int, group: Packing, num_heads: int) -> torch.Tensor:
    """(batch, seq, parts·hidden) → (parts, batch·heads, seq, head_dim)."""
    split = grid.view(group.batch, group.seq, parts, num_heads, -1).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, group.batch * num_heads, group.seq, -1)


def _merge_heads(heads: torch.Tensor, group: Packing) -> torch.Tensor:
    """(parts, batch·heads, seq, head_dim) → (batch, seq, parts·hidden)."""
    merged = heads.view(len(heads), group.batch, -1, group.seq, heads.shape[-1]).permute(1, 3, 0, 2, 4)
    return merged.reshape(group.batch, group.seq, -1)
