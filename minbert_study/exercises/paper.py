"""The paper's Eq. 2–5 on a matrix of gradients."""

import torch

from minbert_study.exercise import Exercise, check


def on_vectors(gradients):
    """Eq. 2–5 as they are written, on the long vectors."""
    total = torch.zeros_like(gradients[0])
    for i, g in enumerate(gradients):
        total += g
        for j, other in enumerate(gradients):
            if j != i and other.any():
                total -= torch.dot(g, other) / torch.dot(other, other) * other
    return total


def related(tasks: int, params: int) -> torch.Tensor:
    """Gradients of different lengths; some pairs agree, some are in conflict."""
    return torch.randn(tasks, params) * torch.arange(1, tasks + 1)[:, None]


@check()
def by_hand(part):
    """(2, 0) and (1, 1) agree, and are projected all the same: together (1, 0)."""
    return {"result": part.project_paper(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))}


@check()
def conflict(part):
    """(3, 1) and (−2, 1) conflict: together (0.5, 3.5), as with PCGrad."""
    return {"result": part.project_paper(torch.tensor([[3.0, 1.0], [-2.0, 1.0]]))}


@check()
def orthogonal(part):
    """Orthogonal gradients are only added."""
    return {"result": part.project_paper(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0],
                                                       [0.0, 0.0, -3.0]]))}


@check(against={"project_paper": on_vectors})
def three_tasks(part):
    """Three tasks: every projection starts from the original gradients."""
    return {f"result for {name}": part.project_paper(gradients)
            for name, gradients in (("gradients that agree", torch.rand(3, 7) + 0.1),
                                    ("gradients of both kinds", related(3, 7)))}


@check()
def any_order(part):
    """The order of the tasks does not matter."""
    gradients = related(4, 6)
    return {"result": part.project_paper(gradients),
            "result with the tasks in reverse": part.project_paper(gradients.flip(0))}


@check()
def zeros(part):
    """Nothing is projected on a gradient that is zero: no division by 0."""
    gradients = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = part.project_paper(gradients)
    return {"all numbers are finite": bool(found.isfinite().all()), "result": found,
            "result of nothing but zeros": part.project_paper(torch.zeros(3, 4))}


@check(against={"project_paper": on_vectors})
def many(part):
    """Any number of tasks, from one to six."""
    return {f"result of {tasks} tasks": part.project_paper(related(tasks, 9))
            for tasks in range(1, 7)}


# float32 holds seven digits, and how its sums round is everybody's own. Of 1e-24 for a length of
# 1e-12, what is added to it against division by 0 leaves nothing, or 1e-8 and less.
@check(tolerance={"result for float32": 1e-4, "result for gradients of 1e-12, over 1e-12": 1e-8})
def short(part):
    """A short gradient is not a zero one, and float32 stays float32."""
    gradients = related(3, 20)
    return {"result for gradients of 1e-12, over 1e-12":
                part.project_paper(1e-12 * gradients) / 1e-12,
            "result for float32": part.project_paper(gradients.float())}


ON_COPIES = """    mixture = torch.eye(len(K), dtype=torch.float64)
    for i in range(len(K)):
        for j in range(len(K)):
            if j != i and squares[j] > 0:
                {line}
    return mixture.sum(0)
"""
RETURN = "    return 1 - torch.where(squares > 0, crossed / squares, torch.zeros_like(crossed))\n"

