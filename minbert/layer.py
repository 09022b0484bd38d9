"""One transformer layer: attention, then feed-forward, each with dropout, residual and LayerNorm after it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from minbert.fast.dropout import Dropout
from minbert.fast.linear import Linear
from minbert.fast.packing import Packing

from .attention import BertSelfAttention
from .fast import layer as fast_layer


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x · Φ(x), Φ the distribution function of N(0, 1), by the exact erf: x/2 · (1 + erf(x/√2)).

    Hendrycks and Gimpel 2016. BERT's own form; `gelu_new` is the tanh approximation, up to 5e-4 away.
    """
    return F.gelu(x)


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), the approximation of Hendrycks and Gimpel 2016."""
    return F.gelu(x, approximate="tanh")


# hidden_act of config.json → function
ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new, "relu": F.relu}
# function → its derivative, (d_y, x) → d_x, for fast_layer.py
DERIVATIVES = {
    gelu: lambda d_y, x: torch.ops.aten.gelu_backward(d_y, x),
    gelu_new: lambda d_y, x: torch.ops.aten.gelu_backward(d_y, x, approximate="tanh"),
    F.relu: lambda d_y, x: torch.ops.aten.threshold_backward(d_y, x, 0),
}


class BertLayer(nn.Module):
    """h = LayerNorm(x + dropout(W_o · attention(x))), y = LayerNorm(h + dropout(W_2 · act(W_1 · h))).

    Vaswani et al. 2017, section 3.1, "post-norm": the normalisation comes after the sum.
    """

    gradient_places = ({},)  # see fast_layer.gradients_in_place

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, activation: str,
                 layer_norm_eps: float, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attention = BertSelfAttention(hidden_size, num_heads, attention_dropout)
        self.attention_dense = Linear(hidden_size, hidden_size)
        self.attention_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.intermediate_dense = Linear(hidden_size, intermediate_size)
        self.activation = ACTIVATIONS[activation]
        self.output_dense = Linear(intermediate_size, hidden_size)
        self.output_layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)
        self.by_hand = True  # on a CPU, fast_layer.py's form of `forward`: the same numbers

    @property
    def activation_derivative(self) -> Callable[..., torch.Tensor] | None:
        """(d_y, x) → d_x; None for an activation that is not of ACTIVATIONS."""
        return DERIVATIVES.get(self.activation)

    def forward(self, hidden_states: torch.Tensor, packing: Packing, first_only: bool = False) -> torch.Tensor:
        """(tokens, hidden) → (tokens, hidden); with first_only, of each sentence's first token: (batch, hidden)."""
        if fast_layer.applies(self, hidden_states) and (not first_only or packing.all_begin):
            return fast_layer.forward(self, hidden_states, packing, first_only)
        context = self.self_attention(hidden_states, packing)
        if first_only:
            hidden_states, context = packing.first_tokens(hidden_states), packing.first_tokens(context)
        hidden_states = self.attention_layer_norm(hidden_states + self.dropout(self.attention_dense(context)))
        expanded = self.activation(self.intermediate_dense(hidden_states))  # (tokens, intermediate)
        return self.output_layer_norm(hidden_states + self.dropout(self.output_dense(expanded)))
