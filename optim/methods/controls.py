"""Controls for surgery: weights that do not look at conflicts."""

import torch

from optim.surgery import constant_weights, default_generator


def rgw_weights(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Random weights at every step, softmax of N(0, I) (RGW, Lin et al. 2022, section 3).

    RLW (Eq. 2 there) weights the losses so; on a shared encoder that is the same. A method that
    does no better than these has not found the right weights.

    >>> rgw_weights(torch.eye(3), torch.Generator().manual_seed(0)).sum().item()
    1.0
    """
    generator = default_generator if generator is None else generator
    noise = torch.randn(len(gram), generator=generator, dtype=torch.float64,
                        device=generator.device)
    return noise.softmax(0)


def constant(gram: torch.Tensor, weights: str = "") -> torch.Tensor:
    """`constant_weights` by an option: --surgery constant:weights=1+2+1.

    >>> constant(torch.eye(2), "1.5+1").tolist()
    [1.5, 1.0]
    """
    try:
        values = [float(value) for value in weights.split("+")]
    except ValueError:
        raise ValueError(f"constant: weights is {weights!r}, expected numbers in the tasks' order, "
                         "such as constant:weights=1+2+1") from None
    return constant_weights(values)(gram)
