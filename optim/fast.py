"""AdamW's update in one pass, compared with the plain one at first use in a process.

MINBERT_PLAIN=1 switches it off. If it differs from `adamw_update`, for example after an edit, the
plain update runs from then on, with one warning.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch

# On a CPU a long vector is updated in blocks of this many numbers where one pass over it is not
# enough: what one line of the update writes, the next finds in the cache.
BLOCK = 1 << 18
FUSED = ("cpu", "cuda")  # where torch has its one-pass kernel of Adam

Update = Callable[..., None]  # (θ, g, m, v, t, *, lr, betas, eps, weight_decay, correct_bias)
_checked: dict[object, bool] = {}


def is_plain() -> bool:
    """Whether MINBERT_PLAIN=1 asks for the plain forms only."""
    return os.environ.get("MINBERT_PLAIN", "0") not in ("", "0")


def fused_adamw_applies(update: Update) -> bool:
    """Whether `fused_adamw` computes what the plain `update` does; compared once per update."""
    if is_plain():
        return False
    key = update, getattr(update, "__code__", None)  # closures of one factory share their code
    if key not in _checked:
        off = _difference(update)
        _checked[key] = off <= 1e-9
        if not _checked[key]:
            warnings.warn("adamw_update in optim/adamw.py and optim/fast.py do not agree: results "
                          f"differ by {off:.2g}. If you changed the equation, that is why. "
                          "adamw_update runs from now on, as written and more slowly",
                          stacklevel=2)
    return _checked[key]


def _difference(update: Update) -> float:
    """The largest difference over some steps, with decay and without, in float64."""
    worst = 0.0
    for weight_decay, correct_bias in ((0.0, True), (0.2, True), (0.2, False)):
        options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": weight_decay,
                   "correct_bias": correct_bias}
        theta, g, m = torch.linspace(-9, 9, 24, dtype=torch.float64, device="cpu").view(3, 2, 4)
        plain = [theta.clone(), g.clone(), m.clone(), m.square()]
        fast = [tensor.clone() for tensor in plain]
        for t in (1, 2, 10, 10_000):
            update(*plain, t, **options)
            fused_adamw(*fast, t, **options)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(plain, fast, strict=True)))
    return worst


def fused_adamw(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                correct_bias: bool) -> None:
    """optim/adamw.py's update by torch's fused kernel, which touches every number once.

    The kernel's own form is θ ← θ − lr / (1 − β1ᵗ) · m / (√v / √(1 − β2ᵗ) + eps): ours, where its
    eps is ours / √(1 − β2ᵗ). With decay it updates a zero in place of θ, and the decay is added to
    that before θ moves.
    """
    beta1, beta2 = betas
    root, decay = math.sqrt(1 - beta2**t), lr * weight_decay
    rate = lr if correct_bias else lr * (1 - beta1**t) / root
    change = torch.zeros_like(theta) if decay else theta

    torch._fused_adam_([change], [g], [m], [v], [], [torch.full((), float(t), device=theta.device)],
                       amsgrad=False, maximize=False, lr=(1 - decay) * rate, beta1=beta1,
                       beta2=beta2, weight_decay=0.0, eps=eps / root)
    if decay:
        theta.add_(change.sub_(theta, alpha=decay))


def blocks(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor,
           weight_decay: float) -> Iterable[tuple[torch.Tensor, ...]]:
    """θ, g, m and v in pieces of the same place and size; g is dense in each."""
    if g.is_sparse and g.device.type == "cpu" and g.sparse_dim() == 1:
        rows = max(1, BLOCK // math.prod(theta.shape[1:]))
        return zip(theta.split(rows), dense_blocks(g, rows), m.split(rows), v.split(rows),
                   strict=True)

    tensors = (theta, g.to_dense(), m, v)
    if weight_decay and all(tensor.device.type == "cpu" and tensor.is_contiguous()
                            for tensor in tensors):
        return zip(*(tensor.view(-1).split(BLOCK) for tensor in tensors), strict=True)
    return [tensors]


def dense_blocks(gradient: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    """A sparse gradient, (all rows, …), as dense blocks of `rows` rows.

    All blocks are views of one tensor, so use each at once.
    """
    gradient = gradient.coalesce()
    touched, values = gradient.indices()[0], gradient.values()
    block = values.new_zeros(rows, *values.shape[1:])
    starts = range(0, len(gradient), rows)
    borders = torch.searchsorted(touched, touched.new_tensor([*starts, len(gradient)])).tolist()

    for start, (first, last) in zip(starts, pairwise(borders), strict=True):
        here = touched[first:last] - start
        block[here] = values[first:last]
        yield block[:len(gradient) - start]
        block[here] = 0


def is_fusible(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the fused kernel takes these: on one of its devices, contiguous, of one dtype."""
    return (len({tensor.dtype for tensor in tensors}) == 1
            and all(tensor.device.type in FUSED and tensor.is_contiguous() for tensor in tensors))
