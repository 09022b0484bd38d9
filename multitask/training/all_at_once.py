"""All tasks' batches through the encoder's layers at once, and still a gradient for each task.

The tasks' examples are disjoint, so only the gradients of weights need to be told apart: dL/dW = Σ
g xᵀ, summed over a task's own tokens. One product of 1,300 tokens is faster than three of 430, and
Python has a third to do. Backward then keeps what it needs for all tasks at once, so a step of many
tokens goes task by task. Embeddings, pooler and heads are autograd's, task by task.
"""

from collections.abc import Mapping

import torch

from minbert import BertModel, fast
from multitask.data.batching import Batch
from multitask.model import MultitaskBert
from multitask.system.device import autocast
from optim import TaskGradients

# Measured: 2,700 tokens gain 6 % or lose up to 11 (bert-base), 5,300 lose 5 to 13.
MOST_TOKENS = 2048


def applies(model: MultitaskBert, batches: Mapping[str, Batch]) -> bool:
    """Whether there is something to gain, and the layers' form by hand can tell tasks apart."""
    tokens = sum(len(batch.input_ids) for batch in batches.values())
    return (model.device.type == "cpu" and len(batches) > 1 and tokens <= MOST_TOKENS
            and all(batch.packing.all_begin for batch in batches.values())
            and type(model) is MultitaskBert and fast.is_unhooked(model, "embed")
            and isinstance(model.encoder, BertModel)
            and fast.is_by_hand(model.encoder))


def backward(model: MultitaskBert, gradients: TaskGradients,
             batches: Mapping[str, Batch]) -> list[torch.Tensor]:
    """The gradient of every task's mean loss, into its row and into its head's `.grad`.

    Args:
        batches: task → batch, in the order of the rows.

    Returns:
        The losses, in that order.
    """
    encoder = model.encoder
    embedded, d_states, losses = [], [], []
    packings = [batch.packing for batch in batches.values()]
    packing = fast.Packing.from_lengths(torch.cat([part.lengths for part in packings]).tolist())
    sequences = [part.batch for part in packings]
    tokens = [len(batch.input_ids) for batch in batches.values()]
    with_mean = model.architecture.mean_pooling
    views = [gradients.views(row) for row in range(len(batches))]

    # Forward, all tasks at once.
    with autocast(model.precision, model.device), fast.sparse_embedding_gradients(encoder):
        for batch in batches.values():
            positions = batch.packing.position_ids
            embedded.append(encoder.embeddings(batch.input_ids, batch.token_type_ids, positions))
        whole = torch.cat(embedded).detach().to(gradients.matrix.dtype)
        whole.requires_grad_(embedded[0].requires_grad)
        with fast.accumulate_into(views, sequences):
            states = fast.encode_layers(encoder, whole, packing, first_only=not with_mean)

    # Pooler and heads, task by task: from each loss back to the last hidden states.
    parts = zip(batches.items(), states.split(tokens if with_mean else sequences), strict=True)
    for row, ((name, batch), part) in enumerate(parts):
        part = part.detach().requires_grad_()
        with gradients.row(row):
            outputs = model.heads[name](model.pool(part, batch))
            loss = model.tasks[name].loss(outputs, batch.labels)
            loss.backward()
        losses.append(loss.detach())
        d_states.append(torch.zeros_like(part) if part.grad is None else part.grad)

    # The layers, all tasks at once: each task's part of dL/dW into its own row.
    if states.requires_grad:
        states.backward(torch.cat(d_states))
        assert all(parameter.grad is None for parameter in encoder.layers.parameters()), (
            "a gradient in no task's row")

    # The embeddings, task by task.
    if whole.requires_grad:
        d_parts = whole.grad.split(tokens)
        for row, (part, d_part) in enumerate(zip(embedded, d_parts, strict=True)):
            with gradients.adding(row):
                part.backward(d_part.to(part.dtype))
    return losses
