"""Scaled dot-product attention with a mask.

    attention(Q, K, V) = softmax(Q Kᵀ / √d) V        (Vaswani et al. 2017, Eq. 1)

Row i of Q is what token i looks for, row j of K is what token j offers, and row j of V is what
token j gives. d is the width of a head. A batch has sequences of different lengths; the mask tells
real tokens from padding, and padding must not be looked at.

By hand: for d = 4, the scores q·k of 0 and 2 ln 3 become 0 and ln 3. e⁰ = 1 and e^(ln 3) = 3, so
the weights are 1/4 and 3/4.

Read tests/lessons/test_02_attention.py. Check: minbert study check . attention
"""


import torch


def attention_weights(query: torch.Tensor, key: torch.Tensor,
                      mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(Q Kᵀ / √d): how much each token (row) looks at each other token (column).

    Args:
        query, key: (batch, heads, seq, head_dim).
        mask: (batch, seq) bool, True where a key is a real token; None if all are. Where a whole
            sequence is padding, any finite numbers will do.

    Returns:
        (batch, heads, seq, seq); every row sums to 1.
    """
    raise NotImplementedError


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V.

    Args:
        query, key, value: (batch, heads, seq, head_dim).
        mask: as above.
        dropout: share of the attention weights that is set to zero, at random; the others grow by
            1/(1 − dropout), as F.dropout does.

    Returns:
        (batch, heads, seq, head_dim).
    """
    raise NotImplementedError
