"""BertLayer with a hand-written derivative: what runs on a CPU, training and evaluation.

The equations are those of minbert/layer.py, the form to read first. At first use in a process both
are compared (check.py). By hand, because autograd casts, copies and adds where one pass is enough:
products run in the precision of the moment, on weights cast once; sums and LayerNorm in that of the
weights; dropout takes two bytes per number; attention sees blocks of similar length; gradients go
straight to where they are kept. Besides, the pooler reads [CLS] alone, so the last layer may
compute that token only (`first_only`).

Names: x → attention → context → attended → hidden → expanded, activated → output. d_x is the
derivative of the loss with respect to x.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .attention import Heads, Mix, attend, attend_backward, mixes_of
from .dropout import drop_, keep_mask, rescale
from .gradients import Buffers, current_buffers, has_hook
from .linear import ALL_ROWS, add_weight_gradient, input_gradient, product
from .packing import Packing

QUERY_KEY_VALUE = "self_attention.query_key_value"
# The other parts that have parameters, in the order of the forward.
MODULES = {"attention_dense": nn.Linear, "attention_layer_norm": nn.LayerNorm,
           "intermediate_dense": nn.Linear, "output_dense": nn.Linear,
           "output_layer_norm": nn.LayerNorm}
PARAMETERS = [f"{part}.{name}" for part in (QUERY_KEY_VALUE, *MODULES)
              for name in ("weight", "bias")]


def applies(layer: nn.Module, like: torch.Tensor) -> bool:
    """Whether this form computes what the layer's own parts do, as they are now.

    It does on a CPU, in float32 or float64, while no part is replaced, pruned or parametrized.
    """
    parts = layer._modules
    is_as_built = (type(layer.self_attention._modules["query_key_value"]) is nn.Linear
                   and type(parts["dropout"]) is nn.Dropout
                   and all(type(parts[name]) is kind for name, kind in MODULES.items()))

    return (is_as_built
            and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
            and hasattr(layer.activation, "derivative")
            and max(layer.self_attention.dropout, layer.dropout.p) < 1
            and all(parameter is not None and parameter.dtype == like.dtype
                    for parameter in _parameters_of(layer)))


def _parameters_of(layer: nn.Module) -> list[nn.Parameter | None]:
    """Those of PARAMETERS, in their order; None for one that is pruned or was never there."""
    parts = (layer.self_attention.query_key_value, *(layer._modules[name] for name in MODULES))
    return [part._parameters.get(name) for part in parts for name in ("weight", "bias")]


def forward(layer: nn.Module, x: torch.Tensor, packing: Packing,
            first_only: bool = False) -> torch.Tensor:
    """BertLayer.forward on a packed row.

    Args:
        layer: a BertLayer, for which `applies` holds.
        x: (tokens, hidden).
        first_only: compute each sequence's first token alone; no sequence may be empty.

    Returns:
        (tokens, hidden), or (batch, hidden) with first_only.
    """
    # autocast never casts float64
    is_cast = torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
    dtype = torch.get_autocast_dtype("cpu") if is_cast else x.dtype

    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            parameters = _parameters_of(layer)
            return _Layer.apply(layer, packing, dtype, first_only, x, *parameters)
        return _forward(layer, x, packing, dtype, first_only)[0]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer: nn.Module, packing: Packing, dtype: torch.dtype, first_only: bool,
                x: torch.Tensor, *parameters):
        output, kept = _forward(layer, x, packing, dtype, first_only)

        # Backward frees tensors that autograd keeps, however long the graph is held.
        leaves, ctx.structure = pytree.tree_flatten(kept)
        ctx.save_for_backward(*(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)))
        ctx.others = [None if isinstance(leaf, torch.Tensor) else (leaf,) for leaf in leaves]
        ctx.layer, ctx.packing, ctx.given = layer, packing, current_buffers.get()
        return output

    @staticmethod
    def backward(ctx, d_output: torch.Tensor):
        functorch = torch._C._functorch
        if (torch.is_grad_enabled() or functorch.is_batchedtensor(d_output)
                or functorch.is_legacy_batchedtensor(d_output)):  # of is_grads_batched=True
            raise RuntimeError("the fast layers have no second derivative (create_graph=True) and "
                               "take one gradient at a time (no vmap, no is_grads_batched); run "
                               "the forward pass with MINBERT_PLAIN=1 in the environment")
        saved = iter(ctx.saved_tensors)
        leaves = [next(saved) if other is None else other[0] for other in ctx.others]
        kept = pytree.tree_unflatten(leaves, ctx.structure)

        with torch.autocast("cpu", enabled=False):
            gradients = _Gradients(ctx.layer, *ctx.given, ctx.packing)
            d_x = _backward(ctx.layer, kept, gradients, ctx.packing, d_output)
        return None, None, None, None, d_x, *gradients.for_autograd()


class _Normed(NamedTuple):
    """LayerNorm's derivative needs these: input, mean, 1/deviation per token, weight, bias."""

    summed: torch.Tensor
    mean: torch.Tensor
    inverse_deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


