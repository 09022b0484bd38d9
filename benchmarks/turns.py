"""Ways of doing the same work, timed in turn in one process; peak memory. Other benchmarks use it.

A time is a median: of wall seconds, and of the processor's own, which a busy machine changes less.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

Times = dict[str, tuple[float, float]]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) milliseconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Times:
    """Name → (wall, processor) milliseconds, medians.

    Args:
        rounds: that are counted.
        warm_up: rounds before them.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            took = timed(way)
            if number >= warm_up:
                found[name].append(took)

    return {name: tuple(map(statistics.median, zip(*took, strict=True)))
            for name, took in found.items()}


def over(step: Callable, batches: Iterable) -> Callable[[], object]:
    """A way that takes a step on the next batch, each time that it is called."""
    left = iter(batches)
    return lambda: step(next(left))


def peak_megabytes() -> int:
    """The highest resident memory of this process (Linux only).

    getrusage would answer with the parent's peak where that is higher.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024