EXERCISE = Exercise(
    title="the paper's surgery, Eq. 2–5",
    places=("optim.surgery:project_paper",),
    mistakes=(
        ("when only conflicts are projected, as PCGrad does. Eq. 2–4 have no such test.",
         "crossed = K.sum(0) - squares", "crossed = K.clamp(max=0).sum(0)"),
        ("when only pairs that agree are projected. Eq. 2–4 project every pair.",
         "crossed = K.sum(0) - squares", "crossed = K.clamp(min=0).sum(0) - squares"),
        ("when projections use a g_i that earlier ones have changed, as in PCGrad. In Eq. 2–4, g_i "
         "· g_j uses the original g_i.",
         RETURN, ON_COPIES.format(line="mixture[i, j] -= mixture[i] @ K[:, j] / K[j, j]")),
        ("when tasks are projected onto gradients that were already projected. g_j must be the "
         "original: do you write into the matrix that you read from?", RETURN,
         ON_COPIES.format(line="mixture[i] -= (mixture[i] @ K @ mixture[j] / "
                               "(mixture[j] @ K @ mixture[j]).clamp(min=1e-300)) * mixture[j]")),
        ("when g_i · g_j uses a g_j that was already projected. Keep the original gradients until "
         "the end.", RETURN,
         ON_COPIES.format(line="mixture[i] -= K[i] @ mixture[j] / "
                               "(mixture[j] @ K @ mixture[j]).clamp(min=1e-300) * mixture[j]")),
        ("when each task is projected onto the sum of the others. Eq. 2–4 project onto each of "
         "them.", RETURN,
         "    others = 1 - torch.eye(len(K), dtype=torch.float64)\n"
         "    products = (K @ others).diagonal()\n"
         "    lengths = (others @ K @ others).diagonal()\n"
         "    return 1 - torch.where(lengths > 0, products / lengths, 0.0) @ others\n"),
        ("when the projected gradients are averaged. Eq. 5 adds them.", RETURN,
         RETURN.replace("return 1 -", "return (1 -")
         .replace("(crossed))\n", "(crossed))) / len(K)\n")),
        ("when only the last task's projected gradient is returned. Eq. 5 adds all of them.",
         RETURN, ON_COPIES.format(line="mixture[i, j] -= K[i, j] / K[j, j]")
         .replace("mixture.sum(0)", "mixture[-1]")),
        ("when the projections are averaged over the other tasks. Eq. 2–4 subtract all.",
         "crossed / squares, torch", "crossed / squares / max(1, len(K) - 1), torch"),
        ("when the components are added, not subtracted.",
         "return 1 - torch.where(squares", "return 1 + torch.where(squares"),
        ("when the product is divided by ‖g_j‖, not by ‖g_j‖².",
         "crossed / squares, torch", "crossed / squares.sqrt(), torch"),
        ("when the product is not divided by ‖g_j‖² at all.",
         "crossed / squares, torch", "crossed, torch"),
        ("when the product is divided by ‖g_i‖², not by ‖g_j‖².", "crossed = K.sum(0) - squares",
         "crossed = squares * ((K / squares.clamp(min=1e-300)[:, None]).sum(0) - 1)"),
        ("when the product is divided by ‖g_i‖ ‖g_j‖, as in a cosine.",
         "crossed = K.sum(0) - squares",
         "crossed = squares.sqrt() * ((K / squares.clamp(min=1e-300).sqrt()[:, None]).sum(0) - "
         "squares.sqrt())"),
        ("when each task is projected onto itself as well and becomes 0. j must differ from i.",
         "crossed = K.sum(0) - squares", "crossed = K.sum(0)"),
        ("when each pair is used only once. Project task i onto all other tasks, also those before "
         "it.", "crossed = K.sum(0) - squares", "crossed = K.triu(1).sum(0)"),
        ("when nothing is projected: the plain sum of the gradients.",
         "crossed = K.sum(0) - squares", "crossed = 0 * squares"),
        ("when a zero gradient is divided by its length: 0/0 is NaN. Skip it.",
         "torch.where(squares > 0, crossed / squares, torch.zeros_like(crossed))",
         "crossed / squares"),
        ("when a short gradient counts as zero. Compare ‖g_j‖² with exactly 0, and add nothing to "
         "it.", "squares > 0,", "squares > 1e-6,"),
        ("when a small number like 1e-8 is added to ‖g_j‖², so short gradients keep their "
         "conflicts. Skip zero gradients instead.",
         "crossed / squares, torch", "crossed / (squares + 1e-8), torch"),
    ),
    hints=(
        "Which gradients stand on the right-hand side of Eq. 2–4, those before or after surgery?",
        "Use two loops, over i and over all j ≠ i. Take g_i · g_j and ‖g_j‖² from the original "
        "matrix, and subtract from a copy. Skip a g_j whose ‖g_j‖² is 0.",
        "total = gradients.sum(0); for each pair i ≠ j with gradients[j] @ gradients[j] > 0: "
        "total = total − (gradients[i] @ gradients[j]) / (gradients[j] @ gradients[j]) · "
        "gradients[j].",
    ),
)
