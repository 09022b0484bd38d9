"""The layers on a packed row: each by hand where that applies (layer.py), else by autograd.

The form by autograd runs on a GPU, and where a part of the layer was changed: every part is called,
so adapters and parametrized weights keep working. Its equations are those of minbert/layer.py,
which it is compared with at first use (check.py).
"""

import torch
from torch import nn
from torch.nn import functional as F

from . import layer as by_hand
from .packing import Packing

LARGEST_FLASH_HEAD = 256  # the largest head_dim that torch's FlashAttention takes


def encode_layers(model: nn.Module, row: torch.Tensor, packing: Packing,
                  first_only: bool = False) -> torch.Tensor:
    """All layers: (tokens, hidden) → (tokens, hidden), or (batch, hidden) if first_only.

    Where a sequence has no first token, the whole last layer is computed, and zeros stand for it.
    """
    last = len(model.layers) - 1
    for number, layer in enumerate(model.layers):
        if not by_hand.applies(layer, row):
            row = forward(layer, row, packing)
        elif first_only and number == last and packing.all_begin:
            return by_hand.forward(layer, row, packing, first_only=True)
        else:
            row = by_hand.forward(layer, row, packing)
    return packing.first_tokens(row) if first_only else row


def forward(layer: nn.Module, row: torch.Tensor, packing: Packing) -> torch.Tensor:
    """BertLayer.forward: (tokens, hidden) → (tokens, hidden)."""
    attended = layer.attention_dense(attend(layer.self_attention, row, packing))
    hidden = layer.attention_layer_norm(row + layer.dropout(attended))

    expanded = layer.activation(layer.intermediate_dense(hidden))  # (tokens, intermediate)
    return layer.output_layer_norm(hidden + layer.dropout(layer.output_dense(expanded)))


def attend(attention: nn.Module, row: torch.Tensor, packing: Packing) -> torch.Tensor:
    """BertSelfAttention.forward: (tokens, hidden) → (tokens, hidden)."""
    mixed = attention.query_key_value(row)
    dropout = attention.dropout if attention.training else 0.0
    shape = (3, attention.num_heads, attention.head_dim)

    # torch's kernels take heads of whole 16 bytes, and no float64
    if (mixed.device.type == "cuda" and attention.head_dim % 8 == 0
            and mixed.dtype != torch.float64):
        heads = mixed.unflatten(-1, shape).unbind(1)  # each (tokens, heads, head_dim)
        return ragged_attention(*heads, packing.bounds, packing.seq, dropout).flatten(1)

    # (batch, seq, 3, heads, head_dim) → (3, batch, heads, seq, head_dim)
    query, key, value = packing.pad(mixed).unflatten(-1, shape).permute(2, 0, 3, 1, 4)
    mask = None if packing.is_full else packing.mask[:, None, None, :]
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return packing.unpad(context.transpose(1, 2).flatten(2))


def ragged_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                     bounds: torch.Tensor, longest: int, dropout: float = 0.0) -> torch.Tensor:
    """Attention within each sequence of a packed row on a CUDA device, without padding.

    In half precision by the kernel of Dao 2023 (FlashAttention-2), in float32, and where that
    kernel cannot be used, by that of Lefaudeux et al. 2022 (xFormers), both as torch has them.
    Their ATen names are called, since torch's public form of the first, `varlen_attn`, has no
    dropout.

    Args:
        query, key, value: (tokens, heads, head_dim).
        bounds: (batch + 1,) int32, where in the row the sequences begin and end.
        longest: the largest number of tokens of a sequence.

    Returns:
        (tokens, heads, head_dim).
    """
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    # builds for Windows lack the kernel
    is_flash_built = torch.backends.cuda.is_flash_attention_available()
    if (is_half and is_flash_built and query.shape[-1] <= LARGEST_FLASH_HEAD
            and torch.cuda.get_device_capability(query.device) >= (8, 0)):
        return torch.ops.aten._flash_attention_forward(
            query, key, value, bounds, bounds, longest, longest, dropout, False, False)[0]
    row = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, bounds, bounds, longest, longest, dropout, 0,
        True)[0]
    return row[0]
