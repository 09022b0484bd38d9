"""Layer normalisation."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from minbert_study.exercise import Exercise, check, gradients


def layer_norm(x, weight, bias, eps):
    """The equation. The library calls torch's; `as_torch` compares the two."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    normalised = centred / (variance + eps).sqrt()
    return normalised * weight + bias


def of_torch(x, weight, bias, eps):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def put_into_library(part: SimpleNamespace) -> None:
    """Every nn.LayerNorm of the process calls the student's."""
    nn.LayerNorm.forward = lambda self, x: part.layer_norm(x, self.weight, self.bias, self.eps)


@check()
def by_hand(part):
    """(2, 2, 4, 6) with eps = 1.25 becomes (−0.75, −0.75, 0.25, 1.25)."""
    x = torch.tensor([[2.0, 2.0, 4.0, 6.0]])
    return {"output": part.layer_norm(x, torch.ones(4), torch.zeros(4), 1.25)}


@check()
def moments(part):
    """With weight 1 and bias 0, every output vector is right, and has mean 0 and variance 1."""
    x = 5 * torch.randn(2, 3, 7) + 2
    output = part.layer_norm(x, torch.ones(7), torch.zeros(7), 1e-12)
    return {"mean of each vector, rounded": output.mean(-1).round(decimals=10) + 0.0,
            "mean of the squares of each vector": output.square().mean(-1),
            "output": output}


@check()
def weight_and_bias(part):
    """The weight scales, then the bias is added: a vector of equal numbers becomes the bias."""
    weight, bias = torch.tensor([2.0, 3.0, -1.0]), torch.tensor([10.0, 20.0, 30.0])
    x = torch.tensor([[7.0, 7.0, 7.0], [1.0, 2.0, 3.0]])
    output = part.layer_norm(x, weight, bias, 1e-5)
    return {"of (7, 7, 7)": output[0], "of (1, 2, 3)": output[1]}


@check()
def alone(part):
    """Each token's output is right, and the rest of the batch does not affect it."""
    x, weight, bias = torch.randn(3, 4, 5), torch.randn(5), torch.randn(5)
    together = part.layer_norm(x, weight, bias, 1e-5)
    token = part.layer_norm(x[1:2, 2:3], weight, bias, 1e-5)
    return {"largest difference between a token in a batch and alone":
            (together[1, 2] - token).abs().max().item(),
            "output": together}


@check()
def large_eps(part):
    """Outputs are right for three values of eps, added to the variance, inside the root."""
    x, weight, bias = torch.randn(2, 6), torch.randn(6), torch.randn(6)
    return {f"output with eps = {eps}": part.layer_norm(x, weight, bias, eps)
            for eps in (1e-5, 0.5, 10.0)}


# around 10,000 float32 has steps of 0.001, so a mean is off by as much, and the deviation is 0.3;
# E[x²] − E[x]², around 100,000,000 with steps of 8, is off by far more
@check(tolerance={"output in float32": 0.02})
def far_from_zero(part):
    """In float32, numbers near 10,000 need the deviations first, then their squares."""
    x = 1e4 + torch.linspace(-1, 1, 64, dtype=torch.float32).view(2, 32)
    one = torch.ones(32, dtype=torch.float32)
    return {"output in float32": part.layer_norm(x, one, one, 1e-12)}


@check(against={"layer_norm": of_torch})
def as_torch(part):
    """Outputs and gradients equal those of torch's layer norm, even for odd shapes."""
    found = {}
    for shape in ((1, 3), (6,), (2, 1, 4, 5)):
        x, weight, bias = torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])
        found[f"output of shape {shape}"] = part.layer_norm(x, weight, bias, 1e-5)
    x, weight, bias = (torch.randn(size, requires_grad=True) for size in ((2, 3, 6), (6,), (6,)))
    output = part.layer_norm(x, weight, bias, 1e-5)
    return found | gradients(output, x=x, weight=weight, bias=bias)


EXERCISE = Exercise(
    title="layer normalisation",
    places=("minbert_study.exercises.layer_norm:layer_norm",),
    forbidden=("layer_norm", "LayerNorm", "native_layer_norm", "group_norm", "GroupNorm",
               "batch_norm", "instance_norm"),
    install=put_into_library,
    mistakes=(
        ("when the variance is divided by n − 1, as torch.var and torch.std do by default. Layer "
         "norm divides by n: correction=0.", "centred.square().mean(-1, keepdim=True)",
         "centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)"),
        ("when eps is outside the root: √variance + eps instead of √(variance + eps).",
         "(variance + eps).sqrt()", "(variance.sqrt() + eps)"),
        ("when eps is outside the root, and the variance is divided by n − 1, as torch.std does by "
         "default.",
         "centred / (variance + eps).sqrt()", "centred / (x.std(-1, keepdim=True) + eps)"),
        ("without eps.", "(variance + eps)", "variance"),
        ("without the root. Divide by the standard deviation, not by the variance.",
         "(variance + eps).sqrt()", "(variance + eps)"),
        ("when the mean is not subtracted before the division.",
         "normalised = centred /", "normalised = x /"),
        ("when the mean is subtracted nowhere, not even in the variance. That is RMSNorm.",
         "x - x.mean(-1, keepdim=True)", "x"),
        ("when mean and variance are those of the whole batch, not of each token.",
         "    centred = x - x.mean(-1, keepdim=True)\n"
         "    variance = centred.square().mean(-1, keepdim=True)",
         "    centred = x - x.mean()\n    variance = centred.square().mean()"),
        ("when mean and variance run over dim 0, as in batch norm. Use the last dimension.",
         "    centred = x - x.mean(-1, keepdim=True)\n"
         "    variance = centred.square().mean(-1, keepdim=True)",
         "    centred = x - x.mean(0)\n    variance = centred.square().mean(0)"),
        ("when mean and variance run over dim 1, the tokens of a sentence. Use the last dimension.",
         "    centred = x - x.mean(-1, keepdim=True)\n"
         "    variance = centred.square().mean(-1, keepdim=True)",
         "    centred = x - x.mean(1, keepdim=True)\n"
         "    variance = centred.square().mean(1, keepdim=True)"),
        ("when the variance is computed as E[x²] − E[x]². Far from 0, the digits cancel. Subtract "
         "the mean first, then square.", "centred.square().mean(-1, keepdim=True)",
         "x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()"),
        ("without the bias.", "normalised * weight + bias", "normalised * weight"),
        ("without the weight.", "normalised * weight + bias", "normalised + bias"),
        ("when the bias is added before the multiplication by the weight.",
         "normalised * weight + bias", "(normalised + bias) * weight"),
        ("when weight and bias are swapped.",
         "normalised * weight + bias", "normalised * bias + weight"),
    ),
    hints=(
        "Which numbers share a mean: all of them, those of a column, or those of a token? What "
        "does torch.var divide by?",
        "Take the mean over the last dimension with keepdim=True and subtract it. The variance is "
        "the mean of the squares of the result. Divide the result by the root of variance + eps. "
        "Then apply weight and bias.",
        "centred = x - x.mean(-1, keepdim=True); variance = (centred ** 2).mean(-1, keepdim=True); "
        "centred / torch.sqrt(variance + eps), times …, plus ….",
    ),
)
