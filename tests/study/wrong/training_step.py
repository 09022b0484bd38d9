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
# The way by backward() and .grad.
BY_BACKWARD = '''    optimizer.zero_grad()
    rows, losses = [], {}
    for name, batch in batches.items():
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        loss.backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
        model.encoder.zero_grad()
        losses[name] = loss.item()
    g = project(torch.stack(rows))
    start = 0
    for p in model.encoder.parameters():
        p.grad = g[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    optimizer.step()
    return losses
'''
PROJECTED = "    g = project(gradients)\n"
WRONG = [
    (BODY, BY_BACKWARD, None),
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
    (BODY, BY_BACKWARD.replace("model.encoder.zero_grad()", "optimizer.zero_grad()"),
     "gradients when optimizer.step is called, heads."),
    ("        losses[name] = loss.item()\n",
     "        losses[name] = loss.item()\n        optimizer.step()\n",
     "how often optimizer.step is called: yours 4, expected 1"),
    ("            p.grad = g\n", "            p.grad = g if p.grad is None else p.grad + g\n", None),
    ("            p.grad = g\n        losses[name] = loss.item()\n",
     "            p.grad = g if p.grad is None else p.grad + g\n        losses[name] = loss.item()\n"
     "        pass\n", None),
    (BODY, BODY.replace("        p.grad = g[start:start + p.numel()].reshape(p.shape)\n",
                        "        new = g[start:start + p.numel()].reshape(p.shape)\n"
                        "        p.grad = new if p.grad is None else p.grad + new\n"
                        ).replace("    optimizer.zero_grad()\n", ""),
     "gradients at the second step"),
    ("enumerate(batches.items())", "enumerate((n, batches[n]) for n in model.tasks)",
     "KeyError: 'para'"),
    ("    start = 0\n    for p in shared:", "    start = 0\n    for p in shared[::-1]:",
     "gradients when optimizer.step is called, encoder."),
    (".reshape(p.shape)", ".reshape(p.shape[::-1]).T",
     "gradients when optimizer.step is called, encoder."),
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
]
