"""Gradient surgery in any training loop: `backward` for several losses, on ordinary parameters.

Each loss runs its own backward pass. Between two passes the shared parameters' `.grad` is taken
away, as one row of the tasks' gradient matrix, piece by piece: a row is a list of one gradient per
parameter, in the memory that autograd made. All other parameters accumulate as usual. flat.py has
the same matrix in one block, which is faster.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from .methods import Method
from .surgery import as_float64, combine, gram_matrix

# How many numbers of each task's gradient are stacked into one matrix at a time.
PIECE = 1 << 18


@dataclass(frozen=True)
class BackwardResult:
    """What `multitask_backward` did; it keeps no graph.

    Attributes:
        losses: (tasks,), detached.
        gram: (tasks, tasks) float64, products of the tasks' gradients of the shared parameters.
        weights: (tasks,) float64, what these gradients were multiplied by.
    """

    losses: torch.Tensor
    gram: torch.Tensor
    weights: torch.Tensor


def multitask_backward(losses: Iterable[torch.Tensor], shared: Iterable[torch.Tensor],
                       method: str | Callable[..., torch.Tensor] | Method = "pcgrad",
                       generator: torch.Generator | None = None, retain_graph: bool = False,
                       group: dist.ProcessGroup | None = None, epoch: int = 0,
                       scale: float = 1.0) -> BackwardResult:
    """Adds the combined gradient to the shared parameters' `.grad`, and the sum to all others'.

    Every parameter ends as after `sum(losses).backward()`, but for the shared ones: theirs is
    Σ_k w_k g_k, where g_k is task k's gradient and w comes from surgery. Frozen parameters, and
    those that no loss reaches, keep the `.grad` they have.

    If a gradient is not finite, the result is the plain sum, which is not finite either: a
    GradScaler then skips the step.

    Args:
        losses: one scalar per task, in the order of the weights. A list or tuple may come from one
            forward pass: graphs are kept until the last backward. A generator yields a task's loss
            after its own forward; its graph is freed before the next.
        shared: the parameters that surgery looks at. One that is given twice counts once.
        method: a name in `optim.SURGERY`, with options, or a function of the Gram matrix like
            those. A method with state, such as GradVac, is created once, before the loop:
            Method("gradvac"), or an object of your own.
        generator: draws the order in which PCGrad's tasks meet.
        retain_graph: keeps every graph for a further backward, as in `Tensor.backward`.
        group: processes over which each task's gradient is averaged before surgery, for example
            `torch.distributed.group.WORLD`. All other gradients stay this process's own:
            `average_gradients` averages them.
        epoch: its number, for methods that ask for it.
        scale: what the losses were multiplied by, a GradScaler's get_scale(): the method sees
            losses and gradients without it.

    Raises:
        ValueError: there are no losses, one is not a scalar, has no graph or is on another device
            than the first, or the method is unknown; `shared` is empty, holds what is not a
            parameter, is reached by no loss, or has a sparse gradient.

    >>> encoder, heads = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 2)
    >>> hidden = encoder(torch.tensor([3.0, 1.0]))
    >>> result = multitask_backward(heads(hidden), encoder.parameters())
    >>> result.weights.shape, encoder.weight.grad.shape, heads.bias.grad.tolist()
    (torch.Size([2]), torch.Size([1, 2]), [1.0, 1.0])
    """
    surgery = _surgery(method)
    parameters = _parameters("shared", shared)
    if not parameters:
        raise ValueError("shared is empty: give the parameters that the tasks share; a generator "
                         "such as encoder.parameters() is empty after its first use")
    kept = {parameter: parameter.grad for parameter in parameters}
    gradients: dict[torch.Tensor, list[torch.Tensor | None]] = {each: [] for each in parameters}

    # A generator makes each loss on demand. Other losses exist already: check all of them first,
    # and keep the graph they may share until the last backward.
    is_lazy = not hasattr(losses, "__len__")
    losses = _checked(losses)
    if not is_lazy:
        losses = list(losses)

    values: list[torch.Tensor] = []
    try:
        for number, loss in enumerate(losses):
            for parameter in parameters:
                parameter.grad = None
            is_last = is_lazy or number == len(losses) - 1
            loss.backward(retain_graph=retain_graph or not is_last)
            values.append(loss.detach().reshape(()))

            if group is not None:
                average_gradients(parameters, group)
            for parameter, of_tasks in gradients.items():
                _check_dense(parameter)
                of_tasks.append(parameter.grad)
    finally:
        for parameter, gradient in kept.items():
            parameter.grad = gradient

    if not values:
        raise ValueError("multitask_backward: no losses were given")
    reached = [parameter for parameter, of_tasks in gradients.items()
               if any(gradient is not None for gradient in of_tasks)]
    if not reached and any(parameter.requires_grad for parameter in parameters):
        raise ValueError("no loss reaches any of the shared parameters: are they those of the "
                         "model that made the losses?")

    gram = torch.zeros(len(values), len(values), dtype=torch.float64, device="cpu")
    for parameter in reached:
        for piece in _pieces(parameter, gradients[parameter]):
            gram += gram_matrix(piece)
    seen = as_float64(torch.stack(values)) / scale
    if group is not None:  # as the gradients: all processes must see the same
        dist.all_reduce(seen, group=group)
        seen /= dist.get_world_size(group)
    weights = gram.new_ones(len(gram))
    if torch.isfinite(gram).all():
        weights = surgery(gram / scale**2, generator, seen.cpu(), epoch)

    bound = float(weights.abs() @ gram.diagonal().sqrt())  # of every number on the way
    for parameter in reached:
        # These rows are freed before the next parameter's result is made.
        combined = _combined(parameter, gradients.pop(parameter), weights, bound)
        parameter.grad = combined if parameter.grad is None else parameter.grad.add_(combined)
    return BackwardResult(torch.stack(values), gram, weights)


def average_gradients(parameters: Iterable[torch.Tensor],
                      group: dist.ProcessGroup | None = None) -> None:
    """Averages `.grad` over processes: with equal shares of a batch, the whole batch's gradient.

    Where only some processes have a gradient, the others count as zero. Where none has, it stays
    None. All processes must call this with the same parameters in the same order.

    Args:
        group: the processes; all of them if None.

    Raises:
        ValueError: `parameters` holds what is not a parameter, or one has a sparse gradient.
    """
    parameters = _parameters("parameters", parameters)
    if not parameters:
        return
    has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters],
                                dtype=torch.uint8, device=parameters[0].device)
    dist.all_reduce(has_gradient, dist.ReduceOp.MAX, group)

    size, sums = dist.get_world_size(group), []
    for parameter, is_reached in zip(parameters, has_gradient.tolist(), strict=True):
        if not is_reached:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        _check_dense(parameter)
        parameter.grad = (parameter.grad / size).contiguous()  # divided first: float16 is narrow
        sums.append((parameter, dist.all_reduce(parameter.grad, group=group, async_op=True)))
    for parameter, work in sums:
        work.wait()
        parameter.grad = _in_layout_of(parameter, parameter.grad)


# ---------------------------------------------------------------------------------- what is given


def _surgery(method: str | Callable[..., torch.Tensor] | Method) -> Method:
    if isinstance(method, Method):
        return method
    made = Method(method)
    if isinstance(method, str) and made.remembers:
        raise ValueError(f"{method} remembers what it has seen: make it once, before the loop, "
                         f"with Method({method!r}), and give that")
    return made


def _parameters(name: str, given: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Each once."""
    if isinstance(given, torch.nn.Module):
        raise ValueError(f"{name} is a {type(given).__name__}: give its parameters()")
    parameters = list(given)
    for each in parameters:
        if not isinstance(each, torch.Tensor) or not each.is_leaf:
            kind = "a computed tensor" if isinstance(each, torch.Tensor) else type(each).__name__
            raise ValueError(f"{name} must hold parameters, as encoder.parameters() gives them, "
                             f"got {kind}")
    return list(dict.fromkeys(parameters))


