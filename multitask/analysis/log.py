"""What a run's log says: speed, and how often the tasks' gradients conflict."""

import itertools
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from optim import cosines

WARM_UP_STEPS = 5  # left out of timings: caches fill, memory is first touched


def cosines_by_pair(tasks: Iterable[str], gram: torch.Tensor) -> dict[str, float]:
    """Pair of tasks → cosine of their gradients, from their Gram matrix (tasks, tasks).

    >>> cosines_by_pair(["sst", "para"], torch.tensor([[4.0, -1.0], [-1.0, 1.0]]))
    {'sst-para': -0.5}
    """
    table = cosines(gram).tolist()
    return {f"{a}-{b}": table[i][j]
            for (i, a), (j, b) in itertools.combinations(enumerate(tasks), 2)}


def speed(steps: Sequence[dict]) -> float:
    """Examples per second: per step, all tasks ÷ the median time, without the first 5 steps.

    0 if every step was skipped.
    """
    if not steps:
        return 0.0
    timed = steps[WARM_UP_STEPS:] or steps
    return max(step["examples"] for step in timed) / statistics.median(step["seconds"]
                                                                       for step in timed)


def conflict_statistics(steps: Sequence[dict]) -> dict:
    """By pair conflict_rate (share of steps with cosine < 0), mean_cosine; by task mean_weights."""
    by_pair = {pair: np.array([step["cosines"][pair] for step in steps])
               for pair in steps[0]["cosines"]}
    return {
        "conflict_rate": {pair: float(np.mean(values < 0)) for pair, values in by_pair.items()},
        "mean_cosine": {pair: float(np.mean(values)) for pair, values in by_pair.items()},
        "mean_weights": {name: float(np.mean([step["weights"][name] for step in steps]))
                         for name in steps[0]["weights"]},
    }


def moving_average(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of the last `window` values, of fewer at the start; (n,) → (n,)."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    stop = np.arange(1, len(total))
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)
