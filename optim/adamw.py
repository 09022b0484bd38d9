"""AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), as CS224N's project asks for."""

import math
from collections.abc import Callable, Iterable

import torch
from torch.optim import Optimizer

from . import fast

HYPERPARAMETERS = ("lr", "betas", "eps", "weight_decay", "correct_bias")


class AdamW(Optimizer):
    """Adam with decoupled weight decay, the bias correction folded into the step size.

        m ← β1 m + (1 − β1) g
        v ← β2 v + (1 − β2) g²
        α ← lr · √(1 − β2ᵗ) / (1 − β1ᵗ)                (Kingma and Ba 2015, end of section 2)
        θ ← θ − α m / (√v + eps)
        θ ← θ − lr · weight_decay · θ             (after Loshchilov and Hutter 2019, Algorithm 2)

    The lines that compute this are those of `adamw_update` below. Algorithm 2 decays the old θ.

    Deviation: torch.optim.AdamW corrects v before adding eps, which is eps / √(1 − β2ᵗ) in these
    terms, and decays before the update. tests/lessons/test_06_optimizer.py shows that both agree as
    eps and weight decay go to 0, and where they do not.

    A parameter whose grad is None is left alone, decay included. A sparse gradient is treated as
    dense with zero rows elsewhere, so those rows' moments still decay and still move them.

    Args:
        params: tensors, or groups as in any torch optimizer.
        correct_bias: False leaves α = lr, as the original BERT did.

    Raises:
        ValueError: a hyperparameter is out of range.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0, correct_bias: bool = True) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"AdamW: {name} must be 0 or more, got {value}")
        for name, beta in zip(("beta1", "beta2"), betas, strict=True):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"AdamW: {name} must be in [0, 1), got {beta}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay, "correct_bias": correct_bias})

    def __setstate__(self, state: dict) -> None:
        """Takes over a saved state; torch.optim.AdamW's too, whose moments mean the same."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("correct_bias", True)
            for option in ("amsgrad", "maximize"):
                if group.get(option):
                    raise ValueError(f"AdamW: the saved state is of a run with {option}=True, "
                                     "which this AdamW does not have")
        for values in self.state.values():
            values["step"] = int(values["step"])

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Updates every parameter that has a gradient; returns the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            hyperparameters = {name: group[name] for name in HYPERPARAMETERS}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, hyperparameters)
        return loss

    def _update(self, parameter: torch.Tensor, hyperparameters: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1

        moments = state["exp_avg"], state["exp_avg_sq"]
        if not fast.fused_adamw_applies(adamw_update):
            gradient = parameter.grad.to_dense()
            adamw_update(parameter, gradient, *moments, state["step"], **hyperparameters)
            return

        weight_decay = hyperparameters["weight_decay"]
        for block in fast.blocks(parameter, parameter.grad, *moments, weight_decay):
            update = fast.fused_adamw if fast.is_fusible(block) else adamw_update
            update(*block, state["step"], **hyperparameters)


def adamw_update(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                 lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                 correct_bias: bool) -> None:
    """The equations of AdamW's docstring, in place on θ, m and v.

    Args:
        theta, g, m, v: parameter, gradient, first and second moment, of one shape. In training,
            these are long parts of the encoder's one vector, not a layer's matrices.
        t: the number of this step, from 1.
    """
    beta1, beta2 = betas
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)

    alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) if correct_bias else lr
    change = -alpha * m / (v.sqrt() + eps)

    # θ + change, less decay · (θ + change), added to θ in one go. In float32 a factor such as
    # 1 − 1e-7 is 20 % off by rounding, and a thousand steps of it are 1e-5 (test_06_optimizer.py).
    decay = lr * weight_decay
    theta.add_(change - decay * (theta + change))
