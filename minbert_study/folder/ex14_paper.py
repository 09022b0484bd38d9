"""The surgery of the paper that this library reproduces, Eq. 2–5.

    g'_i = g_i − Σ_{j≠i} (g_i · g_j / ‖g_j‖²) g_j          (Eq. 2–4, one for each task)
    g = Σ_i g'_i                                           (Eq. 5)

It differs from PCGrad in two ways. Every pair is projected, in conflict or not. Every projection
uses the original gradients, so the order does not matter.

By hand, for g_1 = (2, 0) and g_2 = (1, 1), which are not in conflict: g_1 · g_2 = 2, ‖g_2‖² = 2,
so g'_1 = (2, 0) − 1 · (1, 1) = (1, −1). ‖g_1‖² = 4, so g'_2 = (1, 1) − ½ · (2, 0) = (0, 1).
Together: (1, 0). PCGrad would change neither, and their sum is (3, 1).

Read tests/lessons/test_08_surgery.py. Check: minbert study check . paper
"""

import torch


def project_paper(gradients: torch.Tensor) -> torch.Tensor:
    """Eq. 2–5: the sum of the projected gradients.

    Args:
        gradients: (tasks, params), must not be changed. A gradient may be zero. Such a g_j has no
            direction, so leave it out of the sum over j.

    Returns:
        (params,), with the gradients' dtype.
    """
    raise NotImplementedError
