"""Dropout masks from cheap random bits. On a CPU, torch draws one Bernoulli at a time.

Sixteen random bits decide for each number. A share p is kept to within 2⁻¹⁷ (0.1 becomes 0.100006;
less than 2⁻¹⁷ becomes 2⁻¹⁶, so that something can be dropped), and what stays is divided by the
share that really stays. All bits come from torch's global generator.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEVELS = 1 << 16  # of sixteen random bits
# bytes of a number → integers of that size
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_mask(shape: Sequence[int], share: float) -> torch.Tensor | None:
    """int16 in this shape: 0 with probability `share`, else -1, all bits set. None for share 0."""
    if not share:
        return None
    size = torch.Size(shape).numel()
    # four draws in each
    bits = torch.empty(-(-size // 4), dtype=torch.int64, device="cpu").random_(-(1 << 63), None)
    levels = bits.view(torch.int16)[:size].view(shape)  # -LEVELS/2 … LEVELS/2 - 1, equally likely
    below = _dropped(share) - LEVELS // 2 - 1           # the highest level that is dropped
    return levels.clamp(below, below + 1).neg_().add_(below)


def rescale(share: float) -> float:
    """The factor for the numbers that stay: the reciprocal of the share of levels that stay."""
    return LEVELS / (LEVELS - _dropped(share)) if share else 1.0


def _dropped(share: float) -> int:
    """How many of the levels are dropped: for a share between 0 and 1 neither none nor all."""
    return min(max(round(share * LEVELS), 1), LEVELS - 1)


def drop_(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set x to zero, in place, where the mask of `keep_mask` is 0; without rescaling.

    A logical and with all bits set leaves a float as it is. That is the cheapest way: torch is slow
    with bool masks.
    """
    if mask is not None:
        integers = INTEGERS[x.element_size()]
        x.view(integers).bitwise_and_(mask.to(integers))
    return x


def dropped(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`drop_` on a copy."""
    return x if mask is None else drop_(x.clone(), mask)


class SameDraws(TorchFunctionMode):
    """Inside, torch's dropout takes its masks from `keep_mask`.

    Under one seed, the plain and the fast form then drop the same numbers and can be compared.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.dropout:
            function = _by_keep_mask
        elif function is F.scaled_dot_product_attention:
            function = _attention_by_keep_mask
        return function(*args, **(kwargs or {}))


def _by_keep_mask(x: torch.Tensor, p: float = 0.5, training: bool = True,
                  inplace: bool = False) -> torch.Tensor:
    """F.dropout."""
    if not training or not p:
        return x
    return x * (-keep_mask(x.shape, p)).to(x.dtype) * rescale(p)


def _attention_by_keep_mask(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                            attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
                            **options: object) -> torch.Tensor:
    """F.scaled_dot_product_attention, whose output for the identity is the weights."""
    identity = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
    weights = F.scaled_dot_product_attention(query, key, identity.expand(*key.shape[:-1], -1),
                                             attn_mask, **options)
    return _by_keep_mask(weights, dropout_p) @ value