def _checked(losses: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The losses, each checked before it is passed on."""
    device = None
    for number, loss in enumerate(losses):
        if not isinstance(loss, torch.Tensor):
            raise ValueError(f"losses[{number}] is of type {type(loss).__name__}, expected a "
                             "scalar tensor; of a dictionary, give its values()")
        if loss.numel() != 1:
            raise ValueError(f"losses[{number}] has shape {tuple(loss.shape)}, expected a scalar: "
                             "take its mean() or sum()")
        if not loss.requires_grad:
            raise ValueError(f"losses[{number}] has no graph: it was detached, computed under "
                             "no_grad, or depends on no parameter that requires a gradient")
        device = device or loss.device
        if loss.device != device:
            raise ValueError(f"losses[{number}] is on {loss.device}, the first on {device}: "
                             f"move it with .to({str(device)!r})")
        yield loss


def _check_dense(parameter: torch.Tensor) -> None:
    if parameter.grad is not None and parameter.grad.layout is not torch.strided:
        raise ValueError(f"the gradient of a parameter of shape {tuple(parameter.shape)} is "
                         "sparse: build the embedding with sparse=False, or do not share it")


# ------------------------------------------------------------------------------------ the surgery


def _pieces(parameter: torch.Tensor,
            of_tasks: Iterable[torch.Tensor | None]) -> Iterator[torch.Tensor]:
    """One parameter's gradients as matrices (tasks, piece); one that is missing is zeros."""
    zeros = parameter.new_zeros(()).expand(parameter.numel())
    rows = [zeros if gradient is None else gradient.flatten() for gradient in of_tasks]
    for pieces in zip(*(row.split(PIECE) for row in rows), strict=True):
        yield torch.stack(pieces)


def _combined(parameter: torch.Tensor, of_tasks: Iterable[torch.Tensor | None],
              weights: torch.Tensor, bound: float) -> torch.Tensor:
    """Σ_k w_k g_k of one parameter, in its shape; in float64 where its own dtype is too narrow."""
    is_exact = bound >= torch.finfo(parameter.dtype).max
    total = torch.empty(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    for part, piece in zip(total.split(PIECE), _pieces(parameter, of_tasks), strict=True):
        if is_exact:
            part.copy_(combine(as_float64(piece), weights))
        else:
            combine(piece, weights, out=part)
    return _in_layout_of(parameter, total.view(parameter.shape))


def _in_layout_of(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A contiguous gradient with the parameter's strides, which fused optimizers ask for."""
    if parameter.is_contiguous():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
