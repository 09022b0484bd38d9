"""Heads: from a sentence embedding to a task's raw outputs (the paper, Figures 1 and 2).

    one layer     dropout 0.3 → linear
    two layers    dropout 0.3 → linear → LeakyReLU → dropout 0.45 → linear

LeakyReLU(x) is x where x > 0, and 0.01 x elsewhere. Nothing comes after the last linear layer: the
losses take raw outputs. Use nn.Linear, nn.Dropout and nn.LeakyReLU. Keep the random weights and
biases that nn.Linear starts with. Each number is dropped by itself, and in training mode only.

By hand, without dropout, for two layers of width 1: with the weights 2 and 3 and the biases 1 and
0, the input −2 becomes 2 · (−2) + 1 = −3, then −0.03, then 3 · (−0.03) = −0.09.

Read tests/lessons/test_10_training.py. Check: minbert study check . heads
"""

import torch
from torch import nn


class OneLayerHead(nn.Module):
    """(batch, inputs) → (batch, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """`hidden` is not used here; all heads take the same arguments."""
        super().__init__()
        raise NotImplementedError

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class TwoLayerHead(nn.Module):
    """(batch, inputs) → (batch, hidden) → (batch, outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        raise NotImplementedError

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError
