"""The paper's sections 5.4 to 5.6 as differences between cells of its Table 1, each with an interval and a verdict.

A claim is a difference averaged over pairs of cells that differ in one thing, for example ConcatB − ConcatA over all
ten methods. With one seed the interval is a bootstrap over dev items, the same items drawn for every cell: it says how
the difference would move with other items, and nothing about another seed. With several seeds it is Student's, over
seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multitask.analysis.comparisons import mean_interval
from multitask.tasks import TASKS

RESAMPLES, SEED = 1000, 11711
Cell = tuple[str, str]  # (method, arch); ("baseline", "concatA")
Pairs = list[tuple[list[Cell], list[Cell]]]
ARCHS = ("concatA", "concatB", "concatB_al")
SURGERY_CHAINS = ("gs_bd", "gs_wrap", "nli+gs_bd", "nli+gs_wrap")
CHAINS = (*SURGERY_CHAINS, "fl", "nli+fl", *(f"{chain}+fl" for chain in SURGERY_CHAINS))


@dataclass(frozen=True)
class Claim:
    """What the paper says: `task`'s score is higher (sign +1) or lower (−1) on the left of `pairs` than on the right.

    pairs: each side a list of cells, of which the worst is taken.
    """

    section: str
    text: str
    task: str
    sign: int
    pairs: Pairs


def archs(left: str, right: str, chains: Sequence[str] = CHAINS) -> Pairs:
    """The same method in two architectures."""
    return [([(chain, left)], [(chain, right)]) for chain in chains]


def methods(left: Callable[[str], str], right: Callable[[str], str], chains: Sequence[str],
            among: Sequence[str] = ARCHS) -> Pairs:
    """Two methods in the same architecture."""
    return [([(left(chain), arch)], [(right(chain), arch)]) for chain in chains for arch in among]


def itself(chain: str) -> str:
    return chain


def with_nli(chain: str) -> str:
    return f"nli+{chain}"


def with_fl(chain: str) -> str:
    return f"{chain}+fl"


def with_bd(chain: str) -> str:
    return chain.replace("gs_wrap", "gs_bd")


def claims() -> list[Claim]:
    """Every claim about Table 1 that can be read as a difference, in the paper's order."""
    wrap_chains = ("gs_wrap", "nli+gs_wrap", "gs_wrap+fl", "nli+gs_wrap+fl")
    without_nli = ("gs_bd", "gs_wrap", "fl", "gs_bd+fl", "gs_wrap+fl")
    alone_worst = [([("fl", arch)], [(chain, arch) for chain in CHAINS if chain != "fl"]) for arch in ARCHS]
    worst_over_baseline = [([(chain, arch) for chain in CHAINS for arch in ARCHS], [("baseline", "concatA")])]
    pair_tasks, all_tasks = ("para", "sts"), tuple(TASKS)
    table = [
        ("5.4", "all experiments outperform the baseline, the worst too", all_tasks, +1, worst_over_baseline),
        ("5.5", "ConcatB is far better than ConcatA on pairs", pair_tasks, +1, archs("concatB", "concatA")),
        ("5.5", "ConcatB costs SST", ("sst",), -1, archs("concatB", "concatA")),
        ("5.5", "additional layers (AL) help", all_tasks, +1, archs("concatB_al", "concatB")),
        ("5.6", "MultiNLI helps a little", pair_tasks, +1, methods(with_nli, itself, without_nli)),
        ("5.6", "MultiNLI helps SST under ConcatA", ("sst",), +1,
         methods(with_nli, itself, without_nli, ["concatA"])),
        ("5.6", "MultiNLI lowers SST under ConcatB", ("sst",), -1,
         methods(with_nli, itself, without_nli, ["concatB", "concatB_al"])),
        ("5.6", "gradient surgery is far better than final layers alone", all_tasks, +1,
         [([(chain, arch)], [("nli+fl" if "nli" in chain else "fl", arch)]) for chain in SURGERY_CHAINS
          for arch in ARCHS]),
        ("5.6", "GS_w is worse than GS_bd on STS", ("sts",), -1, methods(itself, with_bd, wrap_chains)),
        ("5.6", "GS_w is better than GS_bd on PARA", ("para",), +1, methods(itself, with_bd, wrap_chains)),
        ("5.6", "final layers after surgery help a little", all_tasks, +1,
         methods(with_fl, itself, SURGERY_CHAINS)),
        ("5.6", "final layers alone are worse than the worst of the others", all_tasks, -1, alone_worst),
    ]
    return [Claim(section, text, task, sign, pairs) for section, text, tasks, sign, pairs in table for task in tasks]


# ------------------------------------------------------------------------------------------- differences


def difference(claim: Claim, scores: Mapping[Cell, float | np.ndarray]) -> float | np.ndarray:
    """The claim's difference, averaged over its pairs; scores: a number a cell, or (resamples,) draws of it."""
    sides = [np.minimum.reduce([scores[cell] for cell in side]) for pair in claim.pairs for side in pair]
    return sum(left - right for left, right in zip(sides[::2], sides[1::2], strict=True)) / len(claim.pairs)


def judged(claim: Claim, low: float | None, high: float | None) -> str:
    """Does the interval lie on the claimed side of 0?"""
    if low is None:
        return "cannot be said"
    if low <= 0 <= high:
        return "undecided"
    return "agrees" if (low > 0) == (claim.sign > 0) else "disagrees"


def judge(predictions: Sequence[Mapping[Cell, Mapping[str, np.ndarray]]], labels: Mapping[str, np.ndarray],
          paper: Mapping[Cell, Mapping[str, float]]) -> list[dict]:
    """Every claim whose cells are all there, with the paper's own difference, ours, its interval and the verdict.

    predictions: one mapping a seed, cell → task → (n,). labels: task → (n,). paper: cell → task → its score.
    """
    found = []
    scores = [{task: {cell: _score(task, by_task[task], labels[task]) for cell, by_task in seed.items()}
               for task in TASKS} for seed in predictions]
    draws = {task: _draws(task, predictions[0], labels[task]) for task in TASKS} if len(predictions) == 1 else None
    for claim in claims():
        needed = {cell for pair in claim.pairs for side in pair for cell in side}
        if not all(needed <= seed.keys() for seed in predictions):
            continue
        ours = [difference(claim, seed[claim.task]) for seed in scores]
        if draws is None:
            mean, low, high = mean_interval(ours)
        else:
            mean, (low, high) = ours[0], np.nanquantile(difference(claim, draws[claim.task]), (0.025, 0.975)).tolist()
        found.append({"section": claim.section, "claim": claim.text, "task": claim.task, "sign": claim.sign,
                      "pairs": len(claim.pairs), "difference": mean, "low": low, "high": high,
                      "paper": difference(claim, {cell: paper[cell][claim.task] for cell in needed}),
                      "interval": "dev items" if draws else "seeds", "verdict": judged(claim, low, high)})
    return found


def _score(task: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    """An undefined Pearson counts 0, as in the average."""
    return TASKS[task].metric(predictions, labels) or 0.0


def _draws(task: str, cells: Mapping[Cell, Mapping[str, np.ndarray]], labels: np.ndarray) -> dict[Cell, np.ndarray]:
    """cell → (resamples,) scores of bootstrap samples of the dev items; every cell meets the same samples."""
    generator = np.random.default_rng(SEED)
    n = len(labels)
    counts = np.stack([np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]) / n
    if TASKS[task].metric_name == "accuracy":
        return {cell: counts @ (by_task[task] == labels) for cell, by_task in cells.items()}
    return {cell: _resampled_pearson(counts, by_task[task].astype(np.float64), labels.astype(np.float64))
            for cell, by_task in cells.items()}


def _resampled_pearson(shares: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation weighted by each row of shares (resamples, n); 0 where a side is constant."""
    x, y = x - x.mean(), y - y.mean()  # else the differences of sums below would cancel
    mean_x, mean_y = shares @ x, shares @ y
    variances = (shares @ x**2 - mean_x**2) * (shares @ y**2 - mean_y**2)
    covariance = shares @ (x * y) - mean_x * mean_y
    return np.divide(covariance, np.sqrt(np.maximum(variances, 0)), out=np.zeros(len(shares)),
                     where=variances > 1e-20)
