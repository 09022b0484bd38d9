"""transformers' BertModel with our weights: the independent encoder that ours is held against."""

from __future__ import annotations

import torch
import transformers

from minbert import BertModel
from minbert.pretrained import file_names


def reference(ours: BertModel) -> transformers.BertModel:
    """In eval mode, with eager attention and our dtype; the weights are carried over name by name."""
    config = transformers.BertConfig(**ours.config.to_dict(), attn_implementation="eager")
    theirs = transformers.BertModel(config).to(next(ours.parameters()).dtype).eval()
    state = theirs.state_dict()
    for name, value in ours.named_parameters():
        names = file_names(name)
        for their_name, rows in zip(names, value.detach().chunk(len(names)), strict=True):
            state[their_name].copy_(rows)
    return theirs


def gradients_by_their_name(ours: BertModel) -> dict[str, torch.Tensor]:
    """Our gradients under transformers' names: queries, keys and values apart."""
    found = {}
    for name, value in ours.named_parameters():
        names = file_names(name)
        found.update(zip(names, value.grad.chunk(len(names)), strict=True))
    return found
