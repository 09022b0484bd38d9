"""Dropout from cheap random bits: on the CPU, torch's own draws one Bernoulli number at a time.

Sixteen random bits decide for each number, so a share p is kept to within 2⁻¹⁷ (0.1 becomes 0.100006), and what stays
is divided by the share that really stays. All bits come from torch's global generator.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 1 << 16  # of sixteen random bits


def dropout(x: torch.Tensor, share: float) -> torch.Tensor:
    """Sets about `share` of the numbers to zero and divides the others by 1 − share (Srivastava et al. 2014)."""
    if not 0 < share < 1 or x.device.type != "cpu":
        return F.dropout(x, share)
    return x * keep_mask(x, share).to(x.dtype)


def keep_mask(x: torch.Tensor, share: float) -> torch.Tensor:
    """float32 in x's shape: 0 with probability `share`, else the reciprocal of the probability of staying."""
    dropped = round(share * LEVELS)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)  # four draws in each
    levels = bits.view(torch.int16)[:x.numel()].view(x.shape).float()  # -LEVELS/2 … LEVELS/2 - 1, all equally likely
    return levels.ge_(dropped - LEVELS // 2).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`; `add` does residual + dropout(x) in one pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p) if self.training else x

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """residual + dropout(x), both (…, hidden)."""
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return residual + self(x)
        return _AddMasked.apply(residual, x, keep_mask(x, self.p))


class _AddMasked(torch.autograd.Function):
    """residual + x · mask; the mask is a constant."""

    @staticmethod
    def forward(ctx, residual: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.dtype = x.dtype
        return torch.addcmul(residual, x.to(residual.dtype), mask.to(residual.dtype))

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (mask,) = ctx.saved_tensors
        return grad, (grad * mask).to(ctx.dtype), None
