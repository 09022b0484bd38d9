import math

import torch
from torch.nn import functional as F


def attention_weights(query: torch.Tensor, key: torch.Tensor,
                      mask: torch.Tensor | None = None) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -1e30)
    return torch.softmax(scores, dim=-1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    weights = attention_weights(query, key, mask)
    return F.dropout(weights, dropout) @ value
