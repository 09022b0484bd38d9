from collections.abc import Callable, Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def train_step(model: MultitaskBert, batches: Mapping[str, Batch], optimizer: torch.optim.Optimizer,
               project: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    shared = list(model.encoder.parameters())
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
