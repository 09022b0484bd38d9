"""One training step of several tasks with gradient surgery, where everything meets.

For each task t with loss L_t:       g_t = ∂L_t/∂(encoder), as one long vector
Surgery:                             g = project(g_1, …, g_T)
The encoder's gradient is g. A head belongs to one task and keeps that task's own gradient.
Then the optimizer makes one step. A head whose task is not in `batches` rests: its .grad must be
None, since AdamW moves by its moments where .grad is 0.

The losses are never added: surgery must see each task's gradient by itself. So there are as many
forwards and backwards as tasks. Between two backwards a gradient must be taken out of .grad, since
backward() adds to what is there. torch.autograd.grad is another way; it fills no .grad, so ask it
for the head's gradient as well.

By hand, for an encoder of two parameters, a (1 number) and b (2 numbers), and two tasks: with the
gradients a 1, b (2, 3) of the first and a 0, b (−2, 1) of the second, the rows are (1, 2, 3) and
(0, −2, 1). If project returns their sum, a.grad becomes 1 and b.grad (0, 4).

Read tests/lessons/test_10_training.py and the Attributes in the docstring of MultitaskBert.
Check: minbert study check . training_step
"""

from collections.abc import Callable, Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def train_step(model: MultitaskBert, batches: Mapping[str, Batch], optimizer: torch.optim.Optimizer,
               project: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    """Three forwards, three backwards, surgery, one update; a second call starts from nothing.

    Args:
        model: model.encoder.parameters() are what the tasks share; model.heads[task] is a head;
            model(task, batch) gives the raw outputs, and model.tasks[task].loss(outputs,
            batch.labels) the loss.
        batches: task → batch, of some tasks or all. Their order is that of the rows.
        project: (tasks, params) → (params,), the surgery. A row holds the gradients of all of
            model.encoder.parameters(), in their order.

    Returns:
        task → loss, as a Python number.
    """
    raise NotImplementedError
