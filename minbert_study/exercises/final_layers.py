"""A step of final-layer fine-tuning, in plain PyTorch."""

import torch

from minbert_study.exercise import Exercise, check
from minbert_study.watching import FLOAT32, Optimizer, Seen, batches_of, mode_of, tiny_model


def final_layer_step(model, batches, optimizer):
    """The library's answer without its cache of embeddings; see multitask/training."""
    modes = model.encoder.training, model.heads.training
    model.encoder.eval()
    model.heads.train()
    model.zero_grad()
    losses = {}
    for name, batch in batches.items():
        with torch.no_grad():
            embeddings = model.embed(batch)
        loss = model.tasks[name].loss(model.heads[name](embeddings), batch.labels)
        loss.backward()
        losses[name] = loss.item()
    optimizer.step()
    model.encoder.train(modes[0])
    model.heads.train(modes[1])
    return losses


def by_formula(model, batches, optimizer):
    """The gradients of one-layer heads without dropout, by hand, and plain descent along them."""
    losses = {}
    model.eval()
    with torch.no_grad():
        for name, batch in batches.items():
            x, y = model.embed(batch), batch.labels
            outputs = model.heads[name](x)
            losses[name] = model.tasks[name].loss(outputs, y).item()
            if name == "sst":    # cross-entropy: softmax less the right class
                error = outputs.softmax(1) - torch.eye(5)[y.long()]
            elif name == "para":  # binary cross-entropy: sigmoid less the label
                error = outputs.sigmoid() - y[:, None]
            else:                # squared error
                error = 2 * (outputs - y[:, None])
            weight, bias = model.heads[name].parameters()
            weight -= optimizer.lr * error.T @ x / len(y)
            bias -= optimizer.lr * error.mean(0)
    model.train()
    return losses


def one_step(part, *tasks: str, heads_train: bool = True, **model: object):
    """A step of plain gradient descent."""
    model = tiny_model(**model)
    model.heads.train(heads_train)
    seen, optimizer = Seen(model), Optimizer(model)
    losses = part.final_layer_step(model, batches_of(*tasks), optimizer)
    return seen, optimizer, losses


# ------------------------------------------------------------------------------------------ checks


@check(tolerance={"embeddings": FLOAT32})
def how_they_run(part):
    """The encoder runs in eval mode without a graph, the heads in training mode."""
    seen, _, _ = one_step(part, "sts", dropout=0.2)
    other, _, _ = one_step(part, "sts", heads_train=False)
    return {"how they ran": seen.modes, "embeddings": seen.embeddings,
            "how they ran where the heads were in eval mode": other.modes}


@check(tolerance={"gradients of heads at the second step": FLOAT32})
def second_step(part):
    """A second step's gradients are right, and each step calls optimizer.step once."""
    model = tiny_model()
    optimizer = Optimizer(model)
    for first in (0, 2):
        part.final_layer_step(model, batches_of(first=first), optimizer)
    return {"how often optimizer.step is called in two steps": len(optimizer.gradients),
            "gradients of heads at the second step": optimizer.at_step("heads.")}


@check(against={"final_layer_step": by_formula},
       tolerance={"losses": FLOAT32, "moved": FLOAT32})
def by_hand(part):
    """Each head takes one gradient step on its own loss; a formula gives the gradients."""
    seen, _, losses = one_step(part, dropout=0.2)
    return {"losses": losses, "moved": seen.moved("heads.")}


@check(tolerance={"losses": FLOAT32, "moved": FLOAT32})
def dropout_in_heads(part):
    """The step is right with dropout in the heads alone; losses are Python numbers."""
    seen, _, losses = one_step(part, dropout=0.2, head_dropout=True)
    return {"forwards of each head": seen.forwards, "losses": losses,
            "moved": seen.moved("heads.")}


@check()
def encoder_rests(part):
    """The encoder does not move, whatever moments the optimizer has and whatever is in .grad."""
    found = {}
    for name in ("without gradients from before", "with gradients from before"):
        model = tiny_model()
        optimizer = Optimizer(model, lr=1e-2, weight_decay=0.5)
        if name.startswith("with "):
            for value in model.parameters():
                value.grad = torch.ones_like(value)
            optimizer.step()  # now it has moments
        seen = Seen(model)
        part.final_layer_step(model, batches_of(), optimizer)
        moved = torch.cat([value.flatten() for value in seen.moved("encoder.").values()])
        found[f"encoder's weights that moved, {name}"] = int((moved != 0).sum())
        found[f"encoder's parameters that have a .grad afterwards, {name}"] = sum(
            value.grad is not None for value in model.encoder.parameters())
    return found


