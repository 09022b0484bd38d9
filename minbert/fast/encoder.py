"""The one place that chooses between the book and the fast forms of the encoder."""

import os

import torch
from torch import nn

from . import check, layer, packed
from .gradients import has_hook
from .packing import Packing


def is_plain() -> bool:
    """Whether MINBERT_PLAIN=1 asks for the plain forms only, as --plain does."""
    return os.environ.get("MINBERT_PLAIN", "0") not in ("", "0")


def applies(model: nn.Module) -> bool:
    """Whether the fast forms may stand in for BertModel.forward.

    They may unless plain forms are asked for, they compute something else than the book (see
    check.py), torch is tracing the model, or the way this model or its layers are called was
    changed.
    """
    if is_plain() or check.is_running() or torch.compiler.is_compiling():
        return False
    reference = check.reference_of(model)
    return reference is not None and layer.is_unhooked(model) and all(
        _is_called_as_built(part, *reference) for part in model.layers)


def _is_called_as_built(part: nn.Module, layer_class: type, attention_class: type) -> bool:
    return (type(part) is layer_class and layer.is_unhooked(part)
            and type(part.self_attention) is attention_class
            and layer.is_unhooked(part.self_attention, "split_heads"))


def is_by_hand(model: nn.Module) -> bool:
    """Whether every layer runs with its derivative by hand, and gradients can go into buffers."""
    weight = model.pooler_dense.weight
    return applies(model) and all(
        layer.applies(part, weight) and not any(map(has_hook, part.parameters()))
        for part in model.layers)


def encode_packed(model: nn.Module, input_ids: torch.Tensor, token_type_ids: torch.Tensor,
                  packing: Packing, first_only: bool = False) -> torch.Tensor:
    """The encoder on a row of real tokens.

    Args:
        model: a BertModel.
        input_ids, token_type_ids: (tokens,) int64.
        first_only: return the first token of each sequence alone, [CLS], which is all that the
            pooler reads. On a CPU the last layer then leaves out five sixths of its work.

    Returns:
        (tokens, hidden), or (batch, hidden) with first_only.
    """
    if not applies(model):
        padded = model(packing.pad(input_ids), packing.mask, packing.pad(token_type_ids))
        row = packing.unpad(padded.last_hidden_state)
        return packing.first_tokens(row) if first_only else row

    embedded = model.embeddings(input_ids, token_type_ids, packing.position_ids)
    return packed.encode_layers(model, embedded, packing, first_only)


def encode_padded(model: nn.Module, input_ids: torch.Tensor, token_type_ids: torch.Tensor,
                  mask: torch.Tensor) -> torch.Tensor:
    """The encoder on a padded batch without its padding, where `applies` holds.

    Args:
        input_ids, token_type_ids: (batch, seq) int64.
        mask: (batch, seq) bool, True where a token is real.

    Returns:
        (batch, seq, hidden).
    """
    packing = Packing.from_mask(mask)
    row = model.embeddings(packing.unpad(input_ids), packing.unpad(token_type_ids),
                           packing.position_ids)
    return packing.pad(packed.encode_layers(model, row, packing))
