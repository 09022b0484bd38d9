"""Scaled dot-product attention with a mask.

    attention(Q, K, V) = softmax(Q Kᵀ / √d) V        (Vaswani et al. 2017, Eq. 1)

Row i of Q says what token i looks for. Row j of K says what token j can be found by, and row j of V
is what it passes on. d is the width of a head. Sequences in a batch differ in length, so short ones
are padded. The mask marks the real tokens. Padding must get no attention.

By hand, for d = 4: the products q·k of 0 and 2 ln 3 become the scores 0 and ln 3. e⁰ = 1 and
e^(ln 3) = 3, so the weights are 1/4 and 3/4.

Read tests/lessons/test_02_attention.py. Check: minbert study check . attention
"""


import torch


def attention_weights(query: torch.Tensor, key: torch.Tensor,
                      mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(Q Kᵀ / √d): how much each token (row) looks at each token (column).

    Args:
        query, key: (batch, heads, seq, head_dim). There may be fewer queries than keys.
        mask: (batch, seq) bool, True where a key is a real token; None if all are. For a sequence
            that is all padding, any finite numbers will do.

    Returns:
        (batch, heads, seq, seq); every row sums to 1.
    """
    raise NotImplementedError


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              mask: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """softmax(Q Kᵀ / √d) V.

    Args:
        query, key, value: (batch, heads, seq, head_dim). value may have a different width.
        mask: as above.
        dropout: the probability with which an attention weight is set to zero. The others are
            scaled by 1/(1 − dropout), as in F.dropout.

    Returns:
        (batch, heads, seq, head_dim), as wide as value.
    """
    raise NotImplementedError
