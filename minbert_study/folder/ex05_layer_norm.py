"""Layer normalisation (Ba, Kiros and Hinton 2016, section 3).

    y = (x − mean) / √(variance + eps) · weight + bias

Each token's vector is normalised over the last dimension, with its own mean and variance. Then each
column is multiplied by its weight, and its bias is added; both are learned. eps prevents a division
by 0 when all numbers of a vector are equal. The variance is the mean of the squared deviations:
divide their sum by n, not by n − 1.

By hand: x = (2, 2, 4, 6) has the mean 3.5 and the deviations (−1.5, −1.5, 0.5, 2.5). Their squares
are 2.25, 2.25, 0.25 and 6.25, so the variance is 11/4 = 2.75. With eps = 1.25 the root is √4 = 2,
and the result is (−0.75, −0.75, 0.25, 1.25).

Read tests/lessons/test_01_embeddings.py. Check: minbert study check . layer_norm
"""

import torch


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor,
               eps: float) -> torch.Tensor:
    """(x − mean) / √(variance + eps) · weight + bias, over the last dimension.

    Args:
        x: (…, hidden).
        weight, bias: (hidden,).
        eps: added to the variance, inside the root.

    Returns:
        (…, hidden).
    """
    raise NotImplementedError
