"""What every trainer shares around AdamW: groups, the scheduled step, gradient checks."""

import math

import torch
from torch import nn

from optim import AdamW, split_decayed
from optim.surgery import as_float64


def head_groups(heads: nn.Module, weight_decay: float, lr: float) -> list[dict]:
    """The heads' parameters for AdamW, biases without decay; schedules scale `base_lr`."""
    decayed, undecayed = split_decayed(heads)
    return [{"params": list(decayed.values()), "weight_decay": weight_decay, "base_lr": lr},
            {"params": list(undecayed.values()), "weight_decay": 0.0, "base_lr": lr}]


def scaled_step(optimizer: AdamW, lr_scale: float) -> None:
    """One update at lr_scale times each group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_scale
    optimizer.step()


def clip_scale(clip: float, norm: float) -> float:
    """min(1, clip / norm) (Pascanu et al. 2013); clip 0 is off."""
    return min(1.0, clip / max(norm, 1e-12)) if clip else 1.0


def squared_norm(module: nn.Module) -> torch.Tensor:
    """‖gradient‖² in float64, where the square of a number that float32 holds never overflows.

    Parameters without a gradient are left out; without any gradient it is a zero on the CPU.
    """
    squares = [as_float64(parameter.grad).square().sum() for parameter in module.parameters()
               if parameter.grad is not None]
    return sum(squares) if squares else torch.zeros((), dtype=torch.float64)


def finite_loss(name: str, loss: float) -> float:
    """The loss. Raises FloatingPointError, naming the task, if it is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of {name} is {loss}")
    return loss


def check_gradient(name: str, loss: float, *squares: float) -> None:
    """Raises FloatingPointError, naming the task, for a norm or its square that is not finite."""
    if not all(map(math.isfinite, squares)):
        raise FloatingPointError(f"the gradient of {name} is not finite, at a loss of {loss:.4g}")


def check_length(name: str, *squares: float) -> None:
    """Raises FloatingPointError for a gradient whose square float32 cannot hold.

    AdamW's second moment would be infinite, and the parameters would silently stand still.
    """
    if not max(squares) <= torch.finfo(torch.float32).max:
        raise FloatingPointError(f"the gradient of {name} has length "
                                 f"{math.sqrt(max(squares)):.3g}, "
                                 "whose square float32 does not hold; --clip shortens it")
