"""The paper's sections 5.4 to 5.6 as differences between cells of Table 1, with intervals.

A claim is a difference averaged over pairs of cells that differ in one thing, such as ConcatB −
ConcatA over all ten methods. A claim about every pair stands or falls with the one that is least
favourable to it. With one seed, the interval is a bootstrap over dev items, the same for every
cell. It shows how the difference would move with other items, not with another seed. With several
seeds, it is Student's t interval over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multitask.analysis.comparisons import mean_interval
from multitask.analysis.intervals import LEVEL, bootstrap, percentiles, statistic_of
from multitask.analysis.paper_results import ARCHITECTURES, PAPER_CELLS
from multitask.tasks import TASKS

RESAMPLES, SEED = 1000, 11711
Cell = tuple[str, str]  # (method, architecture)
Pairs = list[tuple[Cell, Cell]]
Ends = tuple[float | None, float | None]  # of an interval; None where there is no spread
SURGERY_CHAINS = ("gs_bd", "gs_wrap", "nli+gs_bd", "nli+gs_wrap")
CHAINS = (*SURGERY_CHAINS, "fl", "nli+fl", *(f"{chain}+fl" for chain in SURGERY_CHAINS))


@dataclass(frozen=True)
class Claim:
    """The paper's statement: left cells score higher (sign +1) or lower (−1) than right ones.

    Args:
        tasks: each is judged by itself.
        of_every: whether it says so of every pair; else of their mean.
    """

    section: str
    text: str
    tasks: Sequence[str]
    sign: int
    pairs: Pairs
    of_every: bool = False


def architecture_pairs(left: str, right: str) -> Pairs:
    """Every method in two architectures."""
    return [((chain, left), (chain, right)) for chain in CHAINS]


def method_pairs(methods: Mapping[str, str], among: Sequence[str] = ARCHITECTURES) -> Pairs:
    """Pairs of methods, left → right, in each architecture."""
    pairs = []
    for left, right in methods.items():
        pairs += [((left, arch), (right, arch)) for arch in among]
    return pairs


# left → right
NLI_AGAINST_NONE = {f"nli+{chain}": chain
                    for chain in ("gs_bd", "gs_wrap", "fl", "gs_bd+fl", "gs_wrap+fl")}
WRAP_AGAINST_BD = {chain: chain.replace("gs_wrap", "gs_bd") for chain in CHAINS
                   if "gs_wrap" in chain}
SURGERY_AGAINST_FL = {chain: "nli+fl" if "nli" in chain else "fl" for chain in SURGERY_CHAINS}
FL_AFTER_SURGERY = {f"{chain}+fl": chain for chain in SURGERY_CHAINS}
ALL_AGAINST_BASELINE: Pairs = [((chain, arch), ("baseline", "concatA"))
                               for chain in CHAINS for arch in ARCHITECTURES]
FL_AGAINST_OTHERS: Pairs = [(("fl", arch), (chain, arch))
                            for chain in CHAINS if chain != "fl" for arch in ARCHITECTURES]
PAIR_TASKS, ALL_TASKS = ("para", "sts"), tuple(TASKS)

# in the paper's order
CLAIMS = (
    Claim("5.4", "every experiment outperforms the baseline", ALL_TASKS, +1,
          ALL_AGAINST_BASELINE, of_every=True),
    Claim("5.5", "ConcatB is far better than ConcatA on pairs", PAIR_TASKS, +1,
          architecture_pairs("concatB", "concatA")),
    Claim("5.5", "ConcatB costs SST", ("sst",), -1, architecture_pairs("concatB", "concatA")),
    Claim("5.5", "additional layers (AL) help", ALL_TASKS, +1,
          architecture_pairs("concatB_al", "concatB")),
    Claim("5.6", "MultiNLI helps a little", PAIR_TASKS, +1, method_pairs(NLI_AGAINST_NONE)),
    Claim("5.6", "MultiNLI helps SST under ConcatA", ("sst",), +1,
          method_pairs(NLI_AGAINST_NONE, ["concatA"])),
    Claim("5.6", "MultiNLI lowers SST under ConcatB", ("sst",), -1,
          method_pairs(NLI_AGAINST_NONE, ["concatB", "concatB_al"])),
    Claim("5.6", "gradient surgery is far better than final layers alone", ALL_TASKS, +1,
          method_pairs(SURGERY_AGAINST_FL)),
    Claim("5.6", "GS_w is worse than GS_bd on STS", ("sts",), -1, method_pairs(WRAP_AGAINST_BD)),
    Claim("5.6", "GS_w is better than GS_bd on PARA", ("para",), +1, method_pairs(WRAP_AGAINST_BD)),
    Claim("5.6", "final layers after surgery help a little", ALL_TASKS, +1,
          method_pairs(FL_AFTER_SURGERY)),
    Claim("5.6", "final layers alone are worse than every other experiment", ALL_TASKS, -1,
          FL_AGAINST_OTHERS, of_every=True),
)


# ------------------------------------------------------------------------------------- differences


def differences(claim: Claim, scores: Mapping[Cell, float | np.ndarray]) -> np.ndarray:
    """Left − right, (pairs,); or (pairs, n) of n scores per cell."""
    return np.array([scores[left] - scores[right] for left, right in claim.pairs])


def summary(claim: Claim, by_pair: np.ndarray) -> float:
    """(pairs,) → the claim's difference: their mean, or the one least favourable to it."""
    return float(claim.sign * (claim.sign * by_pair).min() if claim.of_every else by_pair.mean())


def interval_of(claim: Claim, samples: np.ndarray,
                ends: Callable[[np.ndarray, float], Ends]) -> Ends:
    """The 95 % interval of the claim's difference.

    The least of many estimates is too low by chance. So the end that can speak against a claim
    about every pair is corrected for their number (Bonferroni). The other end needs no correction,
    since every single pair must agree (intersection–union test, Berger 1982).

    Args:
        samples: (pairs, n), the differences with other seeds or dev items.
        ends: (n,), level → the interval of one difference.
    """
    if not claim.of_every:
        return ends(samples.mean(0), LEVEL)

    strict = 1 - (1 - LEVEL) / len(samples)
    lows, highs, spreads = [], [], False
    for row in claim.sign * samples:
        (low, _), (_, high) = ends(row, LEVEL), ends(row, strict)
        spreads = spreads or low is not None
        lows.append(row.mean() if low is None else low)  # two seeds may agree on a single pair
        highs.append(row.mean() if high is None else high)
    if not spreads:
        return None, None
    low, high = sorted((claim.sign * float(min(lows)), claim.sign * float(min(highs))))
    return low, high


def verdict_on(claim: Claim, low: float | None, high: float | None) -> str:
    """Which side of 0 the interval lies on: agrees, disagrees, undecided, or no spread."""
    if low is None:
        return "no spread"
    if low <= 0 <= high:
        return "undecided"
    return "agrees" if (low > 0) == (claim.sign > 0) else "disagrees"


def judge(predictions: Sequence[Mapping[Cell, Mapping[str, np.ndarray]]],
          labels: Mapping[str, np.ndarray]) -> list[dict]:
    """Every claim, task by task: the paper's difference, ours, interval and verdict.

    Args:
        predictions: for each seed, cell → task → (n,); the cells of PAPER_CELLS.
        labels: task → (n,).
    """
    paper = {task: {cell: of_tasks[task] for cell, of_tasks in PAPER_CELLS.items()}
             for task in TASKS}
    scores = {task: _scores(task, predictions, labels[task]) for task in TASKS}
    samples, ends, chance = scores, _over_seeds, "seeds"
    if len(predictions) == 1:
        samples = {task: _draws(task, predictions[0], labels[task]) for task in TASKS}
        ends, chance = percentiles, "dev items"

    found = []
    for claim in CLAIMS:
        for task in claim.tasks:
            low, high = interval_of(claim, differences(claim, samples[task]), ends)
            found.append({
                "section": claim.section, "claim": claim.text, "task": task, "sign": claim.sign,
                "pairs": len(claim.pairs),
                "difference": summary(claim, differences(claim, scores[task]).mean(1)),
                "low": low, "high": high,
                "paper": summary(claim, differences(claim, paper[task])),
                "interval": chance, "verdict": verdict_on(claim, low, high)})
    return found


def _over_seeds(values: np.ndarray, level: float) -> Ends:
    return mean_interval(values, level)[1:]


def _scores(task: str, predictions: Sequence[Mapping[Cell, Mapping[str, np.ndarray]]],
            labels: np.ndarray) -> dict[Cell, np.ndarray]:
    """Cell → (seeds,); an undefined correlation counts 0, as in the average."""
    score = TASKS[task].score
    return {cell: np.array([score(seed[cell][task], labels) or 0.0 for seed in predictions])
            for cell in predictions[0]}


def _draws(task: str, cells: Mapping[Cell, Mapping[str, np.ndarray]],
           labels: np.ndarray) -> dict[Cell, np.ndarray]:
    """Cell → (resamples,) scores; every cell is scored on the same bootstrap samples."""
    found: dict[Cell, np.ndarray] = {}
    for cell, by_task in cells.items():
        draws = bootstrap(statistic_of(TASKS[task].measure), (by_task[task], labels), RESAMPLES,
                          np.random.default_rng(SEED))
        found[cell] = np.nan_to_num(draws)  # an undefined correlation counts 0
    return found
