"""One transformer layer: attention, then feed-forward, each with residual and LayerNorm.

    h = LayerNorm(x + dropout(W_o · attention(x)))
    y = LayerNorm(h + dropout(W_2 · act(W_1 · h)))       (Vaswani et al. 2017, section 3.1)

The residual connection adds the input back, and the sum is normalised. This order is called
post-norm. (Many newer models are pre-norm, x + f(LayerNorm(x)); BERT is not.)

By hand: let the weights of all linear layers be 0, the bias of attention_dense (1, 0, 0, 1) and
that of output_dense (0, 2, −2, 0). Then x = (−1, 0, 2, 1) plus the first bias is (0, 0, 2, 2). Its
mean is 1 and its standard deviation 1, so h = (−1, −1, 1, 1). h plus the second bias is
(−1, 1, −1, 1). Its mean is already 0 and its standard deviation 1, so y = (−1, 1, −1, 1).

Read tests/lessons/test_03_layer.py. Check: minbert study check . layer
"""

import torch
from torch import nn

from minbert.activations import ACTIVATIONS
from minbert.attention import BertSelfAttention


class BertLayer(nn.Module):
    """The constructor is given. Write forward, using the parts that the constructor makes."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, activation: str,
                 layer_norm_eps: float, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = BertSelfAttention(hidden_size, num_heads, attention_dropout)
        self.attention_dense = nn.Linear(hidden_size, hidden_size)                    # W_o
        self.attention_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

        self.intermediate_dense = nn.Linear(hidden_size, intermediate_size)           # W_1
        self.activation = ACTIVATIONS[activation]
        self.output_dense = nn.Linear(intermediate_size, hidden_size)                 # W_2
        self.output_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the two equations. Call self.dropout once in each.

        Args:
            hidden_states: (batch, seq, hidden), the x of the equations.
            mask: (batch, seq) bool, True where a token is real; None if all are. Pass it
                to self_attention unchanged.

        Returns:
            (batch, seq, hidden).
        """
        raise NotImplementedError
