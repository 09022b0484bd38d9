"""From a sentence embedding to a task's raw outputs.

Linear layers start as nn.Linear does, not as BERT's own layers do. With N(0, 0.02²) a head passes
so little gradient that sentiment, whose gradient is the smallest, is learnt much later
(docs/log/2026-11-23.md).
"""

from torch import nn

FIRST_DROPOUT = 0.3    # the paper, section 5.3
SECOND_DROPOUT = 0.45


class OneLayerHead(nn.Sequential):
    """dropout 0.3 → linear: (batch, inputs) → (batch, outputs) (the paper, Figures 1 and 2a)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """Takes `hidden` so that all heads have one signature; does not use it."""
        super().__init__(
            nn.Dropout(FIRST_DROPOUT),
            nn.Linear(inputs, outputs))


class TwoLayerHead(nn.Sequential):
    """dropout 0.3 → linear → LeakyReLU → dropout 0.45 → linear (the paper, Figure 2b).

    (batch, inputs) → (batch, outputs).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Dropout(FIRST_DROPOUT),
            nn.Linear(inputs, hidden),
            nn.LeakyReLU(),
            nn.Dropout(SECOND_DROPOUT),
            nn.Linear(hidden, outputs))
