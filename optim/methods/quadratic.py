"""The two small problems behind several methods, solved to rounding: no solver package.

Both are posed in cosines. With K = D C D, D = diag ‖g_i‖ and C the cosines, a substitution moves
the lengths of the gradients out of the matrix, so that tasks whose gradients differ by a factor of
1e12 are solved as precisely as others.
"""

from contextlib import suppress

import numpy as np
import scipy  # its parts load at their first use, which keeps `--help` fast
import torch

RIDGE = 1e-14     # added to the diagonal of a singular C, whose minimum is not unique
SMALLEST = np.finfo(float).tiny
NEWTON_STEPS = 100
BLUR = 1e-3  # rounding of C y beyond this share of it: some combination of the gradients is zero


def lengths(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K → ‖g_i‖, (tasks,), and the cosines C, (tasks, tasks); C is 0 for a gradient of length 0."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return norms, inverse[:, None] * gram * inverse


def minimise(C: torch.Tensor, b: torch.Tensor, a: torch.Tensor | None = None) -> torch.Tensor:
    """argmin ½ yᵀCy + bᵀy over y ≥ 0 and, if `a` is given, aᵀy = 1.

    An active-set method (Nocedal & Wright 2006, section 16.5): minimise over the variables that are
    free, stop at the first one that would become negative, and free the one whose multiplier is
    most negative. It ends after finitely many steps, since the objective falls in each.

    Args:
        C: (n, n), positive semidefinite.
        b: (n,).
        a: (n,), positive.

    Returns:
        (n,), of which the free variables solve their linear system to rounding.

    >>> C = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    >>> minimise(C, torch.tensor([-1.0, 2.0], dtype=torch.float64)).round(decimals=6).tolist()
    [1.0, 0.0]
    """
    C, b = C.numpy(), b.numpy()
    a = None if a is None else a.numpy()
    y, free = np.zeros_like(b), np.zeros(len(b), dtype=bool)
    if a is not None:  # from the best corner
        start = np.argmin(C.diagonal() / (2 * a**2) + b / a)
        y[start], free[start] = 1 / a[start], True

    for _ in range(20 + 10 * len(b)):
        multiplier = 0.0
        while free.any():
            best, multiplier = _on_free(C, b, a, free)
            falling = free & (best <= 0)
            if not falling.any():
                y = best
                break
            share = np.full_like(y, np.inf)  # of the way to `best`, until a variable is zero
            share[falling] = y[falling] / np.maximum(y[falling] - best[falling], SMALLEST)
            y = y + share.min() * (best - y)
            free &= share > share.min()
            y[~free] = 0

        slope = C @ y + b - (0 if a is None else multiplier * a)
        slope /= np.maximum(np.abs(C) @ y + np.abs(b), SMALLEST)
        slope[free] = 0
        if slope.min() >= -1e-13:
            break
        free[slope.argmin()] = True
    return torch.from_numpy(y)


def _on_free(C: np.ndarray, b: np.ndarray, a: np.ndarray | None,
             free: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimum where all other variables are 0, signs ignored, and the multiplier of aᵀy = 1."""
    places = free.nonzero()[0]
    factor = factored(C[np.ix_(places, places)], C.diagonal().max())
    solution, multiplier = -scipy.linalg.cho_solve(factor, b[places]), 0.0
    if a is not None:
        along = scipy.linalg.cho_solve(factor, a[places])
        multiplier = (1 - a[places] @ solution) / (a[places] @ along)
        solution = solution + multiplier * along
    y = np.zeros_like(b)
    y[places] = solution
    return y, multiplier


def factored(part: np.ndarray, largest: float) -> tuple[np.ndarray, bool]:
    """Its Cholesky factor for scipy.linalg.cho_solve, with a ridge if it is singular."""
    with suppress(np.linalg.LinAlgError):
        factor = scipy.linalg.cho_factor(part)
        if factor[0].diagonal().min() > 1e-7 * largest**0.5:
            return factor
    ridge = RIDGE * len(part) * largest * np.eye(len(part))
    return scipy.linalg.cho_factor(part + ridge)


def balanced(C: torch.Tensor, k: torch.Tensor, p: float) -> torch.Tensor | None:
    """The y > 0 with (C y)_i = k_i y_i^−p: the minimum of ½ yᵀCy − Σ k_i y_i^(1−p) / (1−p).

    For p = 1, the sum is Σ k_i log y_i. Newton's method with a line search; the function is convex.

    Returns:
        (n,), off by 1e-13 in its equations, and by up to 1e-3 where rounding hides more. None if
        there is no such y: some combination of the gradients is zero.

    >>> C = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> balanced(C, torch.ones(2, dtype=torch.float64), 1.0).round(decimals=6).tolist()
    [1.0, 0.5]
    """
    def value(y: torch.Tensor) -> float:
        gain = y.log() if p == 1 else y ** (1 - p) / (1 - p)
        return float(y @ C @ y / 2 - k @ gain)

    def off(y: torch.Tensor) -> float:
        return float(((C @ y) / (k * y**-p) - 1).abs().max())

    y = torch.ones_like(k)
    for _ in range(NEWTON_STEPS):
        curvature = C + torch.diag(p * k * y ** (-p - 1))
        slope = C @ y - k * y**-p
        step, failed = torch.linalg.solve_ex(curvature, -slope)
        decrease = float(-(slope @ step))
        blur = torch.finfo(y.dtype).eps * (C.abs() @ y) / (k * y**-p)
        if failed or not decrease >= 0 or float(blur.max()) > BLUR:
            return None

        shrinking = step < 0
        size = min(1.0, float((0.99999 * y / -step)[shrinking].min())) if shrinking.any() else 1.0
        before = value(y)
        if decrease > 1e-6 * (1 + abs(before)):  # else the full step is right, and f too coarse
            while value(y + size * step) > before - size * decrease / 4:
                size /= 2
        y = y + size * step
        if off(y) < 1e-14 or float((step / y).abs().max()) < 1e-15:
            break
    return y if off(y) < BLUR else None
