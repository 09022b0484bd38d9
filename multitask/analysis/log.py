"""What a run's log says: speed, and how often the tasks' gradients conflict."""

import itertools
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import torch

WARM_UP_STEPS = 5  # left out of timings: caches fill, memory is first touched


def pairs_of(tasks: Iterable[str]) -> list[str]:
    """The pairs of tasks by name, in the order of `upper_triangle`.

    >>> pairs_of(["sst", "para", "sts"])
    ['sst-para', 'sst-sts', 'para-sts']
    """
    return [f"{a}-{b}" for a, b in itertools.combinations(tasks, 2)]


def upper_triangle(table: torch.Tensor) -> list[float]:
    """What stands above the diagonal of a (tasks, tasks) table, row by row: one number a pair.

    >>> upper_triangle(torch.arange(9.0).view(3, 3))
    [1.0, 2.0, 5.0]
    """
    rows, columns = torch.triu_indices(*table.shape, offset=1)
    return table[rows, columns].tolist()


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
    cosines = {pair: np.array([step["cosines"][pair] for step in steps])
               for pair in steps[0]["cosines"]}
    return {
        "conflict_rate": {pair: float(np.mean(values < 0)) for pair, values in cosines.items()},
        "mean_cosine": {pair: float(np.mean(values)) for pair, values in cosines.items()},
        "mean_weights": {name: float(np.mean([step["weights"][name] for step in steps]))
                         for name in steps[0]["weights"]},
    }


def moving_average(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of the last `window` values, of fewer at the start; (n,) → (n,)."""
    total = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    stop = np.arange(1, len(total))
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)
