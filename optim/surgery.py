"""Gradient surgery: what to do when the tasks' gradients point against each other.

Notation: g_1 … g_T are the rows of a (tasks, params) matrix G, and K = G Gᵀ is their Gram matrix,
(tasks, tasks), K_ij = g_i · g_j. Every method here returns a linear combination Σ_k w_k g_k, whose
weights w depend on K alone. So the long vectors are read twice, once for K and once for wᵀG, and
everything between is arithmetic on a 3 × 3 table. examples/plain_step.py has PCGrad on the vectors.

methods/ has more methods, and SURGERY, the table of all.
"""

from collections.abc import Callable, Sequence

import torch

# Where project_conflicting draws its order if no generator is passed: one of its own, so that
# surgery never moves the global one, on which dropout and shuffling depend.
default_generator = torch.Generator().manual_seed(0)

# Gradients are read in pieces. This many columns of T rows fit into a processor's cache; an
# accelerator wants few and long pieces.
PIECE_ON_CPU, PIECE = 1 << 18, 1 << 22


# ------------------------------------------------------------------------------------ the methods


def sum_weights(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """w = 1: the plain sum of the gradients, which is the gradient of the paper's Eq. 1."""
    return gram.new_ones(len(gram), dtype=torch.float64)


def pcgrad_weights(gram: torch.Tensor, order: Sequence[Sequence[int]] | None = None,
                   generator: torch.Generator | None = None) -> torch.Tensor:
    """The weights of PCGrad (Yu et al. 2020, Algorithm 1), from the Gram matrix.

    Task i meets the other tasks one after another. Wherever its gradient, as it then stands,
    conflicts with the other's original one, g_i · g_j < 0, it loses that component:

        g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

    The result is the sum over i. Row i of `mixture` holds g_i in coordinates of the original
    gradients, so g_i · g_j = (mixture K)_ij.

    Args:
        gram: (tasks, tasks).
        order: order[i] is the sequence in which task i meets the others; random if None.
        generator: draws the order.

    Returns:
        (tasks,) float64. Every weight is at least 1, and all are 1 exactly if no pair conflicts.

    For the gradients [-4, 1, 1] and [6, 1, 1]:

    >>> pcgrad_weights(torch.tensor([[18.0, -22.0], [-22.0, 38.0]])).tolist()
    [2.2222222222222223, 1.5789473684210527]
    """
    _check_finite(gram)
    tasks = len(gram)
    order = random_order(tasks, generator) if order is None else _checked_order(order, tasks)
    K = gram.double()
    mixture = torch.eye(tasks, dtype=torch.float64, device=gram.device)

    for i, others in enumerate(order):
        for j in others:
            product = mixture[i] @ K[:, j]           # g_i · g_j
            if product < 0:                          # then g_j is not zero
                mixture[i, j] -= product / K[j, j]   # g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j
    return mixture.sum(0)


def paper_weights(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """The weights of the paper's Eq. 2–5: every projection is made, whether in conflict or not.

    Eq. 2–4: g'_i = g_i − Σ_{j≠i} (g_i · g_j / ‖g_j‖²) g_j, against original gradients; Eq. 5: the
    sum over i. Collecting g_j over all i:

        w_j = 1 − Σ_{i≠j} K_ij / K_jj

    A term with ‖g_j‖ = 0 is 0. Note that a task which *agrees* with g_j also takes from its weight.

    Args:
        gram: (tasks, tasks).

    Returns:
        (tasks,) float64.
    """
    _check_finite(gram)
    K = gram.double()
    squares = K.diagonal()
    crossed = K.sum(0) - squares  # Σ_{i≠j} K_ij
    return 1 - torch.where(squares > 0, crossed / squares, 0.0)


def constant_weights(values: Sequence[float]) -> Callable[..., torch.Tensor]:
    """A control for surgery: a method with the same weights at every step, whatever the gradients.

    With PCGrad's weights averaged over a run, it separates what PCGrad gains by looking at
    conflicts from what it gains by weighting the tasks unequally.

    Args:
        values: one per task, in the order of the gradient matrix's rows.

    Returns:
        A function like those of SURGERY. It raises ValueError for another number of tasks.

    Raises:
        ValueError: no values, or values that are not finite.

    >>> constant_weights([1.5, 1.0])(torch.eye(2)).tolist()
    [1.5, 1.0]
    """
    weights = torch.tensor(list(values), dtype=torch.float64, device="cpu")
    if weights.dim() != 1 or not len(weights) or not torch.isfinite(weights).all():
        raise ValueError(f"constant_weights takes one finite number per task, got {list(values)}")

    def weights_of(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        if len(gram) != len(weights):
            raise ValueError(f"{len(weights)} constant weights for {len(gram)} tasks: "
                             "give one for each")
        return weights.clone()

    return weights_of


# ---------------------------------------------------------------------- on a matrix of gradients
# Training calls the three steps one by one: gram_matrix, a method, combine. These functions join
# them for a matrix of yours.


def project_conflicting(gradients: torch.Tensor, order: Sequence[Sequence[int]] | None = None,
                        generator: torch.Generator | None = None) -> torch.Tensor:
    """PCGrad (Yu et al. 2020, Algorithm 1) merged by the sum; the gradients are not modified.

    Args:
        gradients: (tasks, params) of any floating-point type.
        order, generator: see `pcgrad_weights`.

    Returns:
        (params,). If a gradient is not finite, the plain sum, which is not finite either: a
        GradScaler then sees the overflow and skips the step.

    >>> project_conflicting(torch.tensor([[3.0, 1.0], [-2.0, 1.0]])).tolist()
    [0.5, 3.5]
    """
    return _combined(gradients, lambda gram: pcgrad_weights(gram, order, generator))


def project_paper(gradients: torch.Tensor) -> torch.Tensor:
    """The paper's Eq. 2–5: (tasks, params) → (params,). See `project_conflicting`."""
    return _combined(gradients, paper_weights)


def _combined(gradients: torch.Tensor,
              method: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    gram = gram_matrix(gradients)
    if not torch.isfinite(gram).all():
        return gradients.detach().sum(0)

    weights = method(gram)
    bound = float(weights.abs() @ gram.diagonal().sqrt())  # of every number on the way
    if bound < torch.finfo(gradients.dtype).max:
        return combine(gradients, weights)
    return combine(as_float64(gradients), weights).to(gradients)


def gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """K = G Gᵀ, in float64 and in the CPU's memory, wherever the gradients are.

    Products and sums are float64, so nothing overflows or cancels that float32 gradients can hold.

    Args:
        gradients: (tasks, params).

    Returns:
        (tasks, tasks) float64.
    """
    if not isinstance(gradients, torch.Tensor):
        raise ValueError(f"gradients must be a (tasks, params) tensor, got a "
                         f"{type(gradients).__name__}: make one with torch.as_tensor")
    if gradients.dim() != 2 or not len(gradients) or not gradients.is_floating_point():
        raise ValueError(f"gradients must be a (tasks, params) matrix of floats, got "
                         f"{gradients.dtype} of shape {tuple(gradients.shape)}")
    gram = 0.0
    for piece in gradients.detach().split(_piece_for(gradients), dim=1):
        piece = as_float64(piece)
        gram = gram + piece @ piece.T
    return gram.cpu()


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64; from a Mac's GPU, which has none, in the CPU's memory."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def combine(gradients: torch.Tensor, weights: torch.Tensor,
            out: torch.Tensor | None = None) -> torch.Tensor:
    """Σ_k w_k g_k.

    Args:
        gradients: (tasks, params).
        weights: (tasks,).
        out: (params,), where the result goes; it may be the first gradient.

    Returns:
        (params,).
    """
    gradients = gradients.detach()  # autograd.grad gives some that require gradients themselves
    out = torch.empty_like(gradients[0]) if out is None else out
    # PCGrad's weights grow with the quotient of the gradients' lengths. One that the gradients' own
    # dtype cannot hold is applied in float64; the product is then an ordinary number again.
    needs_float64 = float(weights.abs().max()) > torch.finfo(gradients.dtype).max

    size = _piece_for(gradients)
    for total, piece in zip(out.split(size), gradients.split(size, dim=1), strict=True):
        if needs_float64:
            piece = as_float64(piece)
            total.copy_(weights.to(piece.device) @ piece)
            continue
        torch.mul(piece[0], float(weights[0]), out=total)
        for gradient, weight in zip(piece[1:], weights[1:].tolist(), strict=True):
            total.add_(gradient, alpha=weight)
    return out


def _piece_for(gradients: torch.Tensor) -> int:
    return PIECE_ON_CPU if gradients.device.type == "cpu" else PIECE


# -------------------------------------------------------------------------- around the Gram matrix


def cosines(gram: torch.Tensor) -> torch.Tensor:
    """cos(g_i, g_j) = K_ij / √(K_ii K_jj), (tasks, tasks); 0 where a gradient is zero."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, gram / scale, 0.0)


def norm_of_combination(gram: torch.Tensor, weights: torch.Tensor) -> float:
    """‖Σ_k w_k g_k‖ = √(wᵀ K w), without touching the gradients again."""
    return float((weights @ gram @ weights).clamp(min=0).sqrt())


def random_order(tasks: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """For every task, the other tasks in a random sequence, never the task itself."""
    generator = default_generator if generator is None else generator
    order = []
    for i in range(tasks):
        shuffled = torch.randperm(tasks, generator=generator, device=generator.device).tolist()
        order.append([j for j in shuffled if j != i])
    return order


def _checked_order(order: Sequence[Sequence[int]], tasks: int) -> Sequence[Sequence[int]]:
    # once: a generator would be empty afterwards
    order = [list(others) if hasattr(others, "__iter__") else [others] for others in order]
    expected = [[j for j in range(tasks) if j != i] for i in range(tasks)]
    if [sorted(others) for others in order] != expected:
        raise ValueError(f"order must name, for each of {tasks} tasks, every other task once, "
                         f"got {order}")
    return order


def _check_finite(gram: torch.Tensor) -> None:
    if not torch.isfinite(gram).all():
        tasks = (~torch.isfinite(gram.diagonal())).nonzero().flatten().tolist()
        raise ValueError(f"the gradients of tasks {tasks} are not finite: the loss has diverged; "
                         "lower the learning rate or look at that batch")
