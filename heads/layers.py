"""From a sentence embedding to a task's raw outputs."""

from __future__ import annotations

from torch import nn

FIRST_DROPOUT = 0.3    # the paper, section 5.3
SECOND_DROPOUT = 0.45


class OneLayerHead(nn.Sequential):
    """dropout 0.3 → linear: (batch, inputs) → (batch, outputs) (the paper, Figures 1 and 2a)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """`hidden` is taken so that every head is built alike; one layer has no use for it."""
        super().__init__(nn.Dropout(FIRST_DROPOUT), _linear(inputs, outputs))


class TwoLayerHead(nn.Sequential):
    """dropout 0.3 → linear → LeakyReLU → dropout 0.45 → linear: (batch, inputs) → (batch, outputs) (Figure 2b)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Dropout(FIRST_DROPOUT), _linear(inputs, hidden), nn.LeakyReLU(),
                         nn.Dropout(SECOND_DROPOUT), _linear(hidden, outputs))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """BERT's own initialisation: N(0, 0.02²), bias 0."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
