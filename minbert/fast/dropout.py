"""Dropout from cheap random bits: on the CPU, torch's own draws one Bernoulli number at a time.

Sixteen random bits decide for each number, so a share p is kept to within 2⁻¹⁷ (0.1 becomes 0.100006; one below 2⁻¹⁷
becomes 2⁻¹⁶, so that something can be dropped), and what stays is divided by the share that really stays. All bits come
from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 1 << 16  # of sixteen random bits
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number → the integers of that size


def keep_mask(shape: Sequence[int], share: float) -> torch.Tensor:
    """int16 in this shape: 0 with probability `share`, else -1, which is all bits set."""
    size, dropped = torch.Size(shape).numel(), _dropped(share)
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(1 << 63), None)  # four draws in each
    levels = bits.view(torch.int16)[:size].view(shape)  # -LEVELS/2 … LEVELS/2 - 1, all equally likely
    below = dropped - LEVELS // 2 - 1                   # the highest level that is dropped
    return levels.clamp(below, below + 1).neg_().add_(below)


def rescale(share: float) -> float:
    """What the numbers that stay are multiplied by: the reciprocal of the share of levels that stay."""
    return LEVELS / (LEVELS - _dropped(share)) if share else 1.0


def _dropped(share: float) -> int:
    """How many of the levels are dropped: for a share between 0 and 1 not none, and not all."""
    return min(max(round(share * LEVELS), 1), LEVELS - 1)


def drop_(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Sets x to zero, in place, where the mask of `keep_mask` is 0; without rescaling.

    A logical and with all bits set leaves a float as it is: the cheapest way, since torch is slow with bool masks.
    """
    if mask is not None:
        integers = INTEGERS[x.element_size()]
        x.view(integers).bitwise_and_(mask.to(integers))
    return x


class Dropout(nn.Dropout):
    """nn.Dropout (Srivastava et al. 2014), from cheap bits on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        return _Dropout.apply(x, keep_mask(x.shape, self.p), rescale(self.p))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return drop_(x * scale, mask)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        return _Dropout.apply(grad, *ctx.saved_tensors, ctx.scale), None, None  # itself differentiable in turn
