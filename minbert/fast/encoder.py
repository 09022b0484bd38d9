"""The one place that chooses between the book and the fast forms of the encoder."""

import os
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from . import check, layer, packed
from .gradients import has_hook
from .packing import Packing


def is_plain() -> bool:
    """Whether MINBERT_PLAIN=1 asks for the plain forms only, as --plain does."""
    return os.environ.get("MINBERT_PLAIN", "0") not in ("", "0")


def applies(model: nn.Module) -> bool:
    """Whether the fast forms may stand in for BertModel.forward.

    They may unless plain forms are asked for, they compute something else than the book (see
    check.py), torch is tracing the model, a part has a hook or a method of its own, all modules
    have a hook, or the embeddings, a layer or an attention are of another class.
    """
    is_traced = (torch.compiler.is_compiling() or torch.jit.is_tracing()
                 or torch._C._are_functorch_transforms_active())
    if is_plain() or check.is_running() or is_traced or _has_any_global_hook():
        return False
    parts = list(_parts(model))
    if not all(is_unhooked(part, "split_heads") for part in parts):
        return False
    reference = check.reference_of(model)
    return (reference is not None and type(model.embeddings) is reference.embeddings
            and all(type(part) is reference.layer
                    and type(part.self_attention) is reference.attention for part in model.layers)
            and check.agree_on(model, parts, reference))


def is_unhooked(module: nn.Module, *methods: str) -> bool:
    """Whether it has no hooks, and neither `forward` nor one of these methods was set on it."""
    own = vars(module)
    has_hooks = (own["_forward_pre_hooks"] or own["_forward_hooks"]
                 or own["_backward_pre_hooks"] or own["_backward_hooks"])
    return not has_hooks and own.keys().isdisjoint(("forward", *methods))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """`module.modules()`, faster: this runs at every call, for a hundred parts."""
    yield module
    for part in module._modules.values():
        if part is not None:
            yield from _parts(part)


def is_by_hand(model: nn.Module) -> bool:
    """Whether every layer runs with its derivative by hand, and gradients can go into buffers."""
    weight = next(model.parameters())
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
