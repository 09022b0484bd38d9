"""Scaled dot-product attention and multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from minbert.fast.linear import Linear
from minbert.fast.packing import Packing


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

    tests/lessons/test_02_attention.py shows that values and gradients equal `attention`.
    """
    if mask is not None:
        mask = mask[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def ragged_applies(tensor: torch.Tensor, head_dim: int) -> bool:
    """Where torch has kernels that `ragged_attention` can call: on CUDA, for heads of whole 16 bytes and more."""
    return tensor.device.type == "cuda" and head_dim % 8 == 0


def ragged_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int,
                     dropout: float = 0.0) -> torch.Tensor:
    """`attention` within each sentence of a packed row on a CUDA device, where no padding is computed.

    query, key, value: (tokens, heads, head_dim). bounds: (batch + 1,) int32, where in the row the sentences begin and
    end. longest: no sentence has more tokens. Returns (tokens, heads, head_dim). In half precision by the kernel of
    Dao 2023 (FlashAttention-2), in float32 by that of Lefaudeux et al. 2022 (xFormers), both as torch has them; their
    ATen names are called, since torch's public form of the first, `varlen_attn`, has no dropout.
    tests/speed/test_accelerator.py shows that values and gradients equal `attention`.
    """
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    if is_half and torch.cuda.get_device_capability(query.device) >= (8, 0):
        return torch.ops.aten._flash_attention_forward(query, key, value, bounds, bounds, longest, longest, dropout,
                                                       False, False)[0]
    row = torch.ops.aten._efficient_attention_forward(query[None], key[None], value[None], None, bounds, bounds,
                                                      longest, longest, dropout, 0, True)[0]
    return row[0]


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
        mixed = self.query_key_value(hidden_states)
        dropout = self.dropout if self.training else 0.0
        if self.attend is None and ragged_applies(mixed, self.head_dim):
            heads = mixed.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(1)  # each (tokens, heads, head_dim)
            return ragged_attention(*heads, packing.bounds, packing.seq, dropout).flatten(1)
        query, key, value = self._heads(mixed, packing)                                # (batch, heads, seq, head_dim)
        context = (self.attend or fused_attention)(query, key, value, packing.mask, dropout)
        return packing.unpad(context.transpose(1, 2).flatten(2))  # the heads side by side again

    def weights(self, hidden_states: torch.Tensor, packing: Packing) -> torch.Tensor:
        """What `forward` averages the values by, without dropout: (tokens, hidden) → (batch, heads, seq, seq)."""
        query, key, _ = self._heads(self.query_key_value(hidden_states), packing)
        return attention_weights(query, key, packing.mask)

    def _heads(self, mixed: torch.Tensor, packing: Packing) -> torch.Tensor:
        heads = packing.pad(mixed).unflatten(-1, (3, self.num_heads, self.head_dim))
        return heads.permute(2, 0, 3, 1, 4)  # from (batch, seq, 3, heads, head_dim) to (3, batch, heads, seq, head_dim)
