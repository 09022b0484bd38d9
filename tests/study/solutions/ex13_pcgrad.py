from collections.abc import Sequence

import torch


def project_conflicting(gradients: torch.Tensor, order: Sequence[Sequence[int]]) -> torch.Tensor:
    total = torch.zeros_like(gradients[0])
    for i, others in enumerate(order):
        g = gradients[i].clone()
        for j in others:
            product = g @ gradients[j]
            if product < 0:
                g = g - product / (gradients[j] @ gradients[j]) * gradients[j]
        total = total + g
    return total
