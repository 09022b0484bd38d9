"""Final-layer fine-tuning: only the heads are trained further (the paper, section 4.3.3).

    for each task:   embedding = encoder(batch), in eval mode and without gradients
                     outputs = head(embedding), in training mode
    then one step of the optimizer

The encoder is now a fixed function, without dropout and without a graph. The heads train as usual,
dropout included.

The optimizer may hold the whole model, with weight decay and with moments from earlier steps. It
skips a parameter whose .grad is None. A .grad of zeros is not None: the parameter still moves, by
its old moments and by the decay. The surgery stage also leaves gradients in .grad.

By hand: an optimizer has lr 0.1, weight decay 0.5 and no moments yet. It turns a weight of 2 into
2 − 0.1 · 0.5 · 2 = 1.9 if its .grad is 0. If its .grad is None, the weight stays 2.

Read tests/lessons/test_10_training.py and the Attributes in the docstring of MultitaskBert.
Check: minbert study check . final_layers
"""

from collections.abc import Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def final_layer_step(model: MultitaskBert, batches: Mapping[str, Batch],
                     optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One step for the heads that have a batch. The encoder and all other heads do not move.

    Afterwards model.encoder and model.heads are back in their previous mode, training or eval. The
    encoder can be trained again, and none of its parameters has a .grad.

    Args:
        model: model.embed(batch) gives the input of a head, model.heads[task] is a task's head, and
            model.tasks[task].loss(outputs, batch.labels) gives the loss.
        batches: task → batch, for some tasks or all.

    Returns:
        task → loss, as a Python float.
    """
    raise NotImplementedError
