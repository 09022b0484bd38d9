"""softmax(Q Kᵀ / √d) V over blocks of similar length, and its derivative written out by hand.

`attend` and `attend_backward` serve the layer by hand (layer.py). With `first_only` the queries are
those of each sequence's first token alone, and keys and values those of all tokens.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from .blocks import Blocks
from .dropout import drop_, dropped, keep_mask, rescale
from .linear import ALL_ROWS, product
from .packing import Packing


class Mix(NamedTuple):
    """One product of query_key_value.

    Attributes:
        x: (tokens, hidden), what is multiplied.
        rows: the rows of the weight that are used.
        kinds: how many of queries, keys and values it makes.
        blocks: where the heads of the product stand.
        first_only: whether x holds the first token of each sequence alone.
    """

    x: torch.Tensor
    rows: slice
    kinds: int
    blocks: Blocks
    first_only: bool


class Heads(NamedTuple):
    """Attention in one block, each (sequences · heads, width, …). mask: None without dropout."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor | None


def mixes_of(x: torch.Tensor, packing: Packing, num_heads: int, first_only: bool) -> list[Mix]:
    """Queries, keys and values in one product; with first_only, the queries separately."""
    blocks, hidden = packing.blocks(num_heads), x.shape[1]
    if not first_only:
        return [Mix(x, ALL_ROWS, 3, blocks, False)]
    first = x.index_select(0, packing.starts)
    return [Mix(first, slice(0, hidden), 1, blocks.firsts, True),
            Mix(x, slice(hidden, 3 * hidden), 2, blocks, False)]


def attend(attention: nn.Module, mixes: list[Mix],
           share: float) -> tuple[torch.Tensor, list[Heads]]:
    """Attention of every head, the softmax in float32 at least.

    Args:
        attention: a BertSelfAttention, for its weights.
        share: of attention dropout.

    Returns:
        The context, (queries, hidden), and for each block what the derivative needs.
    """
    query_blocks, key_blocks = mixes[0].blocks, mixes[-1].blocks
    parts = []
    for mix in mixes:
        parts += mix.blocks.split(product(attention.query_key_value, mix.x, mix.rows), mix.kinds)
    query, key, value = parts

    wide = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(attention.head_dim)
    context = torch.empty_like(query)
    blocks = zip(query_blocks.each(query), key_blocks.each(key), key_blocks.each(value),
                 key_blocks.biases(wide), query_blocks.each(context), strict=True)
    kept = []
    for q, k, v, bias, out in blocks:
        scores = torch.add(bias, torch.bmm(q, k.transpose(1, 2)).to(wide), alpha=scale)
        weights = scores.softmax(-1).to(q.dtype)
        mask = keep_mask(weights.shape, share)
        _scaled_product(dropped(weights, mask), v, rescale(share), out)
        kept.append(Heads(q, k, v, weights, mask))
    return query_blocks.join(context[None]), kept


def attend_backward(mixes: list[Mix], heads: list[Heads], share: float,
                    d_context: torch.Tensor) -> list[torch.Tensor]:
    """(queries, hidden) → the derivative of each mix's product."""
    query_blocks, key_blocks = mixes[0].blocks, mixes[-1].blocks
    # Zeros at the padding: queries there hold some token's numbers, which must not reach keys.
    d_context = query_blocks.split_padded(d_context)
    d_mixes = [mix.blocks.empty(d_context, mix.kinds) for mix in mixes]
    d_query, d_key, d_value = (part for d_mixed in d_mixes for part in d_mixed)

    places = zip(query_blocks.each(d_context), query_blocks.each(d_query), key_blocks.each(d_key),
                 key_blocks.each(d_value), strict=True)
    for kept, (d_out, d_q, d_k, d_v) in zip(heads, places, strict=True):
        query, key, value, weights, mask = kept
        # context = D weights V, D the dropout
        d_weights = drop_(_scaled_product(d_out, value.transpose(1, 2), rescale(share)), mask)
        _scaled_product(dropped(weights, mask).transpose(1, 2), d_out, rescale(share), d_v)

        # weights = softmax(scores)
        wide = torch.promote_types(weights.dtype, torch.float32)
        d_scores = torch._softmax_backward_data(d_weights.to(wide), weights.to(wide), -1, wide)
        d_scores = d_scores.to(weights.dtype)

        # scores = Q Kᵀ / √d
        scale = 1 / math.sqrt(query.shape[-1])
        _scaled_product(d_scores, key, scale, d_q)
        _scaled_product(d_scores.transpose(1, 2), query, scale, d_k)
    return [mix.blocks.join(d_mixed) for mix, d_mixed in zip(mixes, d_mixes, strict=True)]


def _scaled_product(a: torch.Tensor, b: torch.Tensor, scale: float,
                    out: torch.Tensor | None = None) -> torch.Tensor:
    """scale · a b, over a batch of matrices."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale, out=out)
