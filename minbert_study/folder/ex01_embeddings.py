"""BERT's embeddings: the first vector of every token.

    E = dropout(LayerNorm(W_word[id] + W_position[position] + W_type[type]))
               (the sum: Devlin et al. 2018, Figure 2; the rest: google-research/bert)

W_word[id], row `id` of a table, says what the token is. The position says where it stands, and the
type says which sentence of a pair it belongs to. LayerNorm brings the sum to mean 0 and variance 1.
Then it applies its learned weight and bias, which start at 1 and 0.

By hand: the rows (1, 2, 3, 4), (0, 0, 1, 1) and (1, 0, 0, 1) add up to (2, 2, 4, 6). The mean is
3.5 and the variance is (2.25 + 2.25 + 0.25 + 6.25) / 4 = 2.75. So the token's vector is
(−1.5, −1.5, 0.5, 2.5) / √2.75.

Read tests/lessons/test_01_embeddings.py. Check: minbert study check . embeddings
"""

import torch
from torch import nn


class BertEmbeddings(nn.Module):
    """The constructor is given. Write forward, using the parts that the constructor makes."""

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
        """Look up three vectors per token, add them, then apply LayerNorm and dropout.

        Args:
            input_ids: (…) int64, the token ids. Any shape works: (batch, seq) or (tokens,).
            token_type_ids: (…) int64, 0 for the first sentence of a pair, 1 for the second.
            position_ids: (…) int64, each token's position in its sequence, counted from 0.

        Returns:
            (…, hidden).
        """
        raise NotImplementedError
