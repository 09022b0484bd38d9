"""The faster forms of this package, each compared with its plain form at first use in a process.

MINBERT_PLAIN=1 switches them off. Where a fast form computes something else than the plain one, as
after an edit of the plain one, the plain one runs from then on, and one warning tells it.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch

# On a CPU a long vector is updated in blocks of this many numbers where one pass over it is not
# enough: what one line of the update writes, the next finds in the cache.
BLOCK = 1 << 18
FUSED = ("cpu", "cuda")  # where torch has its one-pass kernel of Adam

# Float32 products of this many columns are exact enough to be summed in float64.
COLUMNS = 1 << 10
# Squared norms from here on are not touched by what float32 loses of products under 1e-38: even
# 10¹⁰ of them are 1e-28 together.
LEAST_SQUARE = 1e-20

Update = Callable[..., None]  # (θ, g, m, v, t, *, lr, betas, eps, weight_decay, correct_bias)
_checked: dict[object, bool] = {}


def is_plain() -> bool:
    """Whether MINBERT_PLAIN=1 asks for the plain forms only."""
    return os.environ.get("MINBERT_PLAIN", "0") not in ("", "0")


def _agrees(key: object, difference: Callable[[], float], plain: str) -> bool:
    """Whether the fast form equals the plain one; compared once per key."""
    if key not in _checked:
        off = difference()
        _checked[key] = off <= 1e-9
        if not _checked[key]:
            warnings.warn(f"optim/fast.py does not compute what {plain} says: results differ by "
                          f"{off:.2g}. The plain form runs from now on, exactly as written and "
                          f"slower",
                          stacklevel=3)
    return _checked[key]


# ------------------------------------------------------------------------------------------ AdamW


def fused_adamw_applies(update: Update) -> bool:
    """Whether `fused_adamw` computes what the plain `update` does."""
    return not is_plain() and _agrees(update.__code__, lambda: _adamw_difference(update),
                                      "adamw_update in optim/adamw.py")


def _adamw_difference(update: Update) -> float:
    """The largest difference over two steps, with decay and without, in float64."""
    worst = 0.0
    for weight_decay, correct_bias in ((0.0, True), (0.2, True), (0.2, False)):
        options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.05, "weight_decay": weight_decay,
                   "correct_bias": correct_bias}
        theta, g, m = torch.linspace(-2, 2, 24, dtype=torch.float64).view(3, 8)
        plain = [theta.clone(), g.clone(), m.clone(), m.square()]
        fast = [tensor.clone() for tensor in plain]
        for t in (1, 2):
            update(*plain, t, **options)
            fused_adamw(*fast, t, **options)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(plain, fast, strict=True)))
    return worst


def fused_adamw(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                correct_bias: bool) -> None:
    """The update of optim/adamw.py by torch's fused kernel, which reads and writes every number
    once.

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
                       beta2=beta2,
                       weight_decay=0.0, eps=eps / root)
    if decay:
        theta.add_(change.sub_(theta, alpha=decay))


def blocks(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor,
           weight_decay: float) -> Iterable[tuple[torch.Tensor, ...]]:
    """θ, g, m and v, cut alike into the pieces that are best updated in turn; g is dense in
    each."""
    tensors = (theta, g, m, v)
    if g.is_sparse and g.device.type == "cpu" and g.sparse_dim() == 1:
        rows = max(1, BLOCK // math.prod(theta.shape[1:]))
        return zip(theta.split(rows), dense_blocks(g, rows), m.split(rows), v.split(rows),
                   strict=True)
    if g.is_sparse:
        return [(theta, g.to_dense(), m, v)]
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
    borders = torch.searchsorted(touched, torch.tensor([*starts, len(gradient)])).tolist()

    for start, (first, last) in zip(starts, pairwise(borders), strict=True):
        here = touched[first:last] - start
        block[here] = values[first:last]
        yield block[:len(gradient) - start]
        block[here] = 0


def is_fusible(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether the fused kernel takes these: on one of its devices, contiguous, of one dtype."""
    tensors = list(tensors)
    return (len({tensor.dtype for tensor in tensors}) == 1
            and all(tensor.device.type in FUSED and tensor.is_contiguous() for tensor in tensors))


# ------------------------------------------------------------------------------------ Gram matrix


def gram_matrix_applies(gradients: torch.Tensor,
                        plain: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether `float32_gram_matrix` computes what `plain` does, for gradients like these."""
    if is_plain() or gradients.dtype != torch.float32:
        return False
    if gradients.device.type not in ("cpu", "cuda"):
        return False

    def difference() -> float:
        # whole numbers, whose products float32 holds exactly
        sample = (torch.arange(3 * 1500) % 7 - 3.0).view(3, 1500)
        return float((float32_gram_matrix(sample, plain) - plain(sample)).abs().max())

    return _agrees(plain.__code__, difference, "the plain Gram matrix in optim/surgery.py")


def float32_gram_matrix(gradients: torch.Tensor,
                        plain: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """G Gᵀ in a third of the time: float32 products of 1,024 columns each, summed in float64.

    Each K_ij is within 1024 · 2⁻²⁴ ‖g_i‖ ‖g_j‖ = 6e-5 ‖g_i‖ ‖g_j‖ (Higham 2002, section 3.1), in
    practice a thousandth of that. If a product overflowed or could have vanished, `plain` does it
    all.
    """
    pieces = gradients.shape[1] // COLUMNS
    whole, rest = gradients.tensor_split([pieces * COLUMNS], dim=1)
    batch = whole.unflatten(1, (pieces, COLUMNS)).transpose(0, 1)  # (pieces, tasks, COLUMNS)
    products = gradients.new_empty(pieces, len(gradients), len(gradients))
    torch.bmm(batch, batch.mT, out=products)  # with `out`, autocast does not make it bf16
    gram = products.sum(0, dtype=torch.float64).cpu() + plain(rest)

    is_exact = torch.isfinite(gram).all() and (gram.diagonal() >= LEAST_SQUARE).all()
    return gram if is_exact else plain(gradients)
