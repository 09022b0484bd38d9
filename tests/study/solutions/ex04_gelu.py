import math

import torch


def gelu(x: torch.Tensor) -> torch.Tensor:
    phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return x * phi
