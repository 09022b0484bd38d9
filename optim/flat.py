"""Parameters as views of one vector, and the tasks' gradients as rows of one matrix.

Gradient surgery treats a task's gradient as one vector in R^params. Here it is one, in memory: every parameter of
the shared encoder is a view of `FlatParameters.vector`, and while task t runs backward, every parameter's `.grad`
is a view of row t of `TaskGradients.matrix`. Nothing is ever concatenated or copied back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def split_decayed(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Named parameters in two groups: those that weight decay is for, and biases and LayerNorm, which it is not.

    The rule of Devlin et al.'s own code, said by shape: LayerNorm's scales and all biases are the vectors.
    """
    named = dict(module.named_parameters())
    decayed = {name: value for name, value in named.items() if value.dim() >= 2}
    return decayed, {name: value for name, value in named.items() if name not in decayed}


class FlatParameters:
    """Moves parameters into one contiguous vector and leaves each a view of its own part of it.

    >>> linear = nn.Linear(2, 1)
    >>> flat = FlatParameters(linear.named_parameters())
    >>> flat.vector.zero_() is flat.vector, linear.bias.item()
    (True, 0.0)

    vector: (params,), in the order given. The module trains, saves and loads as before.
    Raises ValueError if there are no parameters, one occurs twice, or dtypes or devices differ.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(named_parameters)
        values = list(self.parameters.values())
        if not values:
            raise ValueError("FlatParameters: no parameters were given")
        if len({id(value) for value in values}) != len(values):
            raise ValueError("FlatParameters: a parameter was given twice; name tied weights once")
        kinds = {(value.dtype, value.device) for value in values}
        if len(kinds) > 1:
            raise ValueError(f"FlatParameters: one dtype and device expected, got {sorted(map(str, kinds))}")
        self.vector = torch.cat([value.detach().flatten() for value in values])
        for value, view in zip(values, self.views(self.vector), strict=True):
            value.data = view

    def views(self, vector: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cuts a (params,) vector into views of the parameters' shapes, in order."""
        start = 0
        for value in self.parameters.values():
            yield vector[start:start + value.numel()].view_as(value)
            start += value.numel()


class TaskGradients:
    """The (tasks, params) matrix that backward fills row by row.

    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> gradients = TaskGradients(FlatParameters([("weight", weight)]), tasks=2)
    >>> for task, target in enumerate([3.0, 5.0]):
    ...     with gradients.row(task):
    ...         (weight * target).sum().backward()
    >>> gradients.matrix.tolist()
    [[3.0, 3.0], [5.0, 5.0]]
    """

    def __init__(self, flat: FlatParameters, tasks: int) -> None:
        self.flat = flat
        self.matrix = flat.vector.new_zeros(tasks, flat.vector.numel())
        self._views = [list(flat.views(row)) for row in self.matrix]

    @contextmanager
    def row(self, task: int) -> Iterator[torch.Tensor]:
        """Inside, backward accumulates into row `task`, which starts from zero; yields that row, (params,)."""
        self.matrix[task].zero_()
        parameters = self.flat.parameters.values()
        for parameter, view in zip(parameters, self._views[task], strict=True):
            parameter.grad = view
        try:
            yield self.matrix[task]
            for parameter, view in zip(parameters, self._views[task], strict=True):
                assert parameter.grad is view, "backward must add into the row, not replace it"
        finally:
            for parameter in parameters:
                parameter.grad = None
