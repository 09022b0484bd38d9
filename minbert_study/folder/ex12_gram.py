"""The Gram matrix: how the tasks' gradients point relative to one another, in one small table.

    K = G Gᵀ,    K_ij = g_i · g_j                   (tasks, tasks)
    cos_ij = K_ij / (‖g_i‖ ‖g_j‖),    ‖g_i‖ = √K_ii

Row i of G is the gradient of task i, with millions of numbers. PCGrad and many other methods of
gradient surgery need only K to find the weight of each row. A negative cosine means that two tasks
conflict (Yu et al. 2020, Definition 1): a small step that follows only one task's gradient harms
the other task.

By hand, for g_1 = (3, 4) and g_2 = (0, −10): K_11 = 25, K_22 = 100, K_12 = −40. The lengths are 5
and 10, so the cosine is −40 / 50 = −0.8.

Gradients are float32, but their products may not fit: in float32, (1e30)² is infinite and (1e-30)²
is 0. So compute K in float64. Even there K_11 · K_22 can overflow where √K_11 · √K_22 does not.

Read tests/lessons/test_08_surgery.py. Check: minbert study check . gram
"""

import torch


def gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """K = G Gᵀ, with float64 products and sums.

    Args:
        gradients: (tasks, params), float32 or float64.

    Returns:
        (tasks, tasks) float64.
    """
    raise NotImplementedError


def cosines(gram: torch.Tensor) -> torch.Tensor:
    """The cosine of the angle between each pair of gradients.

    Args:
        gram: (tasks, tasks) float64, what gram_matrix returns.

    Returns:
        (tasks, tasks) float64; 0 where either gradient is zero.
    """
    raise NotImplementedError
