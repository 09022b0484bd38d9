import torch
from torch import nn

from minbert.activations import ACTIVATIONS
from minbert.attention import BertSelfAttention


class BertLayer(nn.Module):
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
        x = hidden_states
        a = self.self_attention(x, mask)
        a = self.attention_dense(a)
        h = self.attention_layer_norm(x + self.dropout(a))
        f = self.intermediate_dense(h)
        f = self.activation(f)
        f = self.output_dense(f)
        return self.output_layer_norm(h + self.dropout(f))
