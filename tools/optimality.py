"""Surgery methods against their own optimality conditions, on random Gram matrices.

    python tools/optimality.py --grams 2000

For each method, the largest violation by kind of matrix: ours, and torchjd's where it has the
method. A violation is a share of the lengths that occur, so 1e-16 is rounding and 1 is wrong.
`-`: the condition applied to no matrix of this kind, or the method returned 0.
The suite runs a slice (tests/paper/test_17_methods.py).
"""

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch

from optim import Method
from optim.methods.quadratic import lengths

KINDS = ("plain", "dependent", "zero row", "identical", "opposite", "1e±12", "nearly parallel",
         "long or short")
Weights = Callable[[torch.Tensor], torch.Tensor]
Condition = Callable[[torch.Tensor, torch.Tensor], "float | None"]


def gradients(count: int, seed: int = 0, most_tasks: int = 10) -> Iterator[tuple[str, torch.Tensor]]:
    """Kind of matrix, and the tasks' gradients, (tasks, params) float64."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        tasks = int(random.integers(2, most_tasks + 1))
        params = int(random.integers(tasks, 4 * most_tasks))
        G = random.normal(size=(tasks, params))
        if kind == "dependent":
            rank = int(random.integers(1, tasks))
            G = random.normal(size=(tasks, rank)) @ random.normal(size=(rank, params))
        elif kind == "zero row":
            G[random.integers(tasks)] = 0
        elif kind == "identical":
            G[1] = G[0]
        elif kind == "opposite":
            G[1] = -random.choice([1, 0.3]) * G[0]
        elif kind == "1e±12":
            G *= 10.0 ** random.uniform(-12, 12, size=(tasks, 1))
        elif kind == "nearly parallel":
            G[1] = G[0] + 1e-7 * G[1]
        elif kind == "long or short":
            G *= 10.0 ** random.choice([-12, 12])
        yield kind, torch.from_numpy(G)


# ----------------------------------------------------------------------------------- the conditions


def shortest(K: torch.Tensor, w: torch.Tensor) -> float:
    """MGDA (Désidéri 2012): w in Δ, and no g_i · d is below ‖d‖²."""
    norms, _ = lengths(K)
    off = max(float(-w.min()), abs(float(w.sum()) - 1))
    if not (norms > 0).all():
        return max(off, float((w @ K @ w).clamp(min=0).sqrt() / norms.max()))
    return max(off, float(((w @ K @ w - K @ w) / (norms * norms.min())).max()))


def projected(K: torch.Tensor, w: torch.Tensor, u: torch.Tensor) -> float:
    """argmin of wᵀKw over w ≥ u: K w ≥ 0, and 0 where w > u."""
    norms, _ = lengths(K)
    size = float((norms * u).max())
    slopes = torch.where(norms > 0, (K @ w) / norms, 0.0) / size
    extra = (w - u) * norms / size
    return max(float(-extra.min()), float(-slopes.min()), float((extra * slopes).abs().max()))


def mean_projected(K: torch.Tensor, w: torch.Tensor) -> float:
    return projected(K, w, torch.full_like(w, 1 / len(w)))


def no_loss_rises(K: torch.Tensor, w: torch.Tensor) -> float:
    """UPGrad (Quinton & Rey 2024, Theorem 1): K w ≥ 0, w ≥ 1/T."""
    norms, _ = lengths(K)
    slopes = torch.where(norms > 0, (K @ w) / norms, 0.0) / norms.max()
    return max(float(-slopes.min()), float((1 / len(w) - w).max()))


def equal_projections(K: torch.Tensor, w: torch.Tensor) -> float | None:
    """IMTL-G, ConFIG: the update has the same cosine with every gradient, where that is possible."""
    norms, C = lengths(K)
    d, ones = (w @ K @ w).clamp(min=0).sqrt(), (norms > 0).double()
    if not d > 0 or (C @ torch.linalg.pinv(C, hermitian=True) @ ones - ones).abs().max() > 1e-6:
        return None
    found = ((K @ w) / norms / d)[norms > 0]
    return float(found.max() - found.min())


def fair(alpha: float) -> Condition:
    """Nash-MTL, FairGrad: K w = w^(−1/α)."""
    def off(K: torch.Tensor, w: torch.Tensor) -> float | None:
        some = K.diagonal() > 0
        if not w.any():
            return None
        if not (w[some] > 0).all():
            return float("inf")
        return float((((K @ w) * w ** (1 / alpha))[some] - 1).abs().max())
    return off


def averse(K: torch.Tensor, w: torch.Tensor, c: float = 0.4) -> float | None:
    """CAGrad: w* in Δ, where no corner lowers wᵀK1/T + s √(wᵀKw)."""
    mean = torch.full_like(w, 1 / len(w))
    K = K / K.diagonal().max()
    rest = w * (1 + c**2) - mean
    if rest.abs().max() < 1e-14:
        return None
    star = rest / rest.sum()
    s, root = c * (mean @ K @ mean).sqrt(), (star @ K @ star).clamp(min=0).sqrt()
    slope = K @ mean + s * (K @ star) / root
    return max(float(-star.min()), float(star @ slope - slope.min()))


def aligned(K: torch.Tensor, w: torch.Tensor) -> float | None:
    """Aligned-MTL of independent gradients: T orthogonal vectors of length √λ_min are added."""
    values = torch.linalg.eigvalsh(K)
    if values[0] < 1e-6 * values[-1]:
        return None
    return abs(float((w @ K @ w) / (len(w) * values[0])) - 1)


def unit_lengths(K: torch.Tensor, w: torch.Tensor) -> float:
    norms, _ = lengths(K)
    return float(((w * norms)[norms > 0] - 1).abs().max())


CONDITIONS: dict[str, Condition] = {
    "mgda": shortest, "dualproj": mean_projected, "upgrad": no_loss_rises, "cagrad": averse,
    "imtlg": equal_projections, "config": equal_projections, "nashmtl": fair(1.0),
    "fairgrad": fair(2.0), "alignedmtl": aligned, "normalised": unit_lengths,
}


# ----------------------------------------------------------------------------------------- torchjd


def torchjds() -> dict[str, Weights]:
    """torchjd's methods as Gram matrix → weights, in our conventions (pip install "torchjd[full]")."""
    from torchjd import aggregation

    cagrad = aggregation.CAGradWeighting(c=0.4)
    aligned_by_mean = aggregation.AlignedMTLWeighting()
    return {
        "mgda": aggregation.MGDAWeighting(epsilon=1e-12, max_iters=1000),
        "dualproj": aggregation.DualProjWeighting(), "upgrad": aggregation.UPGradWeighting(),
        "cagrad": lambda K: cagrad(K) / (1 + 0.4**2),  # it does not rescale
        "imtlg": aggregation.IMTLGWeighting(),
        "fairgrad": aggregation.FairGradWeighting(alpha=2.0),
        "alignedmtl": lambda K: len(K) * aligned_by_mean(K),  # a mean, where the authors sum
    }


