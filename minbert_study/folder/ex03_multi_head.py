"""Multi-head self-attention: several small attentions side by side.

    head_h = attention(Q_h, K_h, V_h),   output = (head_1, …, head_H) side by side
                                                (Vaswani et al. 2017, section 3.2.2)

One linear layer computes queries, keys and values together, 3 · hidden numbers per token: first
all queries, then all keys, then all values. Counting from 0, head h owns columns h·head_dim to
(h+1)·head_dim − 1 of each. (W_o, which mixes the heads, is in the layer: exercise 06.)

By hand: hidden 4, 2 heads, and three tokens whose queries are (1, 2, 3, 4), (5, 6, 7, 8) and
(9, 10, 11, 12). Head 0 gets the queries (1, 2), (5, 6), (9, 10). Head 1 gets (3, 4), (7, 8),
(11, 12). Every number must stay with its token. A direct view as (batch, heads, seq, head_dim) is
wrong: it would give head 0 the rows (1, 2), (3, 4), (5, 6).

Read tests/lessons/test_02_attention.py. Check: minbert study check . multi_head
"""

import torch
from torch import nn

from minbert.attention import attention, attention_weights


class BertSelfAttention(nn.Module):
    """The constructor and `weights` are given. Write split_heads and forward."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of every head, from one call of self.query_key_value.

        Args:
            hidden_states: (batch, seq, hidden).

        Returns:
            (3, batch, heads, seq, head_dim): queries, keys, values.
        """
        raise NotImplementedError

    def forward(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """In each head, every token attends to every token of its own sequence.

        Args:
            hidden_states: (batch, seq, hidden).
            mask: (batch, seq) bool, True where a token is real; None if all are.

        Returns:
            (batch, seq, hidden): each token's heads side by side. If self.training is True,
            attention weights are dropped with probability self.dropout, otherwise never.
            attention(query, key, value, mask, dropout) does not know the mode: it always applies
            `dropout`.
        """
        raise NotImplementedError

    def weights(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """Given: the attention weights used in `forward`, for inspection."""
        query, key, _ = self.split_heads(hidden_states)
        return attention_weights(query, key, mask)
