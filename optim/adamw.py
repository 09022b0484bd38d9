"""AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) in the form that CS224N's project asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from torch.optim import Optimizer

# On the CPU a long vector is updated in blocks of this many numbers where one pass over it is not enough: what one line
# of the update writes, the next finds in the cache, and no temporary is as long as the vector.
BLOCK = 1 << 18
FUSED = ("cpu", "cuda")  # where torch has its one-pass kernel


class AdamW(Optimizer):
    """Adam with decoupled weight decay, the bias correction folded into the step size.

        m ← β1 m + (1 − β1) g
        v ← β2 v + (1 − β2) g²
        α ← lr · √(1 − β2ᵗ) / (1 − β1ᵗ)                (Kingma and Ba 2015, end of section 2)
        θ ← θ − α m / (√v + eps)
        θ ← θ − lr · weight_decay · θ                   (Loshchilov and Hutter 2019, Algorithm 2)

    Deviation: torch.optim.AdamW corrects v before adding eps, which is eps / √(1 − β2ᵗ) in these terms, and decays
    before the update; tests/lessons/test_06_optimizer.py shows that both agree as eps and weight decay go to 0, and where
    they do not. `correct_bias=False` leaves α = lr, as the original BERT did.

    params: tensors, or groups as in any torch optimizer. A parameter whose grad is None is left alone, decay
    included. A sparse gradient, as an embedding may have, is what it stands for, zeros but for some rows: the other
    rows' moments shrink and move them as ever. Raises ValueError for hyperparameters out of range.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0, correct_bias: bool = True) -> None:
        if not lr >= 0.0:
            raise ValueError(f"AdamW: lr must be 0 or more, got {lr}")
        for name, beta in zip(("beta1", "beta2"), betas, strict=True):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"AdamW: {name} must be in [0, 1), got {beta}")
        if not eps >= 0.0:
            raise ValueError(f"AdamW: eps must be 0 or more, got {eps}")
        if not weight_decay >= 0.0:
            raise ValueError(f"AdamW: weight_decay must be 0 or more, got {weight_decay}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One update of every parameter that has a gradient; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        for block in _blocks(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], group["weight_decay"]):
            fusible = all(tensor.device.type in FUSED and tensor.is_contiguous() for tensor in block)
            one_pass = fusible and len({tensor.dtype for tensor in block}) == 1
            (_one_pass_adamw if one_pass else _adamw)(*block, state["step"], **group)


def _blocks(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor,
            weight_decay: float) -> Iterable[tuple[torch.Tensor, ...]]:
    """θ, g, m and v, cut alike into the pieces that are best updated one after another; g is dense in each."""
    if g.is_sparse and (g.device.type != "cpu" or g.sparse_dim() != 1):
        g = g.to_dense()
    if g.is_sparse:
        rows = max(1, BLOCK // math.prod(theta.shape[1:]))
        return zip(theta.split(rows), dense_blocks(g, rows), m.split(rows), v.split(rows), strict=True)
    tensors = (theta, g, m, v)
    if weight_decay and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors):
        return zip(*(tensor.view(-1).split(BLOCK) for tensor in tensors), strict=True)
    return [tensors]


def dense_blocks(gradient: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    """A sparse gradient, (all rows, …), as dense blocks of `rows` rows; all are views of one, so use each at once."""
    gradient = gradient.coalesce()
    touched, values = gradient.indices()[0], gradient.values()
    block = values.new_zeros(rows, *values.shape[1:])
    starts = range(0, len(gradient), rows)
    borders = torch.searchsorted(touched, torch.tensor([*starts, len(gradient)])).tolist()
    for start, (first, last) in zip(starts, pairwise(borders), strict=True):
        here = touched[first:last] - start
        block[here] = values[first:last]
        yield block[:len(gradient) - start]
        block[here] = 0


def _adamw(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *, lr: float,
           betas: tuple[float, float], eps: float, weight_decay: float, correct_bias: bool, **_: object) -> None:
    """The equations of AdamW's docstring, in place on θ, m and v; t counts from 1."""
    beta1, beta2 = betas
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) if correct_bias else lr
    denominator = v.sqrt().add_(eps)
    decay = lr * weight_decay
    if not decay:
        theta.addcdiv_(m, denominator, value=-alpha)
        return
    # θ + u − decay · (θ + u), added to θ in one go. In float32 a factor such as 1 − 1e-7 is 20 % off by rounding, and
    # a thousand steps of it are 1e-5; tests/lessons/test_06_optimizer.py measures.
    change = torch.div(m, denominator, out=denominator).mul_(-alpha)
    theta.add_(change.mul_(1 - decay).sub_(theta, alpha=decay))


def _one_pass_adamw(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *, lr: float,
                    betas: tuple[float, float], eps: float, weight_decay: float, correct_bias: bool,
                    **_: object) -> None:
    """`_adamw` by torch's fused kernel, which reads and writes every number once.

    The kernel's own form is θ ← θ − lr / (1 − β1ᵗ) · m / (√v / √(1 − β2ᵗ) + eps): the docstring's, where its eps is
    ours / √(1 − β2ᵗ). With decay it updates a zero in place of θ, and the decay is added to that before θ moves.
    tests/lessons/test_06_optimizer.py shows that both agree.
    """
    beta1, beta2 = betas
    root, decay = math.sqrt(1 - beta2**t), lr * weight_decay
    change = torch.zeros_like(theta) if decay else theta
    step = torch.full((), float(t), device=theta.device)
    torch._fused_adam_([change], [g], [m], [v], [], [step], amsgrad=False, maximize=False,
                       lr=(1 - decay) * (lr if correct_bias else lr * (1 - beta1**t) / root), beta1=beta1,
                       beta2=beta2, weight_decay=0.0, eps=eps / root)
    if decay:
        theta.add_(change.sub_(theta, alpha=decay))
