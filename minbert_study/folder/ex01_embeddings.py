"""BERT's embeddings: the first vector of every token.

    E = dropout(LayerNorm(W_word[id] + W_position[position] + W_type[type]))
                                                     (Devlin et al. 2018, Figure 2)

W_word[id] is row `id` of a table: what the token is. The position tells where it stands, the type
which sentence of a pair it belongs to. LayerNorm brings the sum to mean 0 and variance 1.

By hand: the rows (1, 2, 3, 4), (0, 0, 1, 1) and (1, 0, 0, 1) have the sum (2, 2, 4, 6). Its mean is
3.5, its variance (2.25 + 2.25 + 0.25 + 6.25) / 4 = 2.75. So the token's vector is
(−1.5, −1.5, 0.5, 2.5) / √2.75.

Read tests/lessons/test_01_embeddings.py. Check: minbert study check . embeddings
"""

import torch
from torch import nn


class BertEmbeddings(nn.Module):
    """The constructor is given. Write forward, and call the parts that the constructor makes."""

    def __init__(self, vocab_size: int, hidden_size: int, max_positions: int, type_vocab_size: int,
                 layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(type_vocab_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor,
                position_ids: torch.Tensor) -> torch.Tensor:
        """Look up and add three vectors per token.

        Args:
            input_ids: (…) int64, rows of the vocabulary. Any shape: (batch, seq), or (tokens,).
            token_type_ids: (…) int64, 0 for the first sentence of a pair, 1 for the second.
            position_ids: (…) int64, the place of each token in its sequence, from 0.

        Returns:
            (…, hidden).
        """
        raise NotImplementedError
