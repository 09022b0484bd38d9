"""Gradient Vaccine: PCGrad with a target for each pair's cosine, in place of 0."""

import torch

from optim.surgery import random_order

MOST = 1 - 1e-6  # of a target: two directions can be made alike, but not by a finite step


class GradVac:
    """Wang et al. 2021, Algorithm 1: pull pairs of gradients together up to their usual cosine.

    Task i meets the others in random order. With n the length of its gradient as it then stands and
    φ its cosine with g_j, if φ is below the target φ̂_ij:

        g_i ← g_i + n (φ̂ √(1 − φ²) − φ √(1 − φ̂²)) / (‖g_j‖ √(1 − φ̂²)) g_j

    which makes the cosine φ̂. Then φ̂_ij ← (1 − β) φ̂_ij + β φ. With targets of 0 it is PCGrad.

    Args:
        beta: of the moving average. The paper has 0.01; public code often has 0.5.

    >>> method = GradVac()
    >>> method(torch.tensor([[18.0, -22.0], [-22.0, 38.0]])).tolist()  # at first, PCGrad
    [2.2222222222222223, 1.5789473684210527]
    """

    def __init__(self, beta: float = 0.01) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"gradvac: beta is {beta}, expected a number from 0 to 1")
        self.beta = beta
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, gram: torch.Tensor,
                 generator: torch.Generator | None = None) -> torch.Tensor:
        tasks, K = len(gram), gram.double()
        norms = K.diagonal().clamp(min=0).sqrt()
        targets = self.state.setdefault("targets", torch.zeros_like(K))
        mixture = torch.eye(tasks, dtype=torch.float64, device=gram.device)
        for i, others in enumerate(random_order(tasks, generator)):
            for j in others:
                n = (mixture[i] @ K @ mixture[i]).clamp(min=0).sqrt()
                if n == 0 or norms[j] == 0:
                    continue
                cosine = ((mixture[i] @ K[:, j]) / (n * norms[j])).clamp(-1, 1)
                target = targets[i, j].clamp(-MOST, MOST)
                if cosine < target:
                    rest = (1 - target**2).sqrt()
                    pull = target * (1 - cosine**2).sqrt() - cosine * rest
                    mixture[i, j] += n * pull / (norms[j] * rest)
                targets[i, j] = (1 - self.beta) * target + self.beta * cosine
        return mixture.sum(0)
