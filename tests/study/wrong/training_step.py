"""Wrong training steps, as students hand them in."""

BODY = '''    shared = list(model.encoder.parameters())
    gradients = torch.zeros(len(batches), sum(p.numel() for p in shared))
    losses = {}
    for t, (name, batch) in enumerate(batches.items()):
        own = list(model.heads[name].parameters())
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        found = torch.autograd.grad(loss, shared + own)
        gradients[t] = torch.cat([g.flatten() for g in found[:len(shared)]])
        for p, g in zip(own, found[len(shared):], strict=True):
            p.grad = g
        losses[name] = loss.item()
    g = project(gradients)
    start = 0
    for p in shared:
        p.grad = g[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    optimizer.step()
    optimizer.zero_grad()
    return losses
'''
# The way by backward() and .grad, with a few lines open.
BY_BACKWARD = '''    optimizer.zero_grad()
    rows, losses = [], {{}}
    for name, batch in batches.items():
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        loss.backward()
        rows.append({row})
        {then}
        losses[name] = loss.item()
    {before}
    g = project(torch.stack(rows))
    start = 0
    for p in model.encoder.parameters():
        p.grad = g[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    optimizer.step()
    return losses
'''
ROW = "torch.cat([p.grad.flatten() for p in model.encoder.parameters()])"


def by_backward(row: str = ROW, then: str = "model.encoder.zero_grad()",
                before: str = "pass") -> str:
    return BY_BACKWARD.format(row=row, then=then, before=before)


PROJECTED = "    g = project(gradients)\n"
WRITTEN_BACK = ("    start = 0\n    for p in shared:\n"
                "        p.grad = g[start:start + p.numel()].reshape(p.shape)\n"
                "        start += p.numel()\n")
