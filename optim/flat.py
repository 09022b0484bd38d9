"""Parameters as views of one vector, and the tasks' gradients as rows of one matrix.

Gradient surgery treats a task's gradient as one vector in R^params. Here it is one, in memory: every parameter of
the shared encoder is a view of `FlatParameters.vector`, and what backward finds for task t is added to row t of
`TaskGradients.matrix`: inside `row` every parameter's `.grad` is a view of it, and `views` hands the same views to
whoever adds to them without autograd. Nothing is ever concatenated or copied back.

A table of word embeddings is the exception: half of a small BERT, of which a step looks up a few hundred rows. Its
gradient can be kept as those rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .surgery import combine, gram_matrix


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
    """The (tasks, params) matrix that backward fills, a task's gradient in each row.

    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> gradients = TaskGradients(FlatParameters([("weight", weight)]), tasks=2)
    >>> for task, target in enumerate([3.0, 5.0]):
    ...     with gradients.row(task):
    ...         (weight * target).sum().backward()
    >>> gradients.matrix.tolist()
    [[3.0, 3.0], [5.0, 5.0]]

    table: the name of flat's first parameter, if that is an embedding whose gradient backward leaves sparse
    (torch.nn.Embedding's sparse=True). The matrix is then without its columns, and a task's gradient of it is as many
    rows as were looked up; `gram` and `combine_` are the same as ever. Where rows of the matrix must have one layout
    in several processes, as for an all-reduce, leave it out. Raises ValueError for another parameter than the first.
    """

    def __init__(self, flat: FlatParameters, tasks: int, table: str | None = None) -> None:
        first, *rest = flat.parameters
        if table not in (None, first):
            raise ValueError(f"TaskGradients: the table must be flat's first parameter, {first}, got {table}")
        self.table = flat.parameters[first] if table else None
        self._dense = [flat.parameters[name] for name in (rest if table else flat.parameters)]
        sizes = [value.numel() for value in self._dense]
        self.matrix = flat.vector.new_zeros(tasks, sum(sizes))
        self._views = [[part.view_as(value) for value, part in zip(self._dense, row.split(sizes), strict=True)]
                       for row in self.matrix]
        self._table_gradients: list[torch.Tensor | None] = [None] * tasks

    def views(self, task: int) -> dict[nn.Parameter, torch.Tensor]:
        """Parameter → its part of row `task`; the table is not among them."""
        return dict(zip(self._dense, self._views[task], strict=True))

    @contextmanager
    def row(self, task: int) -> Iterator[torch.Tensor]:
        """Inside, backward accumulates into row `task`, which starts from zero; yields that row of the matrix."""
        self.matrix[task].zero_()
        self._table_gradients[task] = None
        with self.adding(task) as row:
            yield row

    @contextmanager
    def adding(self, task: int) -> Iterator[torch.Tensor]:
        """`row` without setting it to zero first: inside, backward adds to what row `task` holds."""
        views = self.views(task)
        for parameter, view in views.items():
            parameter.grad = view
        if self.table is not None:
            self.table.grad = self._table_gradients[task]
        try:
            yield self.matrix[task]
            for parameter, view in views.items():
                assert parameter.grad is view, "backward must add into the row, not replace it"
            if self.table is not None:
                self._table_gradients[task] = _coalesced(self.table)
        finally:
            for parameter in (*self._dense, self.table):
                if parameter is not None:
                    parameter.grad = None

    def gram(self) -> torch.Tensor:
        """The Gram matrix of the tasks' whole gradients, (tasks, tasks)."""
        gram = gram_matrix(self.matrix)
        return gram if self.table is None else gram + gram_matrix(self._looked_up()[1].flatten(1))

    def combine_(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Σ_k w_k g_k, in place: the first row of the matrix is overwritten by it, to save a vector.

        Returns that row, and the table's part as a sparse gradient, (rows, hidden); None without a table.
        """
        row = combine(self.matrix, weights, out=self.matrix[0])
        if self.table is None:
            return row, None
        touched, gradients = self._looked_up()
        values = combine(gradients.flatten(1), weights).view_as(gradients[0])
        return row, torch.sparse_coo_tensor(touched[None], values, self.table.shape, is_coalesced=True,
                                            check_invariants=False)

    def _looked_up(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The table's rows that any task looked up, ascending, and their gradients: (n,), (tasks, n, hidden)."""
        rows = [gradient.indices()[0] for gradient in self._table_gradients]
        touched = torch.cat(rows).unique()
        gradients = self.matrix.new_zeros(len(rows), len(touched), *self.table.shape[1:])
        for task, gradient in enumerate(self._table_gradients):
            gradients[task, torch.searchsorted(touched, rows[task])] = gradient.values()
        return touched, gradients


def _coalesced(table: nn.Parameter) -> torch.Tensor:
    """The table's gradient with each row once; of no rows if backward did not reach it."""
    if table.grad is None:
        return torch.sparse_coo_tensor(table.new_empty(1, 0, dtype=torch.int64), table.new_empty(0, *table.shape[1:]),
                                       table.shape, is_coalesced=True, check_invariants=False)
    if not table.grad.is_sparse:
        raise ValueError("TaskGradients: the table's gradient is dense; build the embedding with sparse=True, or give "
                         "no table")
    return table.grad.coalesce()
