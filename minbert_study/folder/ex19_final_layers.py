"""Final-layer fine-tuning: the heads are trained further, the encoder stays as it is (the paper,
section 4.3.3).

    for each task:   embedding = encoder(batch), in eval mode and without gradients
                     outputs = head(embedding), in training mode
    then one step of the optimizer

The encoder is a function that no longer changes: no dropout in it, no graph through it. The heads
train as ever, dropout included.

The optimizer may hold the whole model, with moments and weight decay from earlier steps. It leaves
a parameter alone whose .grad is None. A .grad of zeros is not None: the parameter then moves, by
its old moments and by the decay. The surgery stage leaves gradients behind in .grad as well.

By hand: an optimizer with lr 0.1 and weight decay 0.5 turns a weight of 2 into 2 − 0.1 · 0.5 · 2 =
1.9 if its .grad is 0. If its .grad is None, the weight stays 2.

Read tests/lessons/test_10_training.py and the Attributes in the docstring of MultitaskBert.
Check: minbert study check . final_layers
"""

from collections.abc import Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def final_layer_step(model: MultitaskBert, batches: Mapping[str, Batch],
                     optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One step of the heads that have a batch. The encoder and all other heads do not move.

    Afterwards model.encoder and model.heads are in the mode, training or eval, in which they were
    before, the encoder can be trained again, and no parameter of it has a .grad.

    Args:
        model: model.embed(batch) gives what the heads take, model.heads[task] is a head, and
            model.tasks[task].loss(outputs, batch.labels) the loss.
        batches: task → batch, of some tasks or all.

    Returns:
        task → loss, as a Python number.
    """
    raise NotImplementedError
