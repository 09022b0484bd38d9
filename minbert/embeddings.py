"""From token ids to vectors: token + position + segment, then LayerNorm and dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from minbert.fast.dropout import Dropout


class Embedding(nn.Embedding):
    """nn.Embedding, without drawing weights that have no memory yet: on the meta device, where a checkpoint's shapes
    are built, that would make torch import its compiler, for seconds."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


@contextmanager
def sparse_embedding_gradients(module: nn.Module) -> Iterator[None]:
    """Of lookups made inside, on a CPU, backward gives the rows that were looked up alone: added to a dense gradient
    where there is one, else left as a sparse gradient, as TaskGradients wants it of its table."""
    tables = [table for table in module.modules() if isinstance(table, Embedding) and table.weight.device.type == "cpu"]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


class BertEmbeddings(nn.Module):
    """E = dropout(LayerNorm(W_token[id] + W_position[position] + W_segment[type])) (Devlin et al. 2018, Fig. 2).

    Works on any leading shape: (batch, seq) of padded sentences, or (tokens,) of packed ones.
    """

    def __init__(self, vocab_size: int, hidden_size: int, max_positions: int, type_vocab_size: int,
                 layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = Embedding(vocab_size, hidden_size)
        self.position_embeddings = Embedding(max_positions, hidden_size)
        self.token_type_embeddings = Embedding(type_vocab_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor,
                position_ids: torch.Tensor) -> torch.Tensor:
        """Three int64 tensors of one shape (…) → (…, hidden)."""
        summed = (self.word_embeddings(input_ids)
                  + self.position_embeddings(position_ids)
                  + self.token_type_embeddings(token_type_ids))
        return self.dropout(self.layer_norm(summed))
