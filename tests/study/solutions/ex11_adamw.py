import math

import torch


def adamw_update(theta: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, *,
                 lr: float, betas: tuple[float, float], eps: float, weight_decay: float,
                 correct_bias: bool) -> None:
    beta1, beta2 = betas
    m.copy_(beta1 * m + (1 - beta1) * g)
    v.copy_(beta2 * v + (1 - beta2) * g * g)
    alpha = lr
    if correct_bias:
        alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    theta -= alpha * m / (v.sqrt() + eps)
    theta -= lr * weight_decay * theta