def measure(count: int, seed: int, with_torchjd: bool) -> Iterator[tuple[str, dict, float]]:
    """Method, kind → largest violation, and milliseconds per call."""
    sides: dict[str, tuple[Weights, Condition]] = {
        name: (Method(name), condition) for name, condition in CONDITIONS.items()}
    if with_torchjd:
        sides |= {f"  torchjd {name}": (weights, CONDITIONS[name])
                  for name, weights in torchjds().items()}
    for name, (weights_of, off) in sides.items():
        worst: dict[str, float] = defaultdict(lambda: -1.0)
        seconds = 0.0
        for kind, G in gradients(count, seed):
            K = G @ G.T
            started = time.perf_counter()
            try:
                w = weights_of(K)
            except Exception:  # a solver of theirs that gives up
                w = torch.full((len(K),), float("inf"))
            seconds += time.perf_counter() - started
            found = off(K, w) if torch.isfinite(w).all() else float("inf")
            worst[kind] = max(worst[kind], -1.0 if found is None else max(0.0, found))
        yield name, worst, 1000 * seconds / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grams", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-torchjd", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| method | " + " | ".join(KINDS) + " | ms |\n" + "| --- " * (len(KINDS) + 2) + "|")
    for name, worst, ms in measure(arguments.grams, arguments.seed, not arguments.no_torchjd):
        cells = ["-" if worst[kind] < 0 else f"{worst[kind]:.0e}" for kind in KINDS]
        print(f"| {name} | " + " | ".join(cells) + f" | {ms:.2f} |", flush=True)


if __name__ == "__main__":
    main()
