"""One training step on several tasks with gradient surgery: everything comes together here.

For each task t with loss L_t:       g_t = ∂L_t/∂(encoder), as one long vector
Surgery:                             g = project(g_1, …, g_T)
The encoder's gradient is g. A head belongs to one task and keeps that task's own gradient.
Then the optimizer takes one step. A head whose task is not in `batches` must not move. So its .grad
must be None: with a .grad of 0, AdamW would still move it by its moments.

The losses are never added, because surgery needs each task's gradient separately. So each task has
a forward and a backward of its own. backward() adds to .grad, so take the encoder's gradient out of
.grad before the next backward. torch.autograd.grad is another way. It does not fill .grad, so ask
it for the head's gradient as well.

By hand: an encoder has two parameters, a (1 number) and b (2 numbers). The first task's gradients
are 1 for a and (2, 3) for b; the second's are 0 and (−2, 1). So the rows are (1, 2, 3) and
(0, −2, 1). If project returns their sum, a.grad becomes 1 and b.grad becomes (0, 4).

Read tests/lessons/test_10_training.py and the Attributes in the docstring of MultitaskBert.
Check: minbert study check . training_step
"""

from collections.abc import Callable, Mapping

import torch

from multitask import MultitaskBert
from multitask.data.batching import Batch


def train_step(model: MultitaskBert, batches: Mapping[str, Batch], optimizer: torch.optim.Optimizer,
               project: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    """One forward and one backward per task, surgery, one update. Earlier gradients are discarded.

    Args:
        model: the tasks share model.encoder.parameters(). model.heads[task] is a task's head,
            model(task, batch) gives the raw outputs, and model.tasks[task].loss(outputs,
            batch.labels) gives the loss.
        batches: task → batch, for some tasks or all. Their order is the order of the rows.
        project: (tasks, params) → (params,), the surgery. A row holds the gradients of all
            model.encoder.parameters(), in their order.

    Returns:
        task → loss, as a Python float.
    """
    raise NotImplementedError
