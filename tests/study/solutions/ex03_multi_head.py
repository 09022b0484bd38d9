import torch
from torch import nn

from minbert.attention import attention, attention_weights


class BertSelfAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, seq, _ = hidden_states.shape
        projected = self.query_key_value(hidden_states)
        query, key, value = projected.chunk(3, dim=-1)
        parts = []
        for part in (query, key, value):
            part = part.view(batch, seq, self.num_heads, self.head_dim)
            parts.append(part.transpose(1, 2))
        return torch.stack(parts)

    def forward(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, seq, hidden = hidden_states.shape
        query, key, value = self.split_heads(hidden_states)
        p = self.dropout if self.training else 0.0
        out = attention(query, key, value, mask, p)
        out = out.transpose(1, 2)
        return out.reshape(batch, seq, hidden)

    def weights(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        query, key, _ = self.split_heads(hidden_states)
        return attention_weights(query, key, mask)
