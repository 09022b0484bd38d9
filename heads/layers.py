"""From a sentence embedding to a task's raw outputs.

Linear layers start as nn.Linear does, not as BERT's own layers do. With N(0, 0.02²) a head passes
so little gradient that sentiment, whose gradient is the smallest, is learnt much later
(docs/log/2026-11-23.md).
"""

import torch
from torch import nn
from torch.nn import functional as F

FIRST_DROPOUT = 0.3    # the paper, section 5.3
SECOND_DROPOUT = 0.45
MOST_SIMILAR = 5.0     # the top of STS's scale


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


class TwoViewsHead(OneLayerHead):
    """A pair together and apart: dropout 0.3 → linear, on [j, |u − v|, u ∘ v].

    j is the embedding of the joined pair, u and v are those of its sentences alone, with mean 0 and
    variance 1. Difference and product are InferSent's (Conneau et al. 2017, 1705.02364). A head
    with one output starts as 5 · cos(u, v) plus a random linear function of j, so it uses at once
    what the encoder knows about similar sentences. For a single sentence, the head reads only j.

    (batch, inputs) → (batch, outputs).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(inputs, hidden, outputs)
        self.hidden = hidden
        if inputs > hidden and outputs == 1:
            _, linear = self
            linear.weight.data[:, hidden:2 * hidden] = 0
            linear.weight.data[:, 2 * hidden:] = MOST_SIMILAR / hidden

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        joined, *apart = embeddings.split(self.hidden, dim=1)
        if apart:
            u, v = (F.layer_norm(each, [self.hidden]) for each in apart)
            embeddings = torch.cat([joined, (u - v).abs(), u * v], dim=1)
        return super().forward(embeddings)
