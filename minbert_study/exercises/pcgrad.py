"""PCGrad on a matrix of gradients."""

import torch

from minbert_study.exercise import Exercise, check, replace
from optim import surgery


def project_conflicting(gradients, order):
    """Algorithm 1 on the vectors. optim.surgery computes the same from the Gram matrix."""
    total = torch.zeros_like(gradients[0])
    for i, others in enumerate(order):
        g = gradients[i].clone()
        for j in others:
            product = g @ gradients[j]
            if product < 0:  # then g_j is not zero
                g -= product / (gradients[j] @ gradients[j]) * gradients[j]
        total += g
    return total


LIBRARY = {"project_conflicting": surgery.project_conflicting}


def conflicting(tasks: int, params: int) -> torch.Tensor:
    """Gradients of which every two conflict, of different lengths."""
    shared = torch.randn(params)
    rows = torch.randn(tasks, params)
    rows -= torch.outer(rows @ shared, shared) / (shared @ shared)
    rows -= rows.mean(0)  # they sum to 0, so they point away from each other
    return rows * torch.arange(1, tasks + 1)[:, None]


@check()
def by_hand(part):
    """(3, 1) and (−2, 1) conflict: together they become (0.5, 3.5)."""
    gradients = torch.tensor([[3.0, 1.0], [-2.0, 1.0]])
    return {"result": part.project_conflicting(gradients, [[1], [0]])}


@check()
def agreement(part):
    """Gradients that agree are simply added."""
    gradients = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 1.0], [0.5, 0.0, 2.0]])
    return {"result": part.project_conflicting(gradients, [[1, 2], [2, 0], [1, 0]])}


@check()
def orthogonal(part):
    """Orthogonal gradients and zero gradients are simply added."""
    gradients = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    return {"result": part.project_conflicting(gradients, [[1, 2], [2, 0], [1, 0]])}


@check(against=LIBRARY)
def three_tasks(part):
    """Three tasks in conflict, in a given order: Algorithm 1, line by line."""
    gradients = conflicting(3, 7)
    return {"result": part.project_conflicting(gradients, [[2, 1], [0, 2], [1, 0]])}


@check(against=LIBRARY)
def order_matters(part):
    """The result is right in each of three orders."""
    gradients = conflicting(4, 9)
    generator = torch.Generator().manual_seed(5)
    return {f"result in the order {order}": part.project_conflicting(gradients, order)
            for order in (surgery.random_order(4, generator) for _ in range(3))}


@check(against=LIBRARY)
def some_conflict(part):
    """The result is right where most pairs agree: only those in conflict are projected."""
    gradients = torch.randn(5, 11) + 0.4
    order = surgery.random_order(5, torch.Generator().manual_seed(1))
    return {"result": part.project_conflicting(gradients, order)}


# float32 holds seven digits, and each order of summation rounds differently. At length 1e-12, ‖g‖²
# is 1e-24: with 1e-16 added, 1e-8 of the projection is left.
@check(tolerance={"result for float32": 1e-4, "result for gradients of 1e-12, over 1e-12": 1e-8})
def short(part):
    """The result is right for short gradients, and for float32 ones, in float32."""
    gradients, order = conflicting(3, 20), [[2, 1], [0, 2], [1, 0]]
    return {"result for gradients of 1e-12, over 1e-12":
                part.project_conflicting(1e-12 * gradients, order) / 1e-12,
            "result for float32": part.project_conflicting(gradients.float(), order)}


@check()
def opposite(part):
    """Opposite gradients of different lengths cancel completely."""
    gradients = torch.tensor([[2.0, -2.0], [-1.0, 1.0]])
    return {"result": part.project_conflicting(gradients, [[1], [0]])}


EXERCISE = Exercise(
    title="PCGrad",
    places=("minbert_study.exercises.pcgrad:project_conflicting",),
    install=lambda part: replace("optim.surgery:project_conflicting", part.project_conflicting),
    mistakes=(
        ("when every pair is projected, in conflict or not. The test g_i · g_j < 0 is missing.",
         "if product < 0:", "if gradients[j].any():"),
        ("when pairs that agree are projected and conflicts stay. Project where g_i · g_j < 0.",
         "if product < 0:", "if product > 0:"),
        ("when the conflict test uses the original g_i. Algorithm 1 tests the current g_i, after "
         "the earlier projections.", "if product < 0:", "if gradients[i] @ gradients[j] < 0:"),
        ("when every projection starts from the original g_i. In g_i · g_j use the current g_i.",
         "product = g @", "product = gradients[i] @"),
        ("when g_j is a gradient that was already projected. It must be the original: do you write "
         "into the matrix that you read from?",
         "    for i, others in enumerate(order):\n        g = gradients[i].clone()\n",
         "    gradients = gradients.clone()\n"
         "    for i, others in enumerate(order):\n        g = gradients[i]\n"),
        ("when a small number like 1e-8 is added to ‖g_j‖² or used in the conflict test, so short "
         "gradients keep their conflicts. No guard is needed: for a zero g_j, g_i · g_j is never "
         "below 0.", "if product < 0:", "if product < -1e-12:"),
        ("when the projected gradients are averaged, not added.",
         "return total", "return total / len(gradients)"),
        ("when the product is divided by ‖g_j‖, not by ‖g_j‖².",
         "(gradients[j] @ gradients[j])", "gradients[j].norm()"),
        ("when the product is divided by ‖g_i‖², not by ‖g_j‖².",
         "(gradients[j] @ gradients[j])", "(gradients[i] @ gradients[i])"),
        ("when the component is added, not subtracted.", "g -= product", "g += product"),
        ("when each task also meets itself and becomes 0. It must meet only the others.",
         "g = gradients[i].clone()", "g = 0 * gradients[i]"),
        ("when the tasks are met in ascending order. Follow `order`.",
         "for j in others:", "for j in sorted(others):"),
        ("when nothing is projected: the plain sum of the gradients.",
         "if product < 0:", "if False:"),
        ("when all of g_j is subtracted from g_i, not only the component of g_i along it.",
         "product / (gradients[j] @ gradients[j]) * gradients[j]", "gradients[j]"),
    ),
    hints=(
        "Two copies of the gradients are needed. Which one changes, and which one must stay?",
        "For each task i, copy its gradient. Go through order[i]. Where the copy's product with "
        "the original g_j is negative, subtract its component along g_j. At the end, add the "
        "copies.",
        "g = gradients[i].clone(); for j in order[i]: product = g @ gradients[j]; if product < 0: "
        "g = g − product / (gradients[j] @ gradients[j]) · gradients[j]. The sum of all g.",
    ),
)
