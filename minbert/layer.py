"""One transformer layer: attention, then feed-forward, each with residual and LayerNorm."""

import torch
from torch import nn

from .activations import ACTIVATIONS
from .attention import BertSelfAttention


class BertLayer(nn.Module):
    """h = LayerNorm(x + dropout(W_o · attention(x))), y = LayerNorm(h + dropout(W_2 · act(W_1 ·
    h))).

    Vaswani et al. 2017, section 3.1, "post-norm": the normalisation comes after the sum.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, activation: str,
                 layer_norm_eps: float, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = BertSelfAttention(hidden_size, num_heads, attention_dropout)
        self.attention_dense = nn.Linear(hidden_size, hidden_size)
        self.attention_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACTIVATIONS[activation]
        self.output_dense = nn.Linear(intermediate_size, hidden_size)
        self.output_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, seq, hidden), mask (batch, seq) bool → (batch, seq, hidden)."""
        attended = self.attention_dense(self.self_attention(hidden_states, mask))
        hidden_states = self.attention_layer_norm(hidden_states + self.dropout(attended))

        # (batch, seq, intermediate)
        expanded = self.activation(self.intermediate_dense(hidden_states))
        output = self.output_dense(expanded)
        return self.output_layer_norm(hidden_states + self.dropout(output))
