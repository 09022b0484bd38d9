"""Parameters as views of one vector, and the tasks' gradients as rows of one matrix.

Gradient surgery treats a task's gradient as one vector in R^params. Here it is one, in memory.
Every parameter of the shared encoder is a view of `FlatParameters.vector`, and backward adds task
t's gradient to row t of `TaskGradients.matrix`. Nothing is ever concatenated or copied back.

A table of word embeddings is the exception. It is half of a small BERT, and a step looks up a few
hundred of its rows, so its gradient can be kept as those rows alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from .surgery import combine, gram_matrix


def split_decayed(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Named parameters in two groups: with weight decay, and without (biases, LayerNorm).

    The rule of Devlin et al.'s own code, by shape: LayerNorm's scales and all biases are the
    vectors.
    """
    decayed, undecayed = {}, {}
    for name, value in module.named_parameters():
        group = decayed if value.dim() >= 2 else undecayed
        group[name] = value
    return decayed, undecayed


class FlatParameters:
    """One contiguous vector that holds all parameters; each becomes a view of its own part.

    The module trains and loads as before, and its whole state_dict saves as before. Code that
    works on storages sees one vector: torch.save of one layer's state_dict writes all of it, and
    safetensors' save_model refuses. `release` ends the sharing.

    Args:
        named_parameters: as from nn.Module.named_parameters().

    Attributes:
        vector: (params,), in the order given.

    Raises:
        ValueError: there are no parameters, one occurs twice, or dtypes or devices differ.

    >>> linear = nn.Linear(2, 1)
    >>> flat = FlatParameters(linear.named_parameters())
    >>> flat.vector.zero_() is flat.vector, linear.bias.item()
    (True, 0.0)
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
            raise ValueError("FlatParameters: one dtype and device expected, got "
                             f"{sorted(map(str, kinds))}")

        self.vector = torch.cat([value.detach().flatten() for value in values])
        for value, view in zip(values, self.views(self.vector), strict=True):
            value.data = view
        ends = accumulate(value.numel() * value.element_size() for value in values)
        self._starts = dict(zip(self.parameters, [0, *ends], strict=False))  # in bytes

    def check(self) -> None:
        """Raises ValueError if a parameter is no longer part of the vector, or was frozen."""
        if self.frozen():
            raise ValueError(f"{self.frozen()[0]} is frozen: leave it out of FlatParameters, or "
                             "weight decay and old moments would move it")
        if self.moved():
            raise ValueError(f"{self.moved()[0]} is no longer a part of FlatParameters.vector: it "
                             "was moved, cast or replaced afterwards; make FlatParameters last")

    def frozen(self) -> list[str]:
        """The names of parameters that do not require a gradient."""
        return [name for name, value in self.parameters.items() if not value.requires_grad]

    def moved(self) -> list[str]:
        """The names of parameters that are no longer part of the vector."""
        start = self.vector.data_ptr()
        return [name for name, value in self.parameters.items()
                if value.data_ptr() - start != self._starts[name] and value.numel()]

    def release(self) -> None:
        """Gives every parameter its own memory again; they then no longer share the vector."""
        for value in self.parameters.values():
            value.data = value.data.clone()

    def views(self, vector: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut a (params,) vector into views of the parameters' shapes, in order."""
        return _views(vector, self.parameters.values())


def _views(vector: torch.Tensor, parameters: Iterable[nn.Parameter]) -> Iterator[torch.Tensor]:
    start = 0
    for value in parameters:
        yield vector[start:start + value.numel()].view_as(value)
        start += value.numel()


@dataclass
class Group:
    """Some parameters: columns of the matrix, and whether the table is among them."""

    columns: list[slice]
    has_table: bool


