"""The activation functions of the feed-forward layer, each beside its derivative."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """A function and its derivative. Change both together: the first use in a process compares
    them.

    Args:
        function: x → y, elementwise.
        derivative: (d_y, x) → d_x, for the layer whose derivative is written by hand.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    derivative: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x · Φ(x) = x/2 · (1 + erf(x/√2)), Φ the distribution function of N(0, 1).

    Hendrycks and Gimpel 2016; the exact form. `gelu_new` is its approximation, up to 5e-4 away.
    """
    return F.gelu(x)


def gelu_derivative(d_y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """d_y · (Φ(x) + x φ(x)), φ the density of N(0, 1)."""
    return torch.ops.aten.gelu_backward(d_y, x)


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))): Hendrycks and Gimpel's (2016) approximation."""
    return F.gelu(x, approximate="tanh")


def gelu_new_derivative(d_y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.gelu_backward(d_y, x, approximate="tanh")


def relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)."""
    return F.relu(x)


def relu_derivative(d_y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """d_y where x > 0, else 0."""
    return torch.ops.aten.threshold_backward(d_y, x, 0)


# hidden_act of config.json → the function and its derivative
ACTIVATIONS = {
    "gelu": Activation(gelu, gelu_derivative),
    "gelu_new": Activation(gelu_new, gelu_new_derivative),
    "relu": Activation(relu, relu_derivative),
}
