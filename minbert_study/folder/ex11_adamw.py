"""AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), the bias correction in the step size.

    m ← β1 m + (1 − β1) g
    v ← β2 v + (1 − β2) g²
    α ← lr · √(1 − β2ᵗ) / (1 − β1ᵗ)                (Kingma and Ba 2015, end of section 2)
    θ ← θ − α m / (√v + eps)
    θ ← θ − lr · weight_decay · θ                   (Loshchilov and Hutter 2019, Algorithm 2)

m and v begin at 0, so in the first steps they are too small; α makes up for it. By hand: in the
first step m = 0.1 g and v = 0.001 g². With lr 0.1, α is 0.1 · √0.001 / 0.1 = √0.001, and θ moves by
√0.001 · 0.1 g / (√0.001 |g|) = 0.1 · g/|g|: by lr, whatever the gradient's size.

Read tests/lessons/test_06_optimizer.py. Check: minbert study check . adamw
"""


import torch


def adamw_update(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                 lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                 correct_bias: bool) -> None:
    """One update, in place: afterwards theta, m and v hold the new values, and g is as before.

    Args:
        theta, g, m, v: parameter, gradient, first and second moment, of one shape.
        t: the number of this step, from 1.
        correct_bias: False leaves α = lr.
    """
    raise NotImplementedError