class TaskGradients:
    """The (tasks, params) matrix that backward fills, one task's gradient in each row.

    Args:
        flat: the parameters.
        tasks: the number of rows.
        table: the name of flat's first parameter, if that is an embedding whose gradient backward
            leaves sparse (torch.nn.Embedding's sparse=True). The matrix is then without its
            columns, and a task's gradient of it is as many rows as were looked up; `gram` and
            `combine_` give the same. Leave it out where several processes sum their rows.
        watched: raise ValueError, when the matrix is read, for a parameter that no loss reached or
            that was replaced after FlatParameters. The library's own trainer, whose backward pass
            does without autograd's hooks, sets it to False.

    Raises:
        ValueError: `table` is not flat's first parameter, there is no task, or a parameter is
            frozen.

    >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> gradients = TaskGradients(FlatParameters([("weight", weight)]), tasks=2)
    >>> for task, target in enumerate([3.0, 5.0]):
    ...     with gradients.row(task):
    ...         (weight * target).sum().backward()
    >>> gradients.matrix.tolist()
    [[3.0, 3.0], [5.0, 5.0]]
    """

    def __init__(self, flat: FlatParameters, tasks: int, table: str | None = None,
                 watched: bool = True) -> None:
        if tasks < 1:
            raise ValueError(f"TaskGradients: tasks is {tasks}, expected at least 1")
        first = next(iter(flat.parameters))
        if table not in (None, first):
            raise ValueError(f"TaskGradients: the table must be flat's first parameter, {first}, "
                             f"got {table}")
        self.table = flat.parameters[first] if table else None
        self._dense = [value for name, value in flat.parameters.items() if name != table]
        params = sum(value.numel() for value in self._dense)
        self._matrix = flat.vector.new_zeros(tasks, params)
        self._views = [dict(zip(self._dense, _views(row, self._dense), strict=True))
                       for row in self._matrix]
        self._table_gradients: list[torch.Tensor | None] = [None] * tasks

        # Which rows are filled in this round, and which parameters some loss has reached.
        self._flat, self._watched = flat, watched
        self._filled: set[int] = set()
        self._reached: set[nn.Parameter] = set()
        if watched:
            flat.check()
            for value in flat.parameters.values():
                value.register_post_accumulate_grad_hook(self._reached.add)

    @property
    def matrix(self) -> torch.Tensor:
        """(tasks, params).

        Raises:
            ValueError: all rows are filled, and no loss has reached some parameter.
        """
        if self._watched and len(self._filled) == len(self._matrix):
            for name, value in self._flat.parameters.items():
                if value not in self._reached:
                    raise ValueError(
                        f"no loss has reached {name}: leave it out of FlatParameters, or weight "
                        "decay would move it. If it was replaced since, by "
                        "load_state_dict(assign=True) for example, make FlatParameters afterwards")
        return self._matrix

    def views(self, task: int) -> dict[nn.Parameter, torch.Tensor]:
        """Parameter → its view of row `task`, without the table. Do not change the dictionary."""
        return self._views[task]

    @contextmanager
    def row(self, task: int) -> Iterator[torch.Tensor]:
        """Inside, backward accumulates into row `task`, which starts from zero; yields that row.

        Raises:
            ValueError: a parameter is no longer part of the vector, or was frozen.
        """
        if self._watched:
            self._flat.check()
        if task in self._filled:  # a new round
            self._filled.clear()
            self._reached.clear()
        self._filled.add(task)

        self._matrix[task].zero_()
        self._table_gradients[task] = None
        with self.adding(task) as row:
            yield row

    @contextmanager
    def adding(self, task: int) -> Iterator[torch.Tensor]:
        """`row` without setting it to zero first: backward adds to what row `task` holds."""
        views = self.views(task)
        for parameter, view in views.items():
            parameter.grad = view
        if self.table is not None:
            self.table.grad = self._table_gradients[task]

        try:
            yield self._matrix[task]
            for parameter, view in views.items():
                assert parameter.grad is view, "backward must add into the row, not replace it"
            if self.table is not None:
                self._table_gradients[task] = _coalesced(self.table)
        finally:
            for parameter in self._dense:
                parameter.grad = None
            if self.table is not None:
                self.table.grad = None

    def groups(self, group_of: Callable[[str], str]) -> dict[str, Group]:
        """The parameters in groups, for a Gram matrix and weights of each.

        Args:
            group_of: a parameter's name → its group's.
        """
        found: dict[str, Group] = {}
        start = 0
        for name, value in self._flat.parameters.items():
            group = found.setdefault(group_of(name), Group([], has_table=False))
            if value is self.table:
                group.has_table = True
                continue
            end = start + value.numel()
            if group.columns and group.columns[-1].stop == start:  # beside the one before
                start = group.columns.pop().start
            group.columns.append(slice(start, end))
            start = end
        return found

    def grams(self, groups: Mapping[str, Group]) -> dict[str, torch.Tensor]:
        """Group → the Gram matrix of the tasks' gradients of it, (tasks, tasks)."""
        tasks = len(self._matrix)
        table = None if self.table is None else gram_matrix(self._looked_up()[1].flatten(1))
        found = {}
        for name, group in groups.items():
            gram = torch.zeros(tasks, tasks, dtype=torch.float64, device="cpu")
            for columns in group.columns:
                gram += gram_matrix(self._matrix[:, columns])
            found[name] = gram + table if group.has_table else gram
        return found

    def gram(self) -> torch.Tensor:
        """The Gram matrix of the tasks' whole gradients, (tasks, tasks)."""
        return self.grams(self.groups(lambda name: ""))[""]

    def combine_(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Σ_k w_k g_k, in place: it overwrites the first row of the matrix, to save a vector.

        Returns:
            That row, and the table's part as a sparse gradient, (rows, hidden); None without a
            table.
        """
        return self.combine_groups_(self.groups(lambda name: ""), {"": weights})

    def combine_groups_(self, groups: Mapping[str, Group], weights: Mapping[str, torch.Tensor],
                        ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`combine_` with weights of each group."""
        table = None
        for name, group in groups.items():
            for columns in group.columns:
                combine(self._matrix[:, columns], weights[name], out=self._matrix[0, columns])
            if group.has_table:
                touched, gradients = self._looked_up()
                part = combine(gradients.flatten(1), weights[name]).view(gradients.shape[1:])
                table = torch.sparse_coo_tensor(touched[None], part, self.table.shape,
                                                device=part.device, is_coalesced=True,
                                                check_invariants=False)
        return self._matrix[0], table

    def _looked_up(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the table that any task looked up, and the tasks' gradients of them."""
        rows = [gradient.indices()[0] for gradient in self._table_gradients]
        touched = torch.cat(rows).unique()
        gradients = self._matrix.new_zeros(len(rows), len(touched), *self.table.shape[1:])
        for task, gradient in enumerate(self._table_gradients):
            gradients[task, torch.searchsorted(touched, rows[task])] = gradient.values()
        return touched, gradients


def _coalesced(table: nn.Parameter) -> torch.Tensor:
    """The table's gradient with each row once; of no rows if backward did not reach it."""
    if table.grad is None:
        indices = table.new_empty(1, 0, dtype=torch.int64)
        return torch.sparse_coo_tensor(indices, table.new_empty(0, *table.shape[1:]), table.shape,
                                       device=table.device, is_coalesced=True,
                                       check_invariants=False)
    return table.grad.to_sparse(1).coalesce()  # it is dense where a head uses the table, too
