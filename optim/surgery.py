"""Gradient surgery: what to do when the tasks' gradients point against each other.

Notation: g_1 … g_T are the rows of a (tasks, params) matrix G. Every method here returns a linear combination
Σ_k w_k g_k, and its weights w depend on the (tasks, tasks) Gram matrix K = G Gᵀ alone (K_ij = g_i · g_j). So the
long vectors are read twice, once for K and once for wᵀG, and everything between is arithmetic on a 3 × 3 table.

A further method is a function from K to w and one line in SURGERY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# Gradients are read in pieces. Float32 products of SHORT columns are exact enough to be summed in float64; of MIDDLE
# columns, T rows fit into a processor's cache; an accelerator wants few and LONG ones.
SHORT, MIDDLE, LONG = 1 << 10, 1 << 18, 1 << 22

# Squared norms from here on are not touched by what float32 loses of products under 1e-38: even 10¹⁰ of them are
# 1e-28 together.
LEAST_SQUARE = 1e-20

# Where project_conflicting draws its order if none is passed in: a generator of its own, so that surgery never
# moves the global one, on which dropout and shuffling depend.
_default_generator = torch.Generator().manual_seed(0)


def gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """K = G Gᵀ, (tasks, params) → (tasks, tasks) in float64, in the CPU's memory wherever the gradients are.

    Products and sums are float64, so nothing overflows or cancels that float32 gradients can hold. Float32 gradients
    on a CPU or CUDA are multiplied in float32 first, 1,024 columns at a time, and those sums added in float64. Each
    K_ij is then within 1024 · 2⁻²⁴ ‖g_i‖ ‖g_j‖ = 6e-5 ‖g_i‖ ‖g_j‖ (Higham 2002, section 3.1), in practice a
    thousandth of that; if a product has overflowed or could have vanished, all is done again in float64.
    """
    _check_matrix(gradients)
    if gradients.device.type in ("cpu", "cuda") and gradients.dtype == torch.float32:
        gram = _float32_gram_matrix(gradients)
        if torch.isfinite(gram).all() and (gram.diagonal() >= LEAST_SQUARE).all():
            return gram
    return _float64_gram_matrix(gradients)


def _float32_gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """`gram_matrix` in a third of the time, where no product of two numbers leaves float32."""
    pieces = gradients.shape[1] // SHORT
    whole, rest = gradients.tensor_split([pieces * SHORT], dim=1)
    batch = whole.unflatten(1, (pieces, SHORT)).transpose(0, 1)  # (pieces, tasks, SHORT)
    products = gradients.new_empty(pieces, len(gradients), len(gradients))
    torch.bmm(batch, batch.mT, out=products)  # with `out`, autocast does not make it bf16
    return products.sum(0, dtype=torch.float64).cpu() + _float64_gram_matrix(rest)


def _float64_gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """`gram_matrix` as its first line says it."""
    if gradients.device.type == "mps":  # knows no float64
        gradients = gradients.cpu()
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients.device)
    for block in gradients.split(MIDDLE if gradients.device.type == "cpu" else LONG, dim=1):
        block = block.double()
        gram.addmm_(block, block.T)
    return gram.cpu()


def cosines(gram: torch.Tensor) -> torch.Tensor:
    """cos(g_i, g_j) = K_ij / √(K_ii K_jj), (tasks, tasks); 0 where a gradient is zero."""
    norms = gram.diagonal().clamp(min=0).sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, gram / scale, torch.zeros_like(gram))


def norm_of_combination(gram: torch.Tensor, weights: torch.Tensor) -> float:
    """‖Σ_k w_k g_k‖ = √(wᵀ K w), without touching the gradients again."""
    return float((weights @ gram @ weights).clamp(min=0).sqrt())


def sum_weights(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """w = 1: the plain sum of the gradients, which is the gradient of the paper's Eq. 1."""
    return torch.ones(len(gram), dtype=torch.float64)


def pcgrad_weights(gram: torch.Tensor, order: Sequence[Sequence[int]] | None = None,
                   generator: torch.Generator | None = None) -> torch.Tensor:
    """The weights of PCGrad (Yu et al. 2020, Algorithm 1), from the Gram matrix.

    Task i meets the other tasks one after another, in the sequence order[i] (random if order is None). Wherever its
    gradient as it then stands conflicts with the other's original one, g_i · g_j < 0, it loses that component:

        g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

    and the sum over i is returned. Row i of `mixture` holds g_i in coordinates of the original gradients, so
    g_i · g_j = (mixture K)_ij.

    gram: (tasks, tasks). Returns (tasks,) float64: what `project_conflicting` multiplies the rows by. Every weight is
    at least 1, and all are 1 exactly if no pair conflicts.

    >>> pcgrad_weights(torch.tensor([[18.0, -22.0], [-22.0, 38.0]])).tolist()  # g = [[-4, 1, 1], [6, 1, 1]]
    [2.2222222222222223, 1.5789473684210527]
    """
    tasks = len(gram)
    _check_finite(gram)
    order = random_order(tasks, generator) if order is None else _checked_order(order, tasks)
    K = gram.double().tolist()
    mixture = [[float(i == k) for k in range(tasks)] for i in range(tasks)]
    for i, others in enumerate(order):
        for j in others:
            product = sum(share * K[k][j] for k, share in enumerate(mixture[i]))
            if product < 0:  # then g_j is not zero
                mixture[i][j] -= product / K[j][j]
    return torch.tensor(mixture, dtype=torch.float64).sum(0)