class _Kept(NamedTuple):
    """What backward needs of a forward; masks are None without dropout.

    mixes: one for all tokens; with first_only two, of the first tokens and of all.
    weights: the linear layers' by name, so that autograd refuses a backward through changed
        weights.
    """

    mixes: list[Mix]
    heads: list[Heads]
    attention_share: float
    context: torch.Tensor
    attended_mask: torch.Tensor | None
    hidden_norm: _Normed
    hidden: torch.Tensor
    expanded: torch.Tensor
    activated: torch.Tensor
    output_mask: torch.Tensor | None
    output_norm: _Normed
    share: float
    weights: dict[str, torch.Tensor]


def _forward(layer: nn.Module, x: torch.Tensor, packing: Packing, dtype: torch.dtype,
             first_only: bool) -> tuple[torch.Tensor, _Kept]:
    attention = layer.self_attention
    share = layer.dropout.p if layer.dropout.training else 0.0
    attention_share = attention.dropout if attention.training else 0.0
    weights = {name: layer.get_submodule(name).weight.detach()
               for name in (QUERY_KEY_VALUE, "attention_dense", "intermediate_dense",
                            "output_dense")}

    # LayerNorm(x + dropout(W_o · attention(x)))
    mixes = mixes_of(x.to(dtype), packing, attention.num_heads, first_only)
    context, heads = attend(attention, mixes, attention_share)
    residual = x.index_select(0, packing.starts) if first_only else x
    summed, attended_mask = _add_dropped(residual, product(layer.attention_dense, context), share)
    hidden, hidden_norm = _normalise(layer.attention_layer_norm, summed)

    # LayerNorm(h + dropout(W_2 · act(W_1 · h)))
    hidden_in = hidden.to(dtype)
    expanded = product(layer.intermediate_dense, hidden_in)
    activated = layer.activation(expanded)
    summed, output_mask = _add_dropped(hidden, product(layer.output_dense, activated), share)
    output, output_norm = _normalise(layer.output_layer_norm, summed)

    return output, _Kept(mixes, heads, attention_share, context, attended_mask, hidden_norm,
                         hidden_in, expanded, activated, output_mask, output_norm, share, weights)


