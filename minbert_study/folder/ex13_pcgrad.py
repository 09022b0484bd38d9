"""PCGrad: what to do when the tasks' gradients point against each other (Yu et al. 2020).

Algorithm 1: task i meets the other tasks one by one. If its current gradient conflicts with the
other task's original gradient (g_i · g_j < 0), it loses the component along that gradient:

    g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

The result is the sum over i. By hand, for g_1 = (3, 1) and g_2 = (−2, 1): g_1 · g_2 = −5,
‖g_2‖² = 5, so g_1 becomes (3, 1) + (−2, 1) = (1, 2). ‖g_1‖² = 10, so g_2 becomes
(−2, 1) + ½ (3, 1) = (−0.5, 1.5). Together: (0.5, 3.5).

Read tests/lessons/test_08_surgery.py. Check: minbert study check . pcgrad
"""

from collections.abc import Sequence

import torch


def project_conflicting(gradients: torch.Tensor, order: Sequence[Sequence[int]]) -> torch.Tensor:
    """Algorithm 1: the sum of the projected gradients.

    Args:
        gradients: (tasks, params), must not be changed.
        order: order[i] is the sequence in which task i meets the others. For example, order may be
            [[1, 2], [2, 0], [0, 1]]. Yu et al. draw it at random. Here it is given, so that there
            is only one right result.

    Returns:
        (params,), with the gradients' dtype.
    """
    raise NotImplementedError