def paper_weights(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """The weights of the paper's Eq. 2–5: every projection made, conflict or not, against original gradients.

    Eq. 2–4: g'_i = g_i − Σ_{j≠i} (g_i · g_j / ‖g_j‖²) g_j; Eq. 5: the sum over i. Collecting g_j over all i:

        w_j = 1 − Σ_{i≠j} K_ij / K_jj

    A term with ‖g_j‖ = 0 is 0. Note that a task which *agrees* with g_j also takes from its weight.
    """
    _check_finite(gram)
    gram = gram.double()
    squares = gram.diagonal()
    crossed = gram.sum(0) - squares
    return 1 - torch.where(squares > 0, crossed / squares, torch.zeros_like(crossed))


def constant_weights(values: Sequence[float]) -> Callable[..., torch.Tensor]:
    """A control for surgery: a method with the same weights at every step, whatever the gradients.

    With PCGrad's weights averaged over a run, it tells what PCGrad does by looking at conflicts from what it does by
    weighting the tasks unequally. values: one a task, in the order of the gradient matrix's rows. Returns a function
    (gram, generator=None) → (tasks,) float64, as those of SURGERY; it raises ValueError for a Gram matrix of another
    number of tasks. Raises ValueError for no values or values that are not finite.

    >>> constant_weights([1.5, 1.0])(torch.eye(2)).tolist()
    [1.5, 1.0]
    """
    weights = torch.tensor(list(values), dtype=torch.float64)
    if weights.dim() != 1 or not len(weights) or not torch.isfinite(weights).all():
        raise ValueError(f"constant_weights takes one finite number a task, got {list(values)}")

    def weights_of(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        if len(gram) != len(weights):
            raise ValueError(f"{len(weights)} constant weights for {len(gram)} tasks: give one for each")
        return weights.clone()

    return weights_of


# --surgery → function (gram, generator=…) → weights
SURGERY = {"pcgrad": pcgrad_weights, "paper": paper_weights, "sum": sum_weights}


def project_conflicting(gradients: torch.Tensor, order: Sequence[Sequence[int]] | None = None,
                        generator: torch.Generator | None = None) -> torch.Tensor:
    """PCGrad (Yu et al. 2020, Algorithm 1) merged by the sum: (tasks, params) → (params,).

    order[i] is the sequence in which task i meets the others; drawn from `generator` if None. The gradients are not
    modified. `algorithm_1` below is the same thing in the paper's own words.

    >>> project_conflicting(torch.tensor([[3.0, 1.0], [-2.0, 1.0]])).tolist()
    [0.5, 3.5]
    """
    return combine(gradients, pcgrad_weights(gram_matrix(gradients), order, generator))


def project_paper(gradients: torch.Tensor) -> torch.Tensor:
    """The paper's Eq. 2–5 to the letter: (tasks, params) → (params,). The gradients are not modified."""
    return combine(gradients, paper_weights(gram_matrix(gradients)))


def combine(gradients: torch.Tensor, weights: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Σ_k w_k g_k: (tasks, params), (tasks,) → (params,), into `out` if given, which may be the first gradient.

    PCGrad's weights grow with the quotient of the gradients' lengths. One that the gradients' own dtype could not
    hold is applied in float64; the product is then an ordinary number again.
    """
    out = torch.empty_like(gradients[0]) if out is None else out
    size = MIDDLE if out.device.type == "cpu" else len(out)
    too_large = float(weights.abs().max()) > torch.finfo(gradients.dtype).max
    for total, (first, *others) in zip(out.split(size), gradients.split(size, dim=1), strict=True):
        if too_large:
            wide = zip((first, *others), weights.tolist(), strict=True)
            total.copy_(sum(gradient.double() * weight for gradient, weight in wide))
            continue
        torch.mul(first, float(weights[0]), out=total)
        for gradient, weight in zip(others, weights[1:].tolist(), strict=True):
            total.add_(gradient, alpha=weight)
    return out


def algorithm_1(gradients: torch.Tensor, order: Sequence[Sequence[int]]) -> torch.Tensor:
    """`project_conflicting` as Yu et al. 2020 print it, on the vectors themselves: slower, and easier to believe."""
    projected = [gradient.clone() for gradient in gradients]
    for i, others in enumerate(_checked_order(order, len(gradients))):
        for j in others:
            product = projected[i] @ gradients[j]
            if product < 0:
                projected[i] -= product / (gradients[j] @ gradients[j]) * gradients[j]
    return torch.stack(projected).sum(0)


def random_order(tasks: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """For every task, the other tasks in a random sequence, never the task itself."""
    generator = _default_generator if generator is None else generator
    shuffles = [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]
    return [[j for j in shuffle if j != i] for i, shuffle in enumerate(shuffles)]


def _checked_order(order: Sequence[Sequence[int]], tasks: int) -> Sequence[Sequence[int]]:
    expected = [[j for j in range(tasks) if j != i] for i in range(tasks)]
    if [sorted(others) for others in order] != expected:
        raise ValueError(f"order must name, for each of {tasks} tasks, every other task once, got {order}")
    return order


def _check_matrix(gradients: torch.Tensor) -> None:
    if gradients.dim() != 2 or not len(gradients) or not gradients.is_floating_point():
        raise ValueError(f"gradients must be a (tasks, params) matrix of floats, got {gradients.dtype} "
                         f"of shape {tuple(gradients.shape)}")


def _check_finite(gram: torch.Tensor) -> None:
    if not torch.isfinite(gram).all():
        tasks = (~torch.isfinite(gram.diagonal())).nonzero().flatten().tolist()
        raise ValueError(f"the gradients of tasks {tasks} are not finite: the loss has diverged; lower the learning "
                         "rate or look at that batch")
