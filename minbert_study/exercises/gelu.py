"""GELU from the normal distribution."""

import statistics
from types import SimpleNamespace

import torch

from minbert import activations
from minbert_study.exercise import Exercise, check, gradients

NORMAL = statistics.NormalDist()


def of_python(x):
    """Python's normal distribution, one number at a time."""
    values = [number * NORMAL.cdf(number) for number in x.flatten().tolist()]
    return torch.tensor(values).view(x.shape)


def put_into_library(part: SimpleNamespace) -> None:
    """Layers look their activation up in a table, where it stands with its derivative."""
    def derivative(d_y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(part.gelu(x), x, d_y)[0]

    activations.ACTIVATIONS["gelu"] = activations.Activation(part.gelu, derivative)


@check()
def by_hand(part):
    """gelu(0) = 0, gelu(1) = 0.841345, gelu(−1) = −0.158655."""
    return {"gelu of 0, 1, −1": part.gelu(torch.tensor([0.0, 1.0, -1.0]))}


@check()
def gate(part):
    """gelu(10) = 10, gelu(−10) = 0 and gelu(−5.5) = −0.0000001044, to ten decimal places."""
    return {"gelu of 10, 40": part.gelu(torch.tensor([10.0, 40.0])),
            "gelu of −5.5, −10, −40": part.gelu(torch.tensor([-5.5, -10.0, -40.0]))}


@check()
def mirrored(part):
    """gelu(x) is right, and gelu(x) − gelu(−x) = x, because Φ(x) + Φ(−x) = 1."""
    x = torch.tensor([0.5, 2.0, 3.0])
    y = part.gelu(x)
    return {"gelu(x) − gelu(−x) for 0.5, 2, 3": y - part.gelu(-x), "gelu(x)": y}


@check()
def least(part):
    """From −4 to 4 all values are right; the least is −0.170, near x = −0.752."""
    grid = torch.linspace(-4, 4, 8001)
    y = part.gelu(grid)
    found = y.min(0)
    return {"least value": found.values, "where": grid[found.indices], "all values": y}


@check()
def shapes(part):
    """Any shape works, and each number is computed by itself."""
    return {f"gelu of shape {shape}": part.gelu(torch.randn(shape))
            for shape in ((), (1,), (3, 1, 5), (2, 3, 4))}


# erf in float32 is off by a rounding or two of numbers up to 4
@check(tolerance={"gelu of float32 numbers": 1e-6})
def type_of_x(part):
    """A float32 input gives the right output, in float32."""
    return {"gelu of float32 numbers": part.gelu(torch.randn(50, dtype=torch.float32))}


@check()
def backward(part):
    """The derivative is Φ(x) + x φ(x), which is 1/2 at 0."""
    x = torch.cat([torch.zeros(1), torch.randn(6)]).requires_grad_()
    return gradients(part.gelu(x), x=x)


@check(against={"gelu": of_python})
def as_python(part):
    """Python's own normal distribution gives the same."""
    return {"gelu(x)": part.gelu(2 * torch.randn(40))}


EXACT = "return F.gelu(x)"

EXERCISE = Exercise(
    title="GELU",
    places=("minbert.activations:gelu",),
    forbidden=("gelu", "gelu_", "GELU"),
    install=put_into_library,
    mistakes=(
        ("from the tanh approximation. Write the exact form, with erf.",
         EXACT, "return F.gelu(x, approximate='tanh')"),
        ("from the approximation x · σ(1.702 x). Write the exact form, with erf.",
         EXACT, "return x * torch.sigmoid(1.702 * x)"),
        ("from SiLU, x · σ(x). GELU uses Φ, not the logistic function σ.",
         EXACT, "return x * torch.sigmoid(x)"),
        ("from ReLU.", EXACT, "return x.clamp(min=0)"),
        ("when erf gets x, not x/√2.", EXACT, "return x / 2 * (1 + torch.erf(x))"),
        ("when erf gets x/2, not x/√2.", EXACT, "return x / 2 * (1 + torch.erf(x / 2))"),
        ("when erf gets x · √2, not x/√2.", EXACT, "return x / 2 * (1 + torch.erf(x * 2**0.5))"),
        ("without the 1 + before erf.", EXACT, "return x / 2 * torch.erf(x / 2**0.5)"),
        ("without the factor 1/2.", EXACT, "return x * (1 + torch.erf(x / 2**0.5))"),
        ("from Φ(x) itself: the factor x is missing.", EXACT, "return torch.special.ndtr(x)"),
        ("when the density φ(x) is used instead of the distribution function Φ(x).",
         EXACT, "return x * torch.exp(-x * x / 2) / (2 * torch.pi)**0.5"),
        ("when erfc is used instead of erf.", EXACT, "return x / 2 * (1 + torch.erfc(x / 2**0.5))"),
    ),
    hints=(
        "What is the probability that a standard normal variable is below x? What is it for x = 0?",
        "Φ(x) is (1 + erf(x/√2)) / 2. torch has erf; Φ itself is torch.special.ndtr.",
        "return x * 0.5 * (1 + torch.erf(x / math.sqrt(…)))",
    ),
)
