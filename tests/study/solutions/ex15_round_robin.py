from collections.abc import Callable, Iterator, Mapping
from itertools import islice

LARGEST_BATCH = 24


def endless(name, shuffle):
    while True:
        yield from shuffle(name)


def wrap(lengths: Mapping[str, int], batch_size: int,
         shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:
    largest = max(lengths, key=lambda name: lengths[name])
    examples = {name: endless(name, shuffle) for name in lengths}
    for start in range(0, lengths[largest], batch_size):
        step = {}
        for name in lengths:
            size = batch_size
            if name == largest:
                size = min(batch_size, lengths[largest] - start)
            step[name] = list(islice(examples[name], size))
        yield step


def number_of_steps(lengths):
    return max(1, max(lengths.values()) // LARGEST_BATCH)


def batch_different_sizes(lengths: Mapping[str, int]) -> dict[str, int]:
    n = number_of_steps(lengths)
    return {name: max(1, length // n) for name, length in lengths.items()}


def bd(lengths: Mapping[str, int],
       shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:
    sizes = batch_different_sizes(lengths)
    examples = {name: endless(name, shuffle) for name in lengths}
    for _ in range(number_of_steps(lengths)):
        yield {name: list(islice(examples[name], sizes[name])) for name in lengths}