def _backward(layer: nn.Module, kept: _Kept, gradients: "_Gradients", packing: Packing,
              d_output: torch.Tensor) -> torch.Tensor:
    """d_x; the parameters' derivatives go to `gradients`."""
    dtype, first_only = kept.context.dtype, kept.mixes[0].first_only

    def through(name: str, d_product: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        gradients.of_linear(name, d_product, x, first_only)
        return input_gradient(layer._modules[name], d_product, kept.weights[name])

    def through_dropout(d_summed: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is None:
            return d_summed.to(dtype)
        return drop_((d_summed * rescale(kept.share)).to(dtype), mask)

    # LayerNorm(h + dropout(W_2 · act(W_1 · h)))
    d_summed = gradients.of_norm("output_layer_norm", d_output, kept.output_norm, first_only)
    d_activated = through("output_dense", through_dropout(d_summed, kept.output_mask),
                          kept.activated)
    d_expanded = layer.activation.derivative(d_activated, kept.expanded)
    d_hidden = through("intermediate_dense", d_expanded, kept.hidden)
    d_hidden = d_summed.add_(d_hidden.to(d_summed.dtype))

    # LayerNorm(x + dropout(W_o · attention(x)))
    d_summed = gradients.of_norm("attention_layer_norm", d_hidden, kept.hidden_norm, first_only)
    d_context = through("attention_dense", through_dropout(d_summed, kept.attended_mask),
                        kept.context)
    d_rows = []
    d_mixes = attend_backward(kept.mixes, kept.heads, kept.attention_share, d_context)
    for mix, d_mixed in zip(kept.mixes, d_mixes, strict=True):
        gradients.of_linear(QUERY_KEY_VALUE, d_mixed, mix.x, mix.first_only, mix.rows)
        d_row = input_gradient(layer.self_attention.query_key_value, d_mixed,
                               kept.weights[QUERY_KEY_VALUE], mix.rows)
        d_rows.append(d_row.to(d_summed.dtype))

    if not first_only:
        return d_summed.add_(d_rows[0])
    d_first, d_x = d_rows
    return d_x.index_add_(0, packing.starts, d_summed.add_(d_first))


class _Gradients:
    """A layer's parameter gradients: into the buffers part by part, or for autograd."""

    def __init__(self, layer: nn.Module, buffers: Buffers, sequences: Sequence[int] | None,
                 packing: Packing) -> None:
        self._parameters = dict(zip(PARAMETERS, _parameters_of(layer), strict=True))
        self._buffers = []
        for part in buffers:
            self._buffers.append({
                name: part[parameter] for name, parameter in self._parameters.items()
                if parameter in part and parameter.requires_grad and not has_hook(parameter)})

        firsts = [packing.batch] if sequences is None else list(sequences)
        tokens = [int(lengths.sum()) for lengths in packing.lengths.split(firsts)]
        self._rows = {False: tokens, True: firsts}  # first_only → the number of rows in each part
        assert len(self._buffers) == len(firsts), "one mapping of buffers per part"
        self._left: dict[str, torch.Tensor] = {}

    def for_autograd(self) -> list[torch.Tensor | None]:
        """The gradients without a buffer, in the order of PARAMETERS."""
        return [self._left.get(name) for name in PARAMETERS]

    def of_linear(self, name: str, grad: torch.Tensor, x: torch.Tensor, first_only: bool,
                  rows: slice = ALL_ROWS) -> None:
        """dL/dW = gᵀ x and dL/db = Σ g over each part's tokens; for some rows of W and b only."""
        for part, (g, x_part) in enumerate(self._split(first_only, grad, x)):
            add_weight_gradient(self._place(f"{name}.weight", part)[rows], g, x_part)
            self._place(f"{name}.bias", part)[rows].add_(g.sum(0))

    def of_norm(self, name: str, d_normed: torch.Tensor, normed: _Normed,
                first_only: bool) -> torch.Tensor:
        """LayerNorm's derivative: returns that of its input, (tokens, hidden)."""
        d_summed = []
        split = self._split(first_only, d_normed.contiguous(), normed.summed, normed.mean,
                            normed.inverse_deviation)
        for part, (d_part, summed, mean, inverse_deviation) in enumerate(split):
            d_x, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
                d_part, summed, normed.weight.shape, mean, inverse_deviation, normed.weight,
                normed.bias, [True] * 3)
            self._place(f"{name}.weight", part).add_(d_weight)
            self._place(f"{name}.bias", part).add_(d_bias)
            d_summed.append(d_x)
        return torch.cat(d_summed) if len(d_summed) > 1 else d_summed[0]

    def _split(self, first_only: bool, *rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Rows of all tokens → those of each part."""
        return zip(*(row.split(self._rows[first_only]) for row in rows), strict=True)

    def _place(self, name: str, part: int) -> torch.Tensor:
        """What a gradient is added to."""
        if name in self._buffers[part]:
            return self._buffers[part][name]
        if name not in self._left:
            self._left[name] = torch.zeros_like(self._parameters[name])
        return self._left[name]


def _add_dropped(residual: torch.Tensor, x: torch.Tensor,
                 share: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """residual + dropout(x), and dropout's mask; x is used up."""
    mask = keep_mask(x.shape, share)
    return torch.add(residual, drop_(x, mask).to(residual.dtype), alpha=rescale(share)), mask


def _normalise(norm: nn.LayerNorm, summed: torch.Tensor) -> tuple[torch.Tensor, _Normed]:
    normed, mean, inverse_deviation = torch.native_layer_norm(
        summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    kept = _Normed(summed, mean, inverse_deviation, norm.weight.detach(), norm.bias.detach())
    return normed, kept
