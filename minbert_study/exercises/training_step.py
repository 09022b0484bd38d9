"""One training step with gradient surgery, in plain PyTorch."""

import torch

from minbert_study.exercise import Exercise, check
from minbert_study.watching import FLOAT32, Optimizer, Seen, batches_of, tiny_model
from optim.surgery import project_conflicting


def train_step(model, batches, optimizer, project):
    """The library's answer without its fast forms, which are in multitask/training/step.py."""
    encoder = list(model.encoder.parameters())
    rows, losses = [], {}
    model.zero_grad()
    for name, batch in batches.items():
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        loss.backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in encoder]))
        for parameter in encoder:
            parameter.grad = None  # else the next task's gradient is added to this one's
        losses[name] = loss.item()

    combined = project(torch.stack(rows))
    sizes = [parameter.numel() for parameter in encoder]
    for parameter, part in zip(encoder, combined.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.step()
    return losses


# ------------------------------------------------------------------------------------------ checks


def weighted(gradients: torch.Tensor) -> torch.Tensor:
    """A surgery that shows the order of tasks and of parameters, and counts nothing twice."""
    tasks, params = gradients.shape
    weights = torch.arange(1.0, tasks + 1)
    return (weights @ gradients) * torch.linspace(1, 2, params)


def by_sum(gradients: torch.Tensor) -> torch.Tensor:
    return gradients.sum(0)


def one_backward(model, batches, optimizer, project):
    """Eq. 1 of the paper: where surgery is the sum, one backward of the summed losses."""
    optimizer.zero_grad()
    losses = {name: model.tasks[name].loss(model(name, batch), batch.labels)
              for name, batch in batches.items()}
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def one_step(part, project, *tasks: str, **model: object) -> tuple[Seen, Optimizer, dict]:
    """A step of plain gradient descent."""
    model = tiny_model(**model)
    seen, optimizer = Seen(model), Optimizer(model)
    losses = part.train_step(model, batches_of(*tasks), optimizer, seen.spy(project))
    return seen, optimizer, losses


@check()
def matrix(part):
    """project is called once, with one row per task and one column per number in the encoder."""
    seen, _, _ = one_step(part, by_sum)
    return {"how often project is called": len(seen.matrices),
            "shape of what project gets": [list(each.shape) for each in seen.matrices]}


ROWS = [f"row {number}, the gradient of {name}"
        for number, name in enumerate(("sst", "para", "sts"))]


@check(tolerance=dict.fromkeys(ROWS, FLOAT32))
def rows(part):
    """Each row is the gradient of one task alone, over model.encoder.parameters()."""
    seen, _, _ = one_step(part, by_sum)
    return dict(zip(ROWS, seen.matrices[0] if seen.matrices else (), strict=False))


AT_STEP = "gradients when optimizer.step is called"


@check(tolerance={AT_STEP: FLOAT32})
def encoder(part):
    """The encoder's .grad is what project returns, with each piece at its own parameter."""
    _, optimizer, _ = one_step(part, weighted)
    return {"how often optimizer.step is called": len(optimizer.gradients),
            AT_STEP: optimizer.at_step("encoder.")}


@check(tolerance={AT_STEP: FLOAT32})
def heads(part):
    """A head keeps its own task's gradient, which project does not change."""
    _, optimizer, _ = one_step(part, weighted)
    return {AT_STEP: optimizer.at_step("heads.")}


@check(tolerance={"moved": FLOAT32, "gradients at the second step": FLOAT32})
def second_step(part):
    """A second step is right: no gradient of the first is left over."""
    model = tiny_model()
    seen, optimizer = Seen(model), Optimizer(model)
    for first in (0, 2):
        part.train_step(model, batches_of(first=first), optimizer, weighted)
    return {"gradients at the second step": optimizer.at_step(), "moved": seen.moved()}


@check(tolerance={"what project gets": FLOAT32, "losses": FLOAT32, "moved": FLOAT32})
def other_tasks(part):
    """With two of the tasks, in another order, the step is right; the third head does not move."""
    seen, _, losses = one_step(part, weighted, "sts", "sst")
    return {"what project gets": seen.matrices[0] if seen.matrices else None,
            "losses": losses, "moved": seen.moved()}


@check(tolerance={"losses": FLOAT32, "moved": FLOAT32})
def dropout(part):
    """With dropout the step is right: one forward per task, and losses that are Python numbers."""
    seen, _, losses = one_step(part, weighted, dropout=0.2, head_dropout=True)
    return {"forwards": seen.forwards,
            "the model is in training mode afterwards":
                all(module.training for module in seen.model.modules()),
            "losses": losses, "moved": seen.moved()}


@check(against={"train_step": one_backward}, tolerance={"losses": FLOAT32, "moved": FLOAT32})
def as_one_backward(part):
    """With the sum as surgery, the step is one backward of the summed losses (the paper, Eq. 1)."""
    seen, _, losses = one_step(part, by_sum)
    return {"losses": losses, "moved": seen.moved()}


@check(tolerance={AT_STEP: FLOAT32})
def resting(part):
    """Heads get the right gradients; one without a batch stays, even if AdamW has moments."""
    model = tiny_model()
    optimizer = Optimizer(model, lr=1e-3, weight_decay=0.0)
    part.train_step(model, batches_of(), optimizer, weighted)
    seen = Seen(model)
    part.train_step(model, batches_of("sts", first=2), optimizer, weighted)
    moved = {name.split(".")[1] for name, value in seen.moved("heads.").items() if value.any()}
    return {"heads that a step with a batch of sts alone moves": sorted(moved),
            AT_STEP: optimizer.at_step("heads.")}


# Adam's step is lr · sign(g): where |g| is near eps = 1e-6, float32 noise shows in it
@check(tolerance={"losses of the second step": FLOAT32, "moved": 2 * FLOAT32})
def for_real(part):
    """Two steps with PCGrad and AdamW, weight decay included."""
    model = tiny_model()
    seen, optimizer, losses = Seen(model), Optimizer(model, lr=1e-3, weight_decay=0.1), None
    for first in (0, 2):
        losses = part.train_step(
            model, batches_of(first=first), optimizer,
            lambda gradients: project_conflicting(gradients, [[2, 1], [0, 2], [1, 0]]))
    return {"losses of the second step": losses, "moved": seen.moved()}


# ---------------------------------------------------------------------------------------- mistakes
# The text to be found ends with a line break, so that it is found in train_step alone.

ROW = "        rows.append(torch.cat([parameter.grad.flatten() for parameter in encoder]))\n"
TAKEN_OUT = ("        for parameter in encoder:\n"
             "            parameter.grad = None  # else the next task's gradient is added to this "
             "one's\n")
COMBINED = "    combined = project(torch.stack(rows))\n"
BACK = ("    for parameter, part in zip(encoder, combined.split(sizes), strict=True):\n"
        "        parameter.grad = part.view_as(parameter)\n")
BACKWARD = "        loss.backward()\n"
STEP = "    optimizer.step()\n    return losses\n"
LOOP = "    for name, batch in batches.items():\n"
LOSS = "        losses[name] = loss.item()\n\n"
SIZES = "    sizes = [parameter.numel() for parameter in encoder]\n"

EXERCISE = Exercise(
    title="a training step with surgery",
    places=("minbert_study.exercises.training_step:train_step",),
    is_alone=True,
    mistakes=(
        ("when the gradient of one task is still in .grad at the next backward: row 2 is g_1 + "
         "g_2, row 3 the sum of all three. Set the encoder's .grad to None in between.",
         TAKEN_OUT, ""),
        ("when the tasks' gradients are added before surgery, so project gets a single row. Stack "
         "one row per task.", COMBINED, "    combined = project(sum(rows)[None])\n"),
        ("when the heads' gradients are cleared between two tasks as well, so every head but the "
         "last loses its own. Clear only the encoder's.",
         TAKEN_OUT, "        if name != list(batches)[-1]:\n            model.zero_grad()\n"),
        ("when the heads get no gradient. Do you clear it after the last backward, or ask "
         "torch.autograd.grad for the encoder's only?",
         COMBINED, COMBINED + "    model.zero_grad()\n"),
        ("when the heads are part of the rows. Surgery is for the shared encoder only: use "
         "model.encoder.parameters().", ROW + TAKEN_OUT + LOSS + COMBINED + SIZES + BACK,
         "        rows.append(torch.cat([\n            (torch.zeros_like(each) if each.grad "
         "is None else each.grad).flatten()\n            for each in model.parameters()]))\n"
         "        model.zero_grad()\n" + LOSS + COMBINED + SIZES
         + BACK.replace("combined", "combined[:sum(sizes)]")),
        ("when rows share memory with .grad, which is later set to zero in place. Copy them with "
         "torch.cat or clone().", ROW, ROW.replace("torch.cat", "0 * torch.cat")),
        ("when the encoder gets the gradient of the last task only; project's result is not used.",
         COMBINED, COMBINED + "    combined = rows[-1]\n"),
        ("when the encoder gets the plain sum of the gradients; project's result is not used.",
         COMBINED, COMBINED + "    combined = sum(rows)\n"),
        ("when project's result is divided by the number of tasks. How to merge the rows is up to "
         "project.", COMBINED, COMBINED.replace("\n", " / len(rows)\n")),
        ("when each loss is divided by the number of tasks.",
         BACKWARD, "        (loss / len(batches)).backward()\n"),
        ("when optimizer.step comes before the encoder's .grad is set.",
         BACK + "    optimizer.step()\n", "    optimizer.step()\n" + BACK),
        ("when optimizer.step is called for each task. Call it once, at the end.",
         TAKEN_OUT, "        optimizer.step()\n" + TAKEN_OUT),
        ("without optimizer.step.", STEP, "    return losses\n"),
        ("when gradients of the previous step are left over. Set every .grad to None before the "
         "first backward.", "    model.zero_grad()\n", ""),
        ("when the head of a task without a batch has a .grad of zeros, so AdamW's moments move "
         "it. Its .grad must be None: call zero_grad() without set_to_none=False.",
         "    model.zero_grad()\n", "    model.zero_grad(set_to_none=False)\n"),
        ("when the head of a task without a batch keeps an old gradient and moves by it again. Set "
         "its .grad to None.", "    model.zero_grad()\n",
         "    model.encoder.zero_grad()\n    for name in batches:\n"
         "        model.heads[name].zero_grad()\n"),
        ("when the heads keep their gradients of the previous step. Clear them too, not only the "
         "encoder's.", "    model.zero_grad()\n", "    model.encoder.zero_grad()\n"),
        ("when the encoder keeps its gradient of the previous step. Clear it too, not only the "
         "heads'.", "    model.zero_grad()\n", "    model.heads.zero_grad()\n"),
        ("when surgery is applied to each parameter separately. Here g_t is the gradient of the "
         "whole encoder.", COMBINED,
         "    combined = torch.cat([project(each) for each in torch.stack(rows).split(\n"
         "        [parameter.numel() for parameter in encoder], 1)])\n"),
        ("when the rows are in reverse order. Use the order of `batches`.",
         COMBINED, "    combined = project(torch.stack(rows[::-1]))\n"),
        ("when the rows are in the order of model.tasks. Use the order of `batches`.", LOOP,
         "    for name, batch in [(name, batches[name]) for name in model.tasks if "
         "name in batches]:\n"),
        ("when the pieces of project's result go to the wrong parameters. Split the result in the "
         "order in which the rows were made.",
         BACK, "    encoder.sort(key=torch.numel)\n    sizes = sorted(sizes)\n" + BACK),
        ("when the model is in eval mode. Training uses dropout.",
         "    model.zero_grad()\n", "    model.eval().zero_grad()\n"),
    ),
    hints=(
        "After loss.backward(), where is the gradient? What happens to it at the next backward()?",
        "For each task: forward, loss, backward. Flatten the encoder's gradients into one row with "
        "torch.cat, then set .grad of the encoder's parameters to None. After all tasks, project "
        "the stacked rows. Split the result by numel() and view_as each parameter.",
        "rows.append(torch.cat([p.grad.flatten() for p in encoder])); … combined = "
        "project(torch.stack(rows)); for p, piece in zip(encoder, combined.split([p.numel() for p "
        "in encoder])): p.grad = piece.view_as(p); optimizer.step(). model.zero_grad() comes "
        "first.",
    ),
)
