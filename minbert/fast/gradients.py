"""Where backward puts gradients: straight into buffers, and for looked-up embeddings as rows."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .packing import Packing

_current = threading.local()


@dataclass(frozen=True)
class GradBuffers:
    """Tensors that gradients are added to, instead of being given to autograd.

    Attributes:
        buffers: parameter → tensor of its shape, one mapping per part of the row.
        sequences: how many sequences of the row belong to each part; None if there is one part.
    """

    buffers: Sequence[Mapping[nn.Parameter, torch.Tensor]] = ({},)
    sequences: Sequence[int] | None = None

    def tokens(self, packing: Packing) -> list[int]:
        """How many tokens of the row belong to each part."""
        return [int(lengths.sum()) for lengths in packing.lengths.split(list(self.sequences))]


@contextmanager
def accumulate_into(buffers: Sequence[Mapping[nn.Parameter, torch.Tensor]],
                    sequences: Sequence[int] | None = None) -> Iterator[None]:
    """Inside, backward passes of the layer by hand add to these buffers.

    A parameter that is frozen or has a hook is left to autograd, which looks at such things but
    sums over all parts. With several parts, therefore, no parameter may have a hook.

    Args:
        buffers, sequences: see GradBuffers.
    """
    before = current_buffers()
    _current.buffers = GradBuffers(buffers, sequences)
    try:
        yield
    finally:
        _current.buffers = before


def current_buffers() -> GradBuffers:
    return getattr(_current, "buffers", GradBuffers())


def has_hook(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


@contextmanager
def sparse_embedding_gradients(module: nn.Module) -> Iterator[None]:
    """For lookups made inside, on a CPU, backward gives only the rows that were looked up.

    They are added to a dense gradient where there is one, and form a sparse gradient elsewhere.
    """
    tables = [part for part in module.modules()
              if isinstance(part, nn.Embedding) and part.weight.device.type == "cpu"]
    before = [table.sparse for table in tables]
    for table in tables:
        table.sparse = True

    try:
        yield
    finally:
        for table, sparse in zip(tables, before, strict=True):
            table.sparse = sparse
