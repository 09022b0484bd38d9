"""AdamW's update, in place."""

import numpy as np
import torch
from torch import nn

from minbert_study.exercise import Exercise, check

USUAL = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "correct_bias": True}


def steps(part, theta, gradients, **settings) -> dict[str, torch.Tensor]:
    """g, θ, m and v after updates with these gradients, one after another."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        part.adamw_update(theta, g, m, v, t, **USUAL | settings)
    return {"g, which is not to be changed": gradients, "m": m, "v": v,
            "theta": theta}


@check()
def by_hand(part):
    """The first step sets m and v, and moves θ by lr against the sign of g, however large g is."""
    # m = .1 g, v = .001 g², α = lr √.001 / .1: the step is lr · g/|g|, but for eps
    return steps(part, torch.tensor([2.0, -1.0, 3.0]), torch.tensor([[4.0, -0.5, 1e6]]), lr=0.1,
                 eps=0.0)


@check()
def without_gradient(part):
    """A zero gradient moves nothing in the first step."""
    return steps(part, torch.tensor([3.0]), torch.zeros(1, 1))


@check()
def moments(part):
    """After four steps all is right: m and v are running means of the gradient and its square."""
    theta, gradients = torch.randn(3, 5), torch.randn(4, 3, 5)
    return steps(part, theta, gradients, betas=(0.8, 0.95))


@check()
def correction(part):
    """θ is right after one step and after three: bias correction counts from t = 1."""
    theta, gradients = torch.randn(4), torch.randn(3, 4)
    return {"theta after 1 step": steps(part, theta.clone(), gradients[:1], lr=0.5)["theta"],
            "theta after 3 steps": steps(part, theta.clone(), gradients, lr=0.5)["theta"]}


@check()
def no_correction(part):
    """With correct_bias=False, three steps are right: the step size is lr itself."""
    return steps(part, torch.randn(4), torch.randn(3, 4), lr=0.5, correct_bias=False)


@check()
def large_eps(part):
    """With a large eps, three steps are right: it is added to √v, and v is not corrected first."""
    return steps(part, torch.randn(5), torch.randn(3, 5), lr=0.5, eps=0.1)


@check()
def decay(part):
    """With weight decay, three steps are right: it comes last, times lr; m and v do not see it."""
    return steps(part, torch.randn(5), torch.randn(3, 5), lr=0.1, weight_decay=2.0)


# CS224N's optimizer_test.npy has these to four digits, from float32.
END = [[0.55482853, 0.86664947, 0.07292216], [-0.44725172, -0.29512122, -0.27172609]]


@check(against={"adamw_update": lambda theta, *_, **__: theta.copy_(torch.tensor(END))},
       tolerance={"weight after 1,000 steps": 1e-7})
def course(part):
    """The course's own test: after 1,000 steps, a linear layer has the stored weights."""
    # CS224N's optimizer_test.py: y = (x₁ + x₂, −x₃), squared error, lr 1e-3, weight decay 1e-4
    inputs = np.random.default_rng(0)
    torch.manual_seed(0)
    weight = nn.Linear(3, 2, bias=False, dtype=torch.float32).weight.detach().double()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t in range(1, 1001):
        x = torch.from_numpy(inputs.uniform(size=3)).float().double()
        error = weight @ x - torch.stack([x[0] + x[1], -x[2]])
        gradient = 2 * error[:, None] * x
        part.adamw_update(weight, gradient, m, v, t, **USUAL | {"weight_decay": 1e-4})
    return {"weight after 1,000 steps": weight}


EXERCISE = Exercise(
    title="AdamW",
    places=("optim.adamw:adamw_update",),
    forbidden=("Adam", "AdamW", "adamw"),
    is_in_place=True,
    mistakes=(
        ("without bias correction.", "if correct_bias else lr", "if False else lr"),
        ("when correct_bias is ignored.", "if correct_bias else lr", "if True else lr"),
        ("when the bias correction is off by one step. t already counts from 1.",
         "alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)",
         "alpha = lr * math.sqrt(1 - beta2**(t + 1)) / (1 - beta1**(t + 1))"),
        ("when only m is corrected, not v.",
         "lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)", "lr / (1 - beta1**t)"),
        ("when the root in the bias correction is missing.",
         "math.sqrt(1 - beta2**t)", "(1 - beta2**t)"),
        ("when eps is inside the root. Add it to √v.", "(v.sqrt() + eps)", "(v + eps).sqrt()"),
        ("when v is corrected before eps is added, as in torch.optim.AdamW. Here the correction is "
         "in the step size.", "change = -alpha * m / (v.sqrt() + eps)",
         "change = -lr / (1 - beta1**t) * m / ((v / (1 - beta2**t)).sqrt() + eps)"),
        ("without the square root of v.", "(v.sqrt() + eps)", "(v + eps)"),
        ("when the decay comes before the step. Apply it to the new θ.",
         "change - decay * (theta + change)", "change - decay * theta"),
        ("when the decay is not scaled by lr.",
         "decay = lr * weight_decay", "decay = weight_decay"),
        ("when the decay is scaled by α, the corrected step size, not by lr.",
         "decay = lr * weight_decay", "decay = alpha * weight_decay"),
        ("when the decay is added to the gradient (L2 regularisation). That is Adam, not AdamW.",
         "    m.mul_(beta1)", "    g, weight_decay = g + weight_decay * theta, 0\n"
                             "    m.mul_(beta1)"),
        ("without weight decay.", "decay = lr * weight_decay", "decay = 0.0"),
        ("when the decay makes weights grow. Its sign is wrong.",
         "change - decay * (theta + change)", "change + decay * (theta + change)"),
        ("when the update is added, not subtracted.", "change = -alpha", "change = alpha"),
        ("when the gradient is added to m without its factor 1 − β1.",
         "alpha=1 - beta1", "alpha=1"),
        ("when v averages the gradient, not its square.",
         "addcmul_(g, g, value=1 - beta2)", "add_(g, alpha=1 - beta2)"),
        ("when g is squared in place. g must not change.",
         "addcmul_(g, g, value=1 - beta2)", "add_(g.pow_(2), alpha=1 - beta2)"),
        ("when β1 and β2 are swapped.", "beta1, beta2 = betas", "beta2, beta1 = betas"),
        ("when the raw gradient is used instead of m.", "-alpha * m /", "-alpha * g /"),
        *((f"when nothing is written into the caller's {names}: an assignment makes a new tensor. "
           "Write into the old one, with mul_, add_ or copy_.", "beta1, beta2 = betas",
           f"beta1, beta2 = betas\n    {new}")
          for names, new in (("m", "m = m.clone()"), ("v", "v = v.clone()"),
                             ("m and v", "m, v = m.clone(), v.clone()"),
                             ("θ", "theta = theta.clone()"),
                             ("m, v and θ", "theta, m, v = theta.clone(), m.clone(), v.clone()"))),
    ),
    hints=(
        "In which order must θ, m and v be updated, and why?",
        "Update m and v in place first (mul_, add_, addcmul_). Then compute the step size α with "
        "this t, and update θ. Apply the decay last, to the new θ.",
        "m.mul_(beta1).add_(g, alpha=1 - beta1); the same for v with g · g; α = lr · √(1 − β2ᵗ) / "
        "(1 − β1ᵗ) if correct_bias; theta.sub_(α · m / (v.sqrt() + eps)); "
        "theta.sub_(lr · weight_decay · theta).",
    ),
)
