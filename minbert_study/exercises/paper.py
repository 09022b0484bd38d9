"""The paper's Eq. 2–5 on a matrix of gradients."""

import torch

from minbert_study.exercise import Exercise, check, replace
from optim import surgery


def project_paper(gradients):
    """Eq. 2–5 on the vectors. optim.surgery computes the same from the Gram matrix."""
    total = torch.zeros_like(gradients[0])
    for i, g in enumerate(gradients):
        projected = g.clone()
        for j, other in enumerate(gradients):
            square = other @ other
            if j != i and square > 0:
                projected -= g @ other / square * other
        total += projected
    return total


LIBRARY = {"project_paper": surgery.project_paper}


def related(tasks: int, params: int) -> torch.Tensor:
    """Gradients of different lengths; some pairs agree, some are in conflict."""
    return torch.randn(tasks, params) * torch.arange(1, tasks + 1)[:, None]


@check()
def by_hand(part):
    """(2, 0) and (1, 1) agree but are still projected: together they become (1, 0)."""
    return {"result": part.project_paper(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))}


@check()
def conflict(part):
    """(3, 1) and (−2, 1) conflict: together they become (0.5, 3.5), as with PCGrad."""
    return {"result": part.project_paper(torch.tensor([[3.0, 1.0], [-2.0, 1.0]]))}


@check()
def orthogonal(part):
    """Orthogonal gradients are simply added."""
    return {"result": part.project_paper(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0],
                                                       [0.0, 0.0, -3.0]]))}


@check(against=LIBRARY)
def three_tasks(part):
    """Three tasks: every projection starts from the original gradients."""
    return {f"result for {name}": part.project_paper(gradients)
            for name, gradients in (("gradients that agree", torch.rand(3, 7) + 0.1),
                                    ("gradients of both kinds", related(3, 7)))}


@check()
def any_order(part):
    """The result is right, and the same with the tasks in reverse order."""
    gradients = related(4, 6)
    return {"result": part.project_paper(gradients),
            "result with the tasks in reverse": part.project_paper(gradients.flip(0))}


@check()
def zeros(part):
    """The result is right beside a zero g_j, which is left out, so nothing is divided by 0."""
    gradients = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    return {"result": part.project_paper(gradients),
            "result of nothing but zeros": part.project_paper(torch.zeros(3, 4))}


@check(against=LIBRARY)
def many(part):
    """The result is right for any number of tasks, from one to six."""
    return {f"result of {tasks} tasks": part.project_paper(related(tasks, 9))
            for tasks in range(1, 7)}


# float32 holds seven digits, and each order of summation rounds differently. At length 1e-12, ‖g‖²
# is 1e-24: with 1e-16 added, 1e-8 of the projection is left.
@check(tolerance={"result for float32": 1e-4, "result for gradients of 1e-12, over 1e-12": 1e-8})
def short(part):
    """The result is right for short gradients, which do not count as zero, and for float32."""
    gradients = related(3, 20)
    return {"result for gradients of 1e-12, over 1e-12":
                part.project_paper(1e-12 * gradients) / 1e-12,
            "result for float32": part.project_paper(gradients.float())}


LOOP = "    for i, g in enumerate(gradients):\n        projected = g.clone()\n"

EXERCISE = Exercise(
    title="the paper's surgery, Eq. 2–5",
    places=("minbert_study.exercises.paper:project_paper",),
    install=lambda part: replace("optim.surgery:project_paper", part.project_paper),
    mistakes=(
        ("when only conflicts are projected, as PCGrad does. Eq. 2–4 have no such test.",
         "square > 0:", "g @ other < 0:"),
        ("when only pairs that agree are projected. Eq. 2–4 project every pair.",
         "square > 0:", "g @ other > 0:"),
        ("when g_i · g_j uses a g_i that earlier projections changed, as in PCGrad. Eq. 2–4 use "
         "the original g_i.", "-= g @", "-= projected @"),
        ("when g_i and g_j were both already projected. Use the originals: do you write into the "
         "matrix that you read from?",
         LOOP, f"    gradients = gradients.clone()\n{LOOP.replace('g.clone()', 'g')}"),
        ("when g_i · g_j uses a g_j that was already projected. Keep the original gradients until "
         "the end.", LOOP, "    originals, gradients = gradients, gradients.clone()\n"
         "    for i, g in enumerate(originals):\n        projected = gradients[i]\n"),
        ("when the component along the sum of the others is subtracted. Eq. 2–4 subtract one "
         "component for each of them.", "for j, other in enumerate(gradients):",
         "for j, other in [(-1, gradients.sum(0) - g)]:"),
        ("when the projected gradients are averaged. Eq. 5 adds them.",
         "return total", "return total / len(gradients)"),
        ("when only the last task's projected gradient is returned. Eq. 5 adds all of them.",
         "total += projected", "total = projected"),
        ("when the components are averaged over the other tasks. Eq. 2–4 subtract their sum.",
         "/ square *", "/ square / (len(gradients) - 1) *"),
        ("when the components are added, not subtracted.", "projected -=", "projected +="),
        ("when the product is divided by ‖g_j‖, not by ‖g_j‖².", "/ square *", "/ square.sqrt() *"),
        ("when the product is not divided by ‖g_j‖² at all.", "/ square *", "*"),
        ("when the product is divided by ‖g_i‖², not by ‖g_j‖².",
         "square = other @ other", "square = g @ g"),
        ("when the product is divided by ‖g_i‖ ‖g_j‖, as in a cosine.",
         "square = other @ other", "square = g.norm() * other.norm()"),
        ("when j = i is included, so each task loses its own gradient. j must differ from i.",
         "j != i and ", ""),
        ("when each pair is used only once. Task i must meet all other tasks, including those "
         "before it.", "j != i", "j > i"),
        ("when nothing is projected: the plain sum of the gradients.",
         "if j != i and square > 0:", "if False:"),
        ("when the product with a zero g_j is divided by ‖g_j‖²: 0/0 is NaN. Skip such a g_j.",
         " and square > 0", ""),
        ("when a short gradient counts as zero. Compare ‖g_j‖² with exactly 0, not with a small "
         "number.", "square > 0", "square > 1e-6"),
        ("when a small number like 1e-8 is added to ‖g_j‖², so short gradients are hardly "
         "projected. Skip zero gradients instead.", "/ square *", "/ (square + 1e-8) *"),
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