WRONG = [
    (BODY, by_backward(), None),
    # The summed losses in one backward.
    (BODY, '''    optimizer.zero_grad()
    losses = {name: model.tasks[name].loss(model(name, batch), batch.labels)
              for name, batch in batches.items()}
    sum(losses.values()).backward()
    g = project(torch.cat([p.grad.flatten() for p in model.encoder.parameters()])[None])
    start = 0
    for p in model.encoder.parameters():
        p.grad = g[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}
''', "added before surgery"),
    (BODY, '''    optimizer.zero_grad()
    losses = {name: model.tasks[name].loss(model(name, batch), batch.labels)
              for name, batch in batches.items()}
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}
''', "how often project is called: yours 0, expected 1"),
    (PROJECTED, "    g = project(gradients.sum(0, keepdim=True))\n", "added before surgery"),
    (BODY, by_backward(then="pass"), "still in .grad at the next backward"),
    (BODY, by_backward(then="optimizer.zero_grad()"),
     "gradients when optimizer.step is called, heads."),
    (BODY, by_backward(then="if name != list(batches)[-1]: model.zero_grad()"),
     "every head but the last loses its own"),
    (BODY, by_backward(before="model.zero_grad()"), "the heads get no gradient"),
    # .grad is emptied in place, and the rows are views of it.
    (BODY, by_backward(row="[p.grad.view(-1) for p in model.encoder.parameters()]",
                       then="model.encoder.zero_grad(set_to_none=False)",
                       before="rows = [torch.cat(row) for row in rows]"),
     "rows share memory with .grad"),
    (BODY, by_backward(row="torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad)"
                           ".flatten() for p in model.parameters()])",
                       then="optimizer.zero_grad()"), "the heads are part of the rows"),
    (PROJECTED, PROJECTED + "    g = gradients[-1]\n", "of the last task only"),
    (PROJECTED, PROJECTED + "    g = gradients.sum(0)\n", "the plain sum of the gradients"),
    (PROJECTED, "    g = project(gradients) / len(batches)\n", "divided by the number of tasks"),
    ("torch.autograd.grad(loss, ", "torch.autograd.grad(loss / len(batches), ",
     "each loss is divided"),
    (WRITTEN_BACK + "    optimizer.step()\n", "    optimizer.step()\n" + WRITTEN_BACK,
     "before the encoder's .grad is set"),
    ("        losses[name] = loss.item()\n",
     "        losses[name] = loss.item()\n        optimizer.step()\n",
     "how often optimizer.step is called: yours 4, expected 1"),
    ("    optimizer.step()\n", "", "without optimizer.step"),
    ("            p.grad = g\n", "            p.grad = g if p.grad is None else p.grad + g\n", None),
    ("    optimizer.zero_grad()\n", "", "keeps an old gradient"),
    ("            p.grad = g\n        losses[name] = loss.item()\n",
     "            p.grad = g if p.grad is None else p.grad + g\n        losses[name] = loss.item()\n"
     "        pass\n", None),
    (BODY, by_backward().replace("    optimizer.zero_grad()\n", ""),
     "gradients of the previous step are left over"),
    (BODY, by_backward().replace("    optimizer.zero_grad()\n", "    model.encoder.zero_grad()\n"),
     "the heads keep their gradients"),
    (BODY, by_backward().replace("    optimizer.zero_grad()\n", "    model.heads.zero_grad()\n"),
     "the encoder keeps its gradient"),
    (BODY, BODY.replace("        p.grad = g[start:start + p.numel()].reshape(p.shape)\n",
                        "        new = g[start:start + p.numel()].reshape(p.shape)\n"
                        "        p.grad = new if p.grad is None else p.grad + new\n"
                        ).replace("    optimizer.zero_grad()\n", ""),
     "gradients at the second step"),
    (PROJECTED, "    g = torch.cat([project(each) for each in\n"
     "                   gradients.split([p.numel() for p in shared], 1)])\n",
     "each parameter separately"),
    (PROJECTED, "    g = project(gradients.flip(0))\n", "rows are in reverse order"),
    ("enumerate(batches.items())", "enumerate((n, batches[n]) for n in model.tasks if n in batches)",
     "order of model.tasks"),
    ("enumerate(batches.items())", "enumerate((n, batches[n]) for n in model.tasks)",
     "KeyError: 'para'"),
    ("    start = 0\n    for p in shared:", "    start = 0\n    for p in sorted(shared, key=torch.numel):",
     "to the wrong parameters"),
    ("    start = 0\n    for p in shared:", "    start = 0\n    for p in shared[::-1]:",
     "gradients when optimizer.step is called, encoder."),
    (".reshape(p.shape)", ".reshape(p.shape[::-1]).T",
     "gradients when optimizer.step is called, encoder."),
    ("    shared = list", "    model.eval()\n    shared = list", "eval mode. Training uses dropout"),
    ("        found = torch", "        loss = model.tasks[name].loss(model(name, batch), "
     "batch.labels)\n        found = torch", "forwards, sst: yours 2, expected 1"),
    ("loss.item()", "loss", "losses are Python numbers: yours False"),
    ("    return losses", "    return list(losses.values())", "losses: yours is"),
    ("    return losses", "    return sum(losses.values())", "losses: yours"),
    ("    return losses\n", "", "a `return` missing"),
    ("model.encoder.parameters()", "model.encoder.layers.parameters()",
     "shape of what project gets"),
    ("        p.grad = g[start", "        p.data -= 0.1 * g[start", ".grad is None"),
    ("losses[name] = loss.item()", "losses[name] = loss.item() * len(batch.labels)", "losses, sts"),
    (BODY, by_backward().replace("zero_grad()", "zero_grad(set_to_none=False)", 1),
     "a .grad of zeros, so AdamW's moments move it"),
    ("    optimizer.zero_grad()\n", "    optimizer.zero_grad(set_to_none=False)\n",
     "a .grad of zeros, so AdamW's moments move it"),
    (BODY, BODY.replace("shared + own", "shared").replace(
        "        for p, g in zip(own, found[len(shared):], strict=True):\n            p.grad = g\n", ""),
     "ask torch.autograd.grad for the encoder's only"),
]
