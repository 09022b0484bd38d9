from collections.abc import Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def final_layer_step(model: MultitaskBert, batches: Mapping[str, Batch],
                     optimizer: torch.optim.Optimizer) -> dict[str, float]:
    encoder_was, heads_were = model.encoder.training, model.heads.training
    model.encoder.eval()
    with torch.no_grad():
        embedded = {name: model.embed(batch) for name, batch in batches.items()}
    model.encoder.train(encoder_was)
    for parameter in model.parameters():
        parameter.grad = None
    model.heads.train()
    losses = {name: model.tasks[name].loss(model.heads[name](embedded[name]), batch.labels)
              for name, batch in batches.items()}
    sum(losses.values()).backward()
    optimizer.step()
    model.heads.train(heads_were)
    return {name: loss.item() for name, loss in losses.items()}
