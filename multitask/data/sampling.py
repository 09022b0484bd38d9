"""The two round robins of the paper, section 4.3.2: which examples of each task make up a step.

`wrap`: the same batch size for every task; an epoch is one pass over the largest set, the shorter ones start anew,
in a new order, whenever they are used up.
`bd` (batches of different size): n · b_t ≈ l_t (Eq. 6), so that all sets are used up together after n steps.

Eq. 7 multiplies each *summed* loss by b_min / b_t. That is b_min times the *mean* loss, and b_min is common to all
tasks; so both schemes take each task's mean loss, and nothing is left to rescale. tests/lessons/test_09_round_robins.py
shows the equality.

Where the tasks do not meet in a step's gradient, in the stages on MultiNLI and on the final layers, `once` does: every
set is passed over once an epoch, and a task with nothing left sits out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from multitask.system.state import check_like, set_generator

WRAP, BATCH_DIFFERENT = "wrap", "bd"
ROUND_ROBINS = (WRAP, BATCH_DIFFERENT)
ONCE = "once"
LARGEST_BATCH = 24  # the paper's batch of Quora under bd; the other sizes follow from Eq. 6


def batch_different_sizes(lengths: Mapping[str, int]) -> dict[str, int]:
    """Eq. 6: n = ⌊l_max / 24⌋ steps an epoch and b_t = max(1, ⌊l_t / n⌋).

    >>> batch_different_sizes({"sst": 8544, "para": 141498, "sts": 6040})
    {'sst': 1, 'para': 24, 'sts': 1}
    """
    steps = max(1, max(lengths.values()) // LARGEST_BATCH)
    return {name: max(1, length // steps) for name, length in lengths.items()}


class RoundRobin:
    """Yields, step after step, one batch of indices for each task.

    lengths: task → number of examples. batch_sizes: task → examples a step. scheme: `wrap`, `bd` or `once`.
    seed: of the sampler's own generator. `state_dict` and `load_state_dict` go on exactly where it stood.
    """

    def __init__(self, lengths: Mapping[str, int], batch_sizes: Mapping[str, int], scheme: str, seed: int) -> None:
        if scheme not in (*ROUND_ROBINS, ONCE):
            raise ValueError(f"scheme is {scheme!r}; choose from {', '.join((*ROUND_ROBINS, ONCE))}")
        if set(batch_sizes) != set(lengths):
            raise ValueError(f"batch sizes for {sorted(batch_sizes)}, but the tasks are {sorted(lengths)}")
        for name, size in batch_sizes.items():
            if size < 1 or lengths[name] < 1:
                raise ValueError(f"{name}: batch size {size} of {lengths[name]} examples; both must be at least 1")
        self.lengths, self.batch_sizes, self.scheme = dict(lengths), dict(batch_sizes), scheme
        self.largest = max(self.lengths, key=self.lengths.__getitem__)
        self.generator = torch.Generator().manual_seed(seed)
        self.orders = {name: self._shuffle(name) for name in self.lengths}
        self.positions = dict.fromkeys(self.lengths, 0)

    @property
    def steps_per_epoch(self) -> int:
        """wrap: as many as one pass over the largest set takes. bd: as many as the largest set has whole batches.
        once: as many as the longest pass takes."""
        if self.scheme == ONCE:
            return max(math.ceil(length / self.batch_sizes[name]) for name, length in self.lengths.items())
        batches = self.lengths[self.largest] / self.batch_sizes[self.largest]
        return math.ceil(batches) if self.scheme == WRAP else max(1, math.floor(batches))

    def start_epoch(self) -> None:
        """wrap: a new pass over the largest set. bd, once: every set is reshuffled."""
        for name in self.lengths:
            if self.scheme != WRAP or name == self.largest:
                self._restart(name)

    def next_step(self) -> dict[str, list[int]]:
        """task → indices of its next batch; under `once` without the tasks whose pass is over."""
        batches = {name: self._next_batch(name) for name in self.lengths}
        return {name: batch for name, batch in batches.items() if batch}

    def _next_batch(self, name: str) -> list[int]:
        """The next examples of a task's order; at its end a new order begins, and the batch stays full.

        Only where a set is passed over once, the largest under `wrap` and each under `once`, is the last batch
        of an epoch smaller: what is left of the pass.
        """
        batch: list[int] = []
        while len(batch) < self.batch_sizes[name]:
            if self.positions[name] == self.lengths[name]:
                if self.scheme == ONCE or (batch and self.scheme == WRAP and name == self.largest):
                    break
                self._restart(name)
            start = self.positions[name]
            stop = min(self.lengths[name], start + self.batch_sizes[name] - len(batch))
            batch += self.orders[name][start:stop].tolist()
            self.positions[name] = stop
        return batch

    def _restart(self, name: str) -> None:
        self.orders[name] = self._shuffle(name)
        self.positions[name] = 0

    def _shuffle(self, name: str) -> torch.Tensor:
        return torch.randperm(self.lengths[name], generator=self.generator)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors by name: the generator, and each task's order and position."""
        state = {"generator": self.generator.get_state()}
        for name in self.lengths:
            state[f"order.{name}"] = self.orders[name]
            state[f"position.{name}"] = torch.tensor(self.positions[name])
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError if the state belongs to other data, or is none."""
        for name, length in self.lengths.items():
            if f"order.{name}" not in state or len(state[f"order.{name}"]) != length:
                raise ValueError(f"the saved order of {name} does not fit its {length} examples: the data have changed")
        check_like(state, self.state_dict())
        for name, length in self.lengths.items():
            if not torch.equal(state[f"order.{name}"].sort().values, torch.arange(length)):
                raise ValueError(f"the saved order of {name} does not hold each of its {length} examples once")
            if not 0 <= state[f"position.{name}"] <= length:
                raise ValueError(f"the saved position of {name} is {int(state[f'position.{name}'])}, expected 0 to "
                                 f"{length}")
        set_generator(self.generator, state["generator"])
        self.orders = {name: state[f"order.{name}"].clone() for name in self.lengths}
        self.positions = {name: int(state[f"position.{name}"]) for name in self.lengths}
