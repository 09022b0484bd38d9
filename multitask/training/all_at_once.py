"""All tasks' batches through the encoder's layers at once, and still a gradient for each task.

The tasks' examples are disjoint, so only the gradients of weights need to be told apart: dL/dW = Σ g xᵀ, summed over a
task's own tokens. One product of 1,300 tokens is faster than three of 430, and Python has a third to do; but what
backward needs is kept for all tasks at once, so a step of many tokens is computed task by task. Embeddings, pooler and
heads are autograd's, task by task: little work, and whatever they have become is obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from minbert import BertModel, Packing
from minbert.embeddings import sparse_embedding_gradients
from minbert.fast import layer as fast_layer
from minbert.layer import BertLayer
from multitask.data.batching import Batch
from multitask.model import MultitaskBert
from multitask.system.device import autocast
from optim import TaskGradients

MOST_TOKENS = 2048  # measured: 2,700 gain 6 %, or lose up to 11 (bert-base), 5,300 lose 5 to 13 (docs/performance.md)


def applies(model: MultitaskBert, batches: Mapping[str, Batch]) -> bool:
    """Whether there is something to gain, and the layers run in the form by hand, which can tell tasks apart."""
    encoder = model.encoder
    return (model.device.type == "cpu" and len(batches) > 1
            and sum(len(batch.input_ids) for batch in batches.values()) <= MOST_TOKENS
            and all(batch.packing.all_begin for batch in batches.values())
            and fast_layer.is_plain(model, MultitaskBert, "embed")
            and fast_layer.is_plain(encoder, BertModel, "encode_packed")
            and all(_is_by_hand(layer, encoder.pooler_dense.weight) for layer in encoder.layers))


def _is_by_hand(layer: nn.Module, like: torch.Tensor) -> bool:
    return (fast_layer.is_plain(layer, BertLayer) and fast_layer.applies(layer, like)
            and not any(map(fast_layer.has_hook, layer.parameters())))


def backward(model: MultitaskBert, gradients: TaskGradients, batches: Mapping[str, Batch]) -> list[torch.Tensor]:
    """The gradient of every task's mean loss into its row, in the order of `batches`, and into its head's `.grad`;
    returns the losses."""
    encoder, rows = model.encoder, range(len(batches))
    embedded, d_firsts, losses = [], [], []
    with autocast(model.precision, model.device), sparse_embedding_gradients(encoder):
        for batch in batches.values():
            embedded.append(encoder.embeddings(batch.input_ids, batch.token_type_ids, batch.packing.position_ids))
        whole = torch.cat(embedded).detach().to(gradients.matrix.dtype)
        whole.requires_grad_(embedded[0].requires_grad)
        packing = Packing.joined([batch.packing for batch in batches.values()])
        firsts = encoder.layers_packed(whole, packing, first_only=True)
    for row, (name, batch), first in zip(rows, batches.items(), firsts.split(packing.parts), strict=True):
        first = first.detach().requires_grad_()
        with gradients.row(row):
            loss = model.tasks[name].loss(model.heads[name](model.pool(first, batch)), batch.labels)
            loss.backward()
        losses.append(loss.detach())
        d_firsts.append(torch.zeros_like(first) if first.grad is None else first.grad)
    if firsts.requires_grad:
        with fast_layer.gradients_in_place(encoder.layers, [gradients.views(row) for row in rows]):
            firsts.backward(torch.cat(d_firsts))
        assert all(parameter.grad is None for parameter in encoder.layers.parameters()), "a gradient in no task's row"
    if whole.requires_grad:
        for row, part, d_part in zip(rows, embedded, whole.grad.split(packing.part_tokens), strict=True):
            with gradients.adding(row):
                part.backward(d_part.to(part.dtype))
    return losses