# Adam's step is lr · sign(g): where |g| is near eps = 1e-6, float32 noise shows in it
@check(tolerance={"moved": 2 * FLOAT32})
def other_heads_rest(part):
    """Heads move as they should; one without a batch stays, even if the optimizer has moments."""
    model = tiny_model()
    optimizer = Optimizer(model, lr=1e-2, weight_decay=0.5)
    part.final_layer_step(model, batches_of(), optimizer)
    seen = Seen(model)
    part.final_layer_step(model, batches_of("sts", "para"), optimizer)
    rests = torch.cat([value.flatten() for value in seen.moved("heads.sst.").values()])
    return {"weights of the sst head that moved": int((rests != 0).sum()),
            "moved": seen.moved("heads.")}


@check()
def afterwards(part):
    """Encoder and heads return to their previous modes and can be trained again."""
    found = {}
    for encoder, heads in ((True, True), (False, False), (False, True), (True, False)):
        model = tiny_model()
        model.encoder.train(encoder)
        model.heads.train(heads)
        before = f"encoder in {mode_of(model.encoder)}, heads in {mode_of(model.heads)} mode"
        part.final_layer_step(model, batches_of(), Optimizer(model))
        found[f"after a step that began with {before}"] = (
            f"encoder in {mode_of(model.encoder)}, heads in {mode_of(model.heads)} mode")
    return found | {
        "every part of the encoder in its mode":
            len({each.training for each in model.encoder.modules()}) == 1,
        "every parameter requires a gradient":
            all(value.requires_grad for value in model.parameters())}


# ---------------------------------------------------------------------------------------- mistakes
# The text to be found ends with a line break, so that it is found in final_layer_step alone.

EVAL = "    model.encoder.eval()\n"
TRAIN = "    model.heads.train()\n"
ZERO = "    model.zero_grad()\n"
NO_GRAD = "        with torch.no_grad():\n"
BACKWARD = "        loss.backward()\n"
STEP = "    optimizer.step()\n"
BACK = "    model.encoder.train(modes[0])\n    model.heads.train(modes[1])\n"

EXERCISE = Exercise(
    title="a step of final-layer fine-tuning",
    places=("minbert_study.exercises.final_layers:final_layer_step",),
    is_alone=True,
    mistakes=(
        ("when the encoder stays in training mode, so its dropout changes the embeddings each "
         "time. Call model.encoder.eval().", EVAL, "    model.encoder.train()\n"),
        ("when the whole model is in eval mode, so the heads train without dropout. Call "
         "model.heads.train().", TRAIN, "    model.heads.eval()\n"),
        ("when the embeddings are computed with a graph, which costs time and memory for nothing. "
         "Use torch.no_grad().", NO_GRAD, "        if True:\n"),
        ("when the encoder trains too: it is in training mode, and there is no torch.no_grad().",
         EVAL + TRAIN + ZERO + "    losses = {}\n"
         "    for name, batch in batches.items():\n" + NO_GRAD,
         "    model.train().zero_grad()\n    losses = {}\n"
         "    for name, batch in batches.items():\n        if True:\n"),
        ("when old gradients of the heads are not cleared, so new ones are added to them.",
         ZERO, "    model.encoder.zero_grad()\n"),
        ("when the encoder's old gradients stay in .grad, so the optimizer moves it. Set them to "
         "None.", ZERO, "    model.heads.zero_grad()\n"),
        ("when old gradients of encoder and heads stay in .grad. Set them to None.", ZERO, ""),
        *(("when gradients are set to 0, not to None. Weight decay and old moments then move what "
           "must not move.", ZERO, cleared)
          for cleared in ("    model.zero_grad(set_to_none=False)\n",
                          "    for each in model.parameters():\n"
                          "        each.grad = torch.zeros_like(each)\n")),
        ("when the modes are not restored afterwards.", BACK, ""),
        ("when the model is always in training mode afterwards. Restore the modes it had before.",
         BACK, "    model.train()\n"),
        ("when optimizer.step is called for each task. Call it once, at the end.",
         BACKWARD, BACKWARD + "        optimizer.step()\n"),
        ("without optimizer.step.", STEP, ""),
        ("when the losses are divided by the number of tasks.",
         BACKWARD, "        (loss / len(batches)).backward()\n"),
        ("when the encoder stays frozen afterwards: requires_grad is still False.",
         EVAL, EVAL + "    model.encoder.requires_grad_(False)\n"),
    ),
    hints=(
        "What does eval() change, and what does it not change? What keeps autograd from building a "
        "graph?",
        "Remember model.encoder.training and model.heads.training. Set every .grad to None. "
        "Encoder: eval(), and embed under torch.no_grad(). Heads: train(). One backward per task, "
        "one optimizer.step, then restore both modes.",
        "model.zero_grad() sets .grad to None. with torch.no_grad(): x = model.embed(batch). loss "
        "= model.tasks[name].loss(model.heads[name](x), batch.labels); loss.backward(). At the end "
        "model.encoder.train(old_mode), and the same for model.heads.",
    ),
)
