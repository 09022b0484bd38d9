"""Which examples of each task make up a step: the paper's round robins (section 4.3.2) and others.

`wrap`: the same batch size for every task. An epoch is one pass over the largest dataset; smaller
datasets are reshuffled and restarted when exhausted. `bd` (batches of different size): n · b_t ≈
l_t (Eq. 6), so that all datasets are exhausted together after n steps.

Eq. 7 multiplies each *summed* loss by b_min / b_t. That is b_min times the *mean* loss, and b_min
is common to all tasks. So both schemes take each task's mean loss and rescale nothing;
tests/lessons/test_09_round_robins.py shows the equality.

`anneal` is no round robin: a step is a batch of one task, drawn with p_t ∝ l_t^α. α falls from 1 to
0.2 over the training, so that small datasets come up more often towards its end (Stickland and
Murray 2019, arXiv 1902.02671; there it falls from epoch to epoch, here from step to step).

`once` is for stages in which the tasks share no gradient, on MultiNLI and on the final layers. An
epoch passes over every dataset once; a task with nothing left sits out.
"""

import math
from collections.abc import Mapping

import torch

from multitask.system.state import check_like

WRAP, BATCH_DIFFERENT = "wrap", "bd"
ROUND_ROBINS = (WRAP, BATCH_DIFFERENT)
ANNEAL, ONCE = "anneal", "once"
LARGEST_BATCH = 24  # the paper's batch of Quora under bd; the other sizes follow from Eq. 6


def batch_different_sizes(lengths: Mapping[str, int]) -> dict[str, int]:
    """Eq. 6: n = ⌊l_max / 24⌋ steps per epoch and b_t = max(1, ⌊l_t / n⌋).

    Args:
        lengths: task → number of examples.

    >>> batch_different_sizes({"sst": 8544, "para": 141498, "sts": 6040})
    {'sst': 1, 'para': 24, 'sts': 1}
    """
    steps = max(1, max(lengths.values()) // LARGEST_BATCH)
    return {name: max(1, length // steps) for name, length in lengths.items()}


def annealed_shares(lengths: Mapping[str, int], done: float) -> list[float]:
    """p_t ∝ l_t^α with α = 1 − 0.8 · done: each task's share of the steps.

    Args:
        lengths: task → number of examples.
        done: the share of the training that is over, from 0 to 1.

    >>> annealed_shares({"sst": 100, "para": 900}, done=0)
    [0.1, 0.9]
    """
    powers = [length ** (1 - 0.8 * done) for length in lengths.values()]
    return [power / sum(powers) for power in powers]


class RoundRobin:
    """Yields, step after step, one batch of indices for each task; `anneal` for one task.

    Args:
        lengths: task → number of examples.
        batch_sizes: task → examples per step, at least 1.
        scheme: `wrap`, `bd`, `anneal` or `once`.
        seed: of the sampler's own generator.

    Raises:
        ValueError: a task has no examples, or there is no such scheme.
    """

    def __init__(self, lengths: Mapping[str, int], batch_sizes: Mapping[str, int], scheme: str,
                 seed: int) -> None:
        if scheme not in (*ROUND_ROBINS, ANNEAL, ONCE):
            raise ValueError(f"scheme is {scheme!r}; choose from {', '.join(ROUND_ROBINS)}, "
                             f"{ANNEAL}, {ONCE}")
        for name, length in lengths.items():
            if length < 1:
                raise ValueError(f"{name} has no examples")

        self.lengths, self.batch_sizes, self.scheme = dict(lengths), dict(batch_sizes), scheme
        self.largest = max(self.lengths, key=self.lengths.__getitem__)
        self.generator = torch.Generator().manual_seed(seed)
        self.orders = {name: self._shuffle(name) for name in self.lengths}
        self.positions = dict.fromkeys(self.lengths, 0)

    @property
    def steps_per_epoch(self) -> int:
        """wrap: a pass over the largest dataset. bd: its whole batches. once: the longest pass.
        anneal: as many examples as there are.
        """
        if self.scheme in (ANNEAL, ONCE):
            passes = [math.ceil(length / self.batch_sizes[name])
                      for name, length in self.lengths.items()]
            return sum(passes) if self.scheme == ANNEAL else max(passes)

        batches = self.lengths[self.largest] / self.batch_sizes[self.largest]
        return math.ceil(batches) if self.scheme == WRAP else max(1, math.floor(batches))

    def start_epoch(self) -> None:
        """wrap: restarts the largest dataset. bd, once: restarts all; anneal: none.

        A restart reshuffles.
        """
        restarted = {WRAP: [self.largest], ANNEAL: []}
        for name in restarted.get(self.scheme, self.lengths):
            self._restart(name)

    def next_step(self, done: float = 0.0) -> dict[str, list[int]]:
        """task → indices of its next batch; with `once`, tasks whose pass is over are left out.

        Args:
            done: the share of the training that is over; only `anneal` asks for it.
        """
        names = list(self.lengths)
        if self.scheme == ANNEAL:
            shares = torch.tensor(annealed_shares(self.lengths, done), device="cpu")
            names = [names[torch.multinomial(shares, 1, generator=self.generator).item()]]
        batches = {name: self._next_batch(name) for name in names}
        return {name: batch for name, batch in batches.items() if batch}

    def _next_batch(self, name: str) -> list[int]:
        """The next examples in a task's order; at its end a new order begins.

        Only the last batch of a pass is smaller: of the largest dataset with `wrap`, of each with
        `once`.
        """
        batch: list[int] = []
        is_one_pass = self.scheme == WRAP and name == self.largest
        while len(batch) < self.batch_sizes[name]:
            if self.positions[name] == self.lengths[name]:
                if self.scheme == ONCE or (batch and is_one_pass):
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
        return torch.randperm(self.lengths[name], generator=self.generator, device="cpu")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors by name: the generator, and each task's order and position."""
        state = {"generator": self.generator.get_state()}
        for name in self.lengths:
            state[f"order.{name}"] = self.orders[name]
            state[f"position.{name}"] = torch.tensor(self.positions[name])
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continues from a `state_dict`. Raises ValueError if it belongs to other data."""
        check_like(state, self.state_dict())
        self.generator.set_state(state["generator"])
        self.orders = {name: state[f"order.{name}"].clone() for name in self.lengths}
        self.positions = {name: int(state[f"position.{name}"]) for name in self.lengths}
