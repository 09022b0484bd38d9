"""PCGrad: what to do when the tasks' gradients point against each other (Yu et al. 2020).

Algorithm 1. Task i meets the other tasks one after another. Wherever its gradient, as it then
stands, conflicts with the other's original one, g_i · g_j < 0, it loses that component:

    g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j

The result is the sum over i. By hand, for g_1 = (3, 1) and g_2 = (−2, 1): g_1 · g_2 = −5,
‖g_2‖² = 5, so g_1 becomes (3, 1) + (−2, 1) = (1, 2). ‖g_1‖² = 10, so g_2 becomes
(−2, 1) + ½ (3, 1) = (−0.5, 1.5). Together: (0.5, 3.5).

Read tests/lessons/test_08_surgery.py. Check: minbert study check . pcgrad
"""

from collections.abc import Sequence

import torch


def project_conflicting(gradients: torch.Tensor, order: Sequence[Sequence[int]]) -> torch.Tensor:
    """Algorithm 1, merged by the sum.

    Args:
        gradients: (tasks, params); they must not be changed.
        order: order[i] is the sequence in which task i meets the others, [[1, 2], [2, 0], [0, 1]]
            for example. Yu et al. draw it at random; here it is given, so that the result is
            certain.

    Returns:
        (params,), of the gradients' type.
    """
    raise NotImplementedError
