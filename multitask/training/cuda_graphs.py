"""A task's forward and backward as a CUDA graph: recorded once, replayed by the GPU alone.

A step of a small BERT is some two thousand kernels of a few microseconds each. The processor takes
longer to launch one than the GPU takes to run it. A graph repeats the kernels of the code that it
captured, so an edit of that code takes effect here too. It holds for one shape only: the row of
tokens is filled up to one of a few lengths with dummy sequences, whose outputs are discarded
(`Batch.in_few_shapes`). All graphs share one pool of memory, where the next one overwrites what the
last one left.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from minbert import fast
from minbert.fast.gradients import has_hook
from multitask.data.batching import Batch, MicroBatches, rounded

MOST_CHANGES = 20  # of the model, after each of which graphs are made anew
LIMIT = 64  # graphs kept; a batch of yet another shape is launched by hand


def captured(work: Callable[[], torch.Tensor],
             pool: object) -> tuple[torch.Tensor, Callable[[], None]]:
    """What `work` returns on the GPU, and a function that does it again, to the same tensors.

    Random numbers are drawn as if the work had not been done before. Raises RuntimeError for work
    that waits for the GPU, or does anything else that a graph cannot hold.
    """
    # What libraries set up at their first call must not be captured: a first run aside.
    random = torch.cuda.get_rng_state()
    side = torch.cuda.Stream()
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
    """One graph and its tensors.

    batch: where the next batch's numbers go. loss, gradients: where the loss and the head's
    gradients stand after a replay, until another graph is replayed; None for a parameter that has
    no gradient.
    """

    batch: Batch
    replay: Callable[[], None]
    loss: torch.Tensor
    gradients: list[torch.Tensor | None]


class BackwardGraphs:
    """`backward` for a whole batch of one task, captured for each shape of batch that comes up.

    The encoder must have LEAST positions.

    Args:
        backward: (row of the gradient matrix, task, micro-batches) → loss, on the GPU, without
            waiting for it. It adds to the gradients of `heads`, which have none before it.
    """

    def __init__(self, backward: Callable[[int, str, MicroBatches], torch.Tensor],
                 heads: nn.ModuleDict) -> None:
        self._backward, self._heads = backward, heads
        self._device = next(heads.parameters()).device
        self._works = True
        self._made_of: list = []
        self._changes = 0
        self._start_anew()

    def _start_anew(self) -> None:
        """Without graphs, and with a new pool: CUDA takes no more graphs into an emptied one."""
        is_cuda = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if is_cuda else None  # one graph runs at a time
        self.captured: dict[tuple, _Captured] = {}

    def hold_for(self, model: nn.Module) -> bool:
        """Whether graphs may be used for this model, a MultitaskBert, in this step.

        They are made anew after a change of a part, of a number in one, of a buffer or a task. A
        graph calls no hooks.
        """
        others = model, *self._heads.modules()  # `applies` looks at the encoder
        if not (fast.applies(model.encoder) and all(map(fast.is_unhooked, others))
                and not any(map(has_hook, model.parameters()))):
            return False
        made_of = [model.precision, *model.tasks.values()]
        for part in model.modules():
            numbers = [value for value in vars(part).values()
                       if isinstance(value, (bool, int, float))]
            made_of += [part, *map(id, part._buffers.values()), *numbers]
        if made_of != self._made_of:
            self._start_anew()
            self._made_of = made_of
            self._changes += 1
            if self._changes == MOST_CHANGES:
                warnings.warn("the model changes again and again, a number in one of its parts "
                              "for example: no more CUDA graphs, which is slower", stacklevel=2)
        return self._changes < MOST_CHANGES

    def __call__(self, row: int, name: str, share: MicroBatches) -> torch.Tensor:
        """What `backward` does and returns, for a share of one batch."""
        [batch] = share.batches
        tokens, longest = rounded(len(batch.input_ids)), rounded(batch.packing.seq)
        key = row, name, len(batch.labels), share.examples, tokens, longest
        if key not in self.captured and not (self._works and len(self.captured) < LIMIT):
            return self._backward(row, name, share)

        filled = batch.in_few_shapes(longest)
        if key not in self.captured:
            try:
                self.captured[key] = self._made(row, name, filled.to(self._device), share.examples)
            except RuntimeError as error:
                self._works = False
                warnings.warn(f"no CUDA graph of a step could be made ({error}): kernels are "
                              "launched one by one, which is slower", stacklevel=2)
                self._heads[name].zero_grad(set_to_none=True)
                return self._backward(row, name, share)

        made = self.captured[key]
        made.batch.copy_(filled)
        made.replay()
        for parameter, gradient in zip(self._heads[name].parameters(), made.gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        return made.loss.clone()

    def _made(self, row: int, name: str, batch: Batch, examples: int) -> _Captured:
        head, share = self._heads[name], MicroBatches([batch], examples)

        def work() -> torch.Tensor:
            head.zero_grad(set_to_none=True)  # so that backward makes its own tensors, which stay
            return self._backward(row, name, share)

        loss, replay = captured(work, self._pool)
        return _Captured(batch, replay, loss, [parameter.grad for parameter in head.parameters()])
