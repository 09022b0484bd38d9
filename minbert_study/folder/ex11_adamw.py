"""AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) with bias correction in the step size.

    m ← β1 m + (1 − β1) g
    v ← β2 v + (1 − β2) g²
    α ← lr · √(1 − β2ᵗ) / (1 − β1ᵗ)                (Kingma and Ba 2015, end of section 2)
    θ ← θ − α m / (√v + eps)
    θ ← θ − lr · weight_decay · θ             (after Loshchilov and Hutter 2019, Algorithm 2)

m and v begin at 0, so they are too small in the first steps. α corrects for this. The decay uses
the new θ and is scaled by lr, not by α. (Algorithm 2 uses the old θ.)

By hand, with β1 = 0.9, β2 = 0.999 and lr = 0.1: in the first step m = 0.1 g and v = 0.001 g², and
α = 0.1 · √0.001 / 0.1 = √0.001. Without eps, θ moves by √0.001 · 0.1 g / (√0.001 |g|) =
0.1 · g/|g|. That is lr, whatever the size of the gradient.

Read tests/lessons/test_06_optimizer.py. Check: minbert study check . adamw
"""


import torch


def adamw_update(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                 lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                 correct_bias: bool) -> None:
    """One update, in place: afterwards theta, m and v hold the new values, and g is unchanged.

    Args:
        theta, g, m, v: parameter, gradient, first and second moment, all of the same shape.
        t: the number of this step, counted from 1.
        correct_bias: if False, α = lr.
    """
    raise NotImplementedError
