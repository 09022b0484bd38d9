"""Every task gets its share: normalised, IMTL-G, ConFIG, Nash-MTL, FairGrad, Aligned-MTL.

Notation of optim/surgery.py: K is the Gram matrix of the tasks' gradients g_i, ‖g_i‖ their lengths,
C their cosines. A gradient of length 0 gets weight 0.
"""

import torch

from .quadratic import balanced, lengths


def normalised_weights(gram: torch.Tensor) -> torch.Tensor:
    """w_i = 1 / ‖g_i‖: the sum of the gradients' directions.

    >>> normalised_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [0.5, 2.0]
    """
    norms, _ = lengths(gram.double())
    return _over(torch.ones_like(norms), norms)


def imtlg_weights(gram: torch.Tensor) -> torch.Tensor:
    """IMTL-G (Liu et al. 2021, section 3.1): equal projections on all gradients' directions.

    The weights sum to 1; they may be negative. From C y = 1: w ∝ y_i / ‖g_i‖. 0 where their sum
    vanishes. For dependent gradients, the pseudo-inverse of C gives the shortest y.

    >>> imtlg_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [0.2, 0.8]
    """
    norms, C = lengths(gram.double())
    v = _over(_pseudo_inverse(C).sum(1), norms)
    total, size = v.sum(), v.abs().sum()
    return v / total if total.abs() > 1e-12 * size else torch.zeros_like(v)


def config_weights(gram: torch.Tensor) -> torch.Tensor:
    """ConFIG (Liu et al. 2024, Eq. 2 and 3): IMTL-G's direction, of another length.

    With U the unit gradients as rows, u is U⁺1 with length 1, and the update (Σ_i g_i · u) u. In
    weights, y = C⁺1 and n² = yᵀCy: w = (Σ_i ‖g_i‖ (Cy)_i / n²) y_i / ‖g_i‖.

    >>> config_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [0.625, 2.5]
    """
    norms, C = lengths(gram.double())
    y = _pseudo_inverse(C).sum(1)
    square = y @ C @ y
    if not square > 1e-24 * len(y):
        return torch.zeros_like(y)
    return (norms @ (C @ y) / square) * _over(y, norms)


def nashmtl_weights(gram: torch.Tensor) -> torch.Tensor:
    """Nash-MTL (Navon et al. 2022, Eq. 3): the w > 0 with K w = 1 / w, a bargain of the tasks.

    With w = y / ‖g‖ it is C y = 1 / y, the minimum of a convex function. The combination then has
    length √T. 0 where some combination of the gradients with positive weights is zero: there, no
    direction is good for all tasks.

    >>> nashmtl_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [0.5, 2.0]
    """
    return fairgrad_weights(gram, alpha=1.0)


def fairgrad_weights(gram: torch.Tensor, alpha: float = 2.0) -> torch.Tensor:
    """FairGrad (Ban & Ji 2024, Eq. 7): the w > 0 with K w = w^(−1/α).

    α = 1 is Nash-MTL; the higher α, the more the worst-off task counts. 0 as for Nash-MTL.

    >>> fairgrad_weights(torch.tensor([[1.0, 0.0], [0.0, 8.0]]), alpha=2.0).tolist()
    [1.0, 0.25]
    """
    if not alpha > 0:
        raise ValueError(f"fairgrad: alpha is {alpha}, expected a number above 0")
    p = 1 / alpha
    norms, C = lengths(gram.double())
    some = norms > 0
    if not some.any():
        return torch.zeros_like(norms)
    # w = y / ‖g‖^(2 / (1 + p)) leaves a matrix and right-hand sides of the same size
    k = norms[some] ** (2 * (p - 1) / (p + 1))
    root = k.sqrt()
    y = balanced(root[:, None] * C[some][:, some] * root, k, p)
    weights = torch.zeros_like(norms)
    if y is not None:
        weights[some] = y / norms[some] ** (2 / (1 + p))
    return weights


def alignedmtl_weights(gram: torch.Tensor, scale: str = "min") -> torch.Tensor:
    """Aligned-MTL (Senushkin et al. 2023, Algorithm 1): gradients made orthogonal and equally long.

    From K = V Λ Vᵀ, without the eigenvalues that are zero to rounding:
    w = √s V Λ^(−1/2) Vᵀ 1, s the least of the others.

    Args:
        scale: "min", or "median" or "mean" of the eigenvalues for s.

    >>> alignedmtl_weights(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).tolist()
    [0.25, 1.0]
    """
    scales = {"min": torch.min, "median": torch.median, "mean": torch.mean}
    if scale not in scales:
        raise ValueError(f"alignedmtl: scale is {scale!r}; choose from {', '.join(scales)}")
    values, vectors = torch.linalg.eigh(gram.double())
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    values, vectors = values[kept], vectors[:, kept]
    if not len(values):
        return gram.new_zeros(len(gram), dtype=torch.float64)
    return scales[scale](values).sqrt() * (vectors / values.sqrt() @ vectors.sum(0))


def _pseudo_inverse(C: torch.Tensor) -> torch.Tensor:
    return torch.linalg.pinv(C, rtol=len(C) * torch.finfo(C.dtype).eps, hermitian=True)


def _over(values: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return torch.where(norms > 0, values / norms, 0.0)
