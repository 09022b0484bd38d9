"""Scaled dot-product attention and multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V (Vaswani et al. 2017, Eq. 1).

    Args:
        query, key, value: (batch, heads, seq, head_dim).
        mask: (batch, seq) bool, True where a key is a real token; None if all are.
        dropout: share of the attention weights that is set to zero.

    Returns:
        (batch, heads, seq, head_dim).
    """
    weights = attention_weights(query, key, mask)
    return F.dropout(weights, dropout) @ value


def attention_weights(query: torch.Tensor, key: torch.Tensor,
                      mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(Q Kᵀ / √d): how much each token (row) looks at each other token (column).

    Returns:
        (batch, heads, seq, seq); every row sums to 1.
    """
    head_dim = query.shape[-1]
    scores = query @ key.transpose(-1, -2) / math.sqrt(head_dim)

    if mask is not None:
        # The least finite number, not -inf: a row of padding alone then gives no NaN.
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)

    return scores.softmax(dim=-1)


class BertSelfAttention(nn.Module):
    """Every token looks at every token of its own sequence, in several heads at once.

    One product makes queries, keys and values: the first `hidden_size` rows of
    `query_key_value.weight` make the queries, the next the keys, the last the values. Head h owns
    columns h·head_dim to (h+1)·head_dim − 1 of each.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, seq, hidden), mask (batch, seq) bool → (batch, seq, hidden)."""
        query, key, value = self.split_heads(hidden_states)
        dropout = self.dropout if self.training else 0.0
        context = attention(query, key, value, mask, dropout)  # (batch, heads, seq, head_dim)
        return context.transpose(1, 2).flatten(2)              # the heads side by side again

    def weights(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """The averaging weights of `forward`, without dropout: (batch, heads, seq, seq)."""
        query, key, _ = self.split_heads(hidden_states)
        return attention_weights(query, key, mask)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, seq, hidden) → queries, keys and values: (3, batch, heads, seq, head_dim)."""
        mixed = self.query_key_value(hidden_states)                      # (batch, seq, 3 · hidden)
        # (batch, seq, 3, heads, head_dim)
        heads = mixed.unflatten(-1, (3, self.num_heads, self.head_dim))
        return heads.permute(2, 0, 3, 1, 4)
