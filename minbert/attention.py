"""Scaled dot-product attention and multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .linear import Linear
from .packing import Packing


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, Eq. 1), written out.

    query, key, value: (batch, heads, seq, head_dim). mask: (batch, seq) bool, True where a key may be looked at.
    dropout: share of the attention weights set to zero. Returns (batch, heads, seq, head_dim).
    """
    return F.dropout(attention_weights(query, key, mask), dropout) @ value


def attention_weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(Q Kᵀ / √d): how much each token (row) looks at each other (column); (batch, heads, seq, seq)."""
    head_dim = query.shape[-1]
    scores = query @ key.transpose(-1, -2) / math.sqrt(head_dim)
    if mask is not None:
        # the least finite number, not -inf: a row of padding alone then gives finite values instead of NaN
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


def fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                    mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """The same function through torch's fused kernel, which never stores the (seq, seq) weights.

    tests/test_02_attention.py shows that values and gradients equal `attention`.
    """
    if mask is not None:
        mask = mask[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class BertSelfAttention(nn.Module):
    """Every token looks at every token of its own sentence, in several heads at once.

    One product makes queries, keys and values together: rows 0…hidden of `query_key_value.weight` make the
    queries, the next hidden rows the keys, the last the values; head h owns columns h·head_dim…(h+1)·head_dim.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.query_key_value = Linear(hidden_size, 3 * hidden_size)
        self.attend = None  # the fastest for where we are; or one of the two functions above: the same numbers

    def forward(self, hidden_states: torch.Tensor, packing: Packing) -> torch.Tensor:
        """(tokens, hidden) → (tokens, hidden): the heads' outputs side by side."""
        query, key, value = self._heads(self.query_key_value(hidden_states), packing)  # (batch, heads, seq, head_dim)
        context = (self.attend or fused_attention)(query, key, value, packing.mask,
                                                   self.dropout if self.training else 0.0)
        return packing.unpad(context.transpose(1, 2).flatten(2))  # the heads side by side again

    def weights(self, hidden_states: torch.Tensor, packing: Packing) -> torch.Tensor:
        """What `forward` averages the values by, without dropout: (tokens, hidden) → (batch, heads, seq, seq)."""
        query, key, _ = self._heads(self.query_key_value(hidden_states), packing)
        return attention_weights(query, key, packing.mask)

    def _heads(self, mixed: torch.Tensor, packing: Packing) -> torch.Tensor:
        heads = packing.pad(mixed).unflatten(-1, (3, self.num_heads, self.head_dim))
        return heads.permute(2, 0, 3, 1, 4)  # from (batch, seq, 3, heads, head_dim) to (3, batch, heads, seq, head_dim)
