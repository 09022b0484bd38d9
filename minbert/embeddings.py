"""From token ids to vectors: token + position + segment, then LayerNorm and dropout."""

import torch
from torch import nn


class BertEmbeddings(nn.Module):
    """E = dropout(LayerNorm(W_token[id] + W_position[position] + W_segment[type])).

    Devlin et al. 2018, Figure 2. Works on any leading shape: (batch, seq) or a row of (tokens,).
    """

    def __init__(self, vocab_size: int, hidden_size: int, max_positions: int, type_vocab_size: int,
                 layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = _table(vocab_size, hidden_size)
        self.position_embeddings = _table(max_positions, hidden_size)
        self.token_type_embeddings = _table(type_vocab_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor,
                position_ids: torch.Tensor) -> torch.Tensor:
        """Look up and add three vectors per token.

        Args:
            input_ids: (…) int64, rows of the vocabulary.
            token_type_ids: (…) int64, 0 for the first sentence of a pair, 1 for the second.
            position_ids: (…) int64, the place of each token in its sequence, from 0.

        Returns:
            (…, hidden).
        """
        summed = (self.word_embeddings(input_ids)
                  + self.position_embeddings(position_ids)
                  + self.token_type_embeddings(token_type_ids))
        return self.dropout(self.layer_norm(summed))


def _table(rows: int, hidden_size: int) -> nn.Embedding:
    weight = torch.empty(rows, hidden_size)
    # meta: a checkpoint is being loaded, and drawing would import torch's compiler
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding(rows, hidden_size, _weight=weight)
