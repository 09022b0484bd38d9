"""Where backward puts gradients: straight into buffers, and for looked-up embeddings as rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

Buffers = Sequence[Mapping[nn.Parameter, torch.Tensor]]
# What `accumulate_into` was given, in this thread; otherwise one part without buffers.
current_buffers: ContextVar[tuple[Buffers, Sequence[int] | None]] = ContextVar(
    "current_buffers", default=(({},), None))


@contextmanager
def accumulate_into(buffers: Buffers, sequences: Sequence[int] | None = None) -> Iterator[None]:
    """Inside, backward passes of the layer by hand add to these buffers, not to autograd's.

    A parameter that is frozen or has a hook is left to autograd, which handles both but sums over
    all parts. With several parts, therefore, no parameter may have a hook.

    Args:
        buffers: parameter → tensor of its shape, one mapping per part of the row.
        sequences: how many sequences of the row belong to each part; None if there is one part.
    """
    token = current_buffers.set((buffers, sequences))
    try:
        yield
    finally:
        current_buffers.reset(token)


def has_hook(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def can_be_sparse(part: nn.Module) -> bool:
    """Whether it is an embedding whose gradient may be just the rows that were looked up."""
    return (type(part) is nn.Embedding and part.weight.device.type == "cpu"
            and not part.scale_grad_by_freq and not has_hook(part.weight))


@contextmanager
def sparse_embedding_gradients(module: nn.Module) -> Iterator[None]:
    """For lookups made inside, on a CPU, backward gives only the rows that were looked up.

    They are added to a dense gradient where there is one, and form a sparse gradient elsewhere.
    """
    tables = [part for part in module.modules() if can_be_sparse(part)]
    before = [table.sparse for table in tables]
    for table in tables:
        table.sparse = True

    try:
        yield
    finally:
        for table, sparse in zip(tables, before, strict=True):
            table.sparse = sparse
