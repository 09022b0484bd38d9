"""Directions along which no task's loss rises: MGDA, CAGrad, UPGrad, DualProj.

Notation of optim/surgery.py: K is the Gram matrix of the tasks' gradients g_i, and Δ the weights
that are not negative and sum to 1.
"""

import math

import scipy  # its parts load at their first use, which keeps `--help` fast
import torch

from .quadratic import lengths, minimise

MOST_SUPPORTS = 10  # tried, before the equation is solved by bracketing
SHORTEST = 1e-7  # of the longest gradient: a combination that is shorter counts as zero


def mgda_weights(gram: torch.Tensor, normalise: bool = False) -> torch.Tensor:
    """The shortest convex combination: argmin over w in Δ of wᵀKw (Sener & Koltun 2018, Eq. 3).

    No task's loss rises along it, and where it is zero, no direction is good for all tasks. The
    shortest gradient dominates it.

    Args:
        normalise: combine g_i / ‖g_i‖ instead, so that no length dominates.

    >>> mgda_weights(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
    [0.8, 0.2]
    """
    norms, C = lengths(gram.double())
    if not (norms > 0).all():  # a zero gradient is the shortest combination
        return (norms == 0).double() / (norms == 0).sum()
    shortest = norms.min()
    a = torch.ones_like(norms) if normalise else shortest / norms
    y = minimise(C, torch.zeros_like(norms), a)
    return y / norms if normalise else y * a


def cagrad_weights(gram: torch.Tensor, c: float = 0.4) -> torch.Tensor:
    """Conflict-averse gradient descent (Liu et al. 2021, Algorithm 1).

    With the mean g_0 = Σ g_i / T, it is the direction whose worst task gains most within c‖g_0‖ of
    g_0. With s = c‖g_0‖:

        w* = argmin over w in Δ of  wᵀK1 / T + s √(wᵀKw),
        weights 1/T + s w* / √(w*ᵀKw*), divided by 1 + c² as in the authors' code.

    s√q is the least of s (q / 2τ + τ / 2) over τ > 0, which leaves a quadratic problem for each τ,
    and one equation for τ, in closed form once it is known which weights are positive. Where the
    best combination has length 0, w* is left out.

    Args:
        c: how far from the mean, as a share of its length; 0 is the mean.

    >>> cagrad_weights(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), c=0.5).tolist()
    [0.6, 0.6]
    """
    if not 0 <= c < math.inf:
        raise ValueError(f"cagrad: c is {c}, expected a number of 0 or more")
    mean = gram.new_full((len(gram),), 1 / len(gram), dtype=torch.float64)
    largest = gram.double().diagonal().max()
    if c == 0 or not largest > 0:
        return mean
    K = gram.double() / largest
    s = float(c * (mean @ K @ mean).clamp(min=0).sqrt())
    b = K @ mean

    def best(tau: float) -> torch.Tensor:
        return minimise(K, tau / s * b, torch.ones_like(b))

    def excess(tau: float) -> float:
        w = best(tau)
        return float((w @ K @ w).clamp(min=0).sqrt()) - tau

    if s < SHORTEST or excess(SHORTEST) <= 0:
        return mean / (1 + c**2)
    w, tau = mean, float((mean @ K @ mean).sqrt())
    for _ in range(MOST_SUPPORTS):
        before, w = w, best(tau)
        tau = _tau(K, b, s, w > 0)
        if tau is None or ((w > 0) == (before > 0)).all():
            break
    if tau is None or abs(excess(tau)) > 1e-12:
        tau = scipy.optimize.brentq(excess, SHORTEST, 1.0 + SHORTEST, xtol=1e-15, rtol=1e-14)
    w = best(tau)
    return (mean + s * w / (w @ K @ w).sqrt()) / (1 + c**2)


def _tau(K: torch.Tensor, b: torch.Tensor, s: float, free: torch.Tensor) -> float | None:
    """√(w*ᵀKw*) if w* has these free weights: there, K w* ∝ λ1 − b, and the length of the right
    side, s, gives λ from a quadratic equation. None if it has no solution."""
    ones, part = torch.ones_like(b)[free], b[free]
    solved, failed = torch.linalg.solve_ex(K[free][:, free], torch.stack([ones, part], 1))
    A, B, C = (float(left @ right) for left, right in ((ones, solved[:, 0]), (ones, solved[:, 1]),
                                                       (part, solved[:, 1])))
    square = B * B - A * (C - s * s)
    if failed or not square > 0:
        return None
    tau = s / square**0.5
    return tau if SHORTEST < tau < 2 else None


def upgrad_weights(gram: torch.Tensor) -> torch.Tensor:
    """UPGrad (Quinton & Rey 2024, Definition 1): each gradient, projected; then their mean.

    The projection is onto the directions along which no task's loss rises. In weights: v_i is the
    argmin of vᵀKv over v ≥ e_i / T, and w = Σ v_i. For two tasks it is half of PCGrad.

    >>> upgrad_weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]])).tolist()
    [0.75, 0.75]
    """
    units = torch.eye(len(gram), dtype=torch.float64, device=gram.device) / len(gram)
    return torch.stack([_project(gram, unit) for unit in units]).sum(0)


def dualproj_weights(gram: torch.Tensor) -> torch.Tensor:
    """The mean gradient, projected onto the directions along which no task's loss rises (GEM,
    Lopez-Paz & Ranzato 2017, Eq. 11): argmin of vᵀKv over v ≥ 1/T.

    >>> dualproj_weights(torch.tensor([[1.0, -2.0], [-2.0, 9.0]])).tolist()
    [1.0, 0.5]
    """
    return _project(gram, gram.new_full((len(gram),), 1 / len(gram), dtype=torch.float64))


def _project(gram: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """argmin of vᵀKv over v ≥ u. With v = u + y / ‖g‖: ½ yᵀCy + (C D u)ᵀy over y ≥ 0."""
    norms, C = lengths(gram.double())
    scaled = norms * u
    size = scaled.max()
    if not size > 0:
        return u
    y = minimise(C, C @ (scaled / size)) * size
    return u + torch.where(norms > 0, y / norms, 0.0)
