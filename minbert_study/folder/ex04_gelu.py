"""GELU, the activation function of BERT's feed-forward layers.

    gelu(x) = x · Φ(x) = x/2 · (1 + erf(x/√2))       (Hendrycks and Gimpel 2016, section 2)

Φ(x) is the probability that a standard normal variable is below x. So GELU is a soft gate: a large
x passes (Φ ≈ 1), and a very negative x is blocked (Φ ≈ 0). Write this exact form, which
transformers uses for BERT. google-research/bert has the tanh formula from the same paper. That is
an approximation, off by up to 0.0005.

By hand: Φ(0) = 1/2, so gelu(0) = 0 · 1/2 = 0. Φ(1) = 0.841345, so gelu(1) = 0.841345. Φ(−1) =
1 − Φ(1), so gelu(−1) = −0.158655. For every x, gelu(x) − gelu(−x) = x.

Read tests/lessons/test_03_layer.py. Check: minbert study check . gelu
"""

import torch


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x · Φ(x), elementwise, on any shape. You may use torch.erf or torch.special.ndtr, which is Φ.

    Returns:
        A new tensor with x's shape and dtype. Gradients flow through it.
    """
    raise NotImplementedError
