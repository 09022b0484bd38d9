"""Wrong steps of final-layer fine-tuning, as students hand them in."""

NONE = "    for parameter in model.parameters():\n        parameter.grad = None\n"
NO_GRAD = ("    with torch.no_grad():\n"
           "        embedded = {name: model.embed(batch) for name, batch in batches.items()}\n")
EMBED = "    embedded = {name: model.embed(batch) for name, batch in batches.items()}\n"
WRONG = [
    ("    model.encoder.eval()\n", "", "encoder stays in training mode"),
    ("    model.heads.train()\n", "    model.heads.eval()\n", "the whole model is in eval mode"),
    ("    model.encoder.eval()\n" + NO_GRAD + "    model.encoder.train(encoder_was)\n" + NONE
     + "    model.heads.train()\n", "    model.eval()\n" + NO_GRAD + NONE,
     "the whole model is in eval mode"),
    (NO_GRAD, EMBED, "computed with a graph"),
    (NONE, "    optimizer.zero_grad()\n", None),
    ("    model.heads.train(heads_were)\n", "", "heads in training mode"),
    ("    model.encoder.train(encoder_was)\n", "", "encoder in eval, heads in training mode"),
    ("    model.encoder.train(encoder_was)\n", "    model.encoder.train()\n",
     "encoder in training, heads in eval mode"),
    ("    sum(losses.values()).backward()\n    optimizer.step()\n",
     "    for loss in losses.values():\n        loss.backward()\n        optimizer.step()\n",
     "how often optimizer.step is called in two steps: yours 6, expected 2"),
    ("    sum(losses.values()).backward()\n    optimizer.step()\n",
     "    for loss in losses.values():\n        optimizer.zero_grad()\n        loss.backward()\n"
     "    optimizer.step()\n", "heads.sst.1.weight: .grad is None"),
    ("loss.item() for", "loss for", "losses are Python numbers: yours False"),
    ("    return {name: loss.item() for name, loss in losses.items()}\n", "", "a `return` missing"),
    ("    model.heads.train()\n    losses", "    model.heads.train()\n    with torch.no_grad():\n"
     "        [model(name, batch) for name, batch in batches.items()]\n    losses",
     "how they ran"),
    ("    optimizer.step()\n", "    optimizer.step()\n    for p in model.encoder.parameters():\n"
     "        p.grad = torch.zeros_like(p)\n", "that have a .grad afterwards"),
    ("model.heads[name](embedded[name])", "model(name, batch)", "how they ran"),
    ("    optimizer.step()\n", "    for parameter in model.heads.parameters():\n"
     "        if parameter.grad is not None:\n            parameter.data -= 0.1 * parameter.grad\n",
     "how often optimizer.step is called in two steps: yours 0"),
    ("    model.heads.train()\n", "", "where the heads were in eval mode"),
]
