"""A task's forward and backward as a CUDA graph: its kernels are launched once by hand, then repeated by the GPU alone.

A step of a small BERT is some two thousand kernels of a few microseconds each, and a processor takes longer to launch
one than the GPU to run it. A graph holds for one shape only, so the row of tokens is filled up to the next of a few
lengths by more sentences, which nobody asks about (`Batch.in_few_shapes`); tests/speed/test_accelerator.py shows that nothing
else changes. All graphs take their memory from one pool: what one has left there is the next one's to write on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from multitask.data.batching import Batch, Pieces, rounded

LIMIT = 64  # graphs kept; a batch of yet another shape is launched by hand

Work = Callable[[], torch.Tensor]
Replay = Callable[[], None]


def captured(work: Work, pool: object) -> tuple[torch.Tensor, Replay]:
    """What `work` returns on the GPU, and what does the work again, to the same tensors.

    Random numbers are drawn as if the work had not been done before. Raises RuntimeError for work that waits for the
    GPU, or does anything else that a graph cannot hold.
    """
    random = torch.cuda.get_rng_state()
    side = torch.cuda.Stream()  # what libraries set up at their first call must not be captured
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_rng_state(random)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = work()
    return result, graph.replay


@dataclass(frozen=True)
class _Captured:
    """batch: where the next one's numbers go. loss, gradients: where they stand after a replay, the head's, until
    another graph is replayed."""

    batch: Batch
    replay: Replay
    loss: torch.Tensor
    gradients: list[torch.Tensor]


class BackwardGraphs:
    """`backward` for a whole batch of one task, captured for each shape of batch that comes up.

    The encoder must take sentences of LEAST tokens.
    """

    def __init__(self, backward: Callable[[int, str, Pieces], torch.Tensor], heads: nn.ModuleDict,
                 capture: Callable[[Work, object], tuple[torch.Tensor, Replay]] = captured) -> None:
        """backward: (row of the gradient matrix, task, pieces) → loss, on the GPU, without waiting for it. It adds to
        the gradients of `heads`, which have none before it. capture: `captured`, or in a test what stands for it."""
        self._backward, self._heads, self._capture = backward, heads, capture
        self._device = next(heads.parameters()).device
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None  # one graph runs at a time
        self.captured: dict[tuple, _Captured] = {}
        self._works = True

    def __call__(self, row: int, name: str, piece: Batch, examples: int) -> torch.Tensor:
        """What `backward` does, and returns."""
        tokens, longest = rounded(len(piece.input_ids)), rounded(piece.packing.seq)
        key = row, name, len(piece.labels), examples, tokens, longest
        if key not in self.captured and not (self._works and len(self.captured) < LIMIT):
            return self._backward(row, name, Pieces([piece], examples))
        filled = piece.in_few_shapes(longest)
        if key not in self.captured:
            try:
                self.captured[key] = self._made(row, name, filled.to(self._device), examples)
            except RuntimeError as error:
                self._works = False
                warnings.warn(f"no CUDA graph of a step could be made ({error}): kernels are launched one by one, "
                              "which is slower", stacklevel=2)
                self._heads[name].zero_grad(set_to_none=True)
                return self._backward(row, name, Pieces([piece], examples))
        made = self.captured[key]
        made.batch.copy_(filled)
        made.replay()
        for parameter, gradient in zip(self._heads[name].parameters(), made.gradients, strict=True):
            parameter.grad = gradient.clone()
        return made.loss.clone()

    def _made(self, row: int, name: str, batch: Batch, examples: int) -> _Captured:
        head, pieces = self._heads[name], Pieces([batch], examples)

        def work() -> torch.Tensor:
            head.zero_grad(set_to_none=True)  # so that backward makes tensors of its own, which stay where they are
            return self._backward(row, name, pieces)

        loss, replay = self._capture(work, self._pool)
        return _Captured(batch, replay, loss, [parameter.grad for parameter in head.parameters()])
