"""The heads of one and of two layers."""

import dataclasses
import types
from itertools import pairwise

import torch
from torch import nn

from heads import ARCHITECTURES
from minbert_study.exercise import Exercise, check, gradients


def build(part: types.SimpleNamespace, name: str, sizes: tuple[int, int, int],
          *weights: torch.Tensor) -> nn.Module:
    """A head with these weights and biases, W, b, W, b, each put where its shape fits.

    It may make its layers in any order: what is drawn afterwards does not depend on it.
    """
    state = torch.get_rng_state()
    head = getattr(part, name)(*sizes)
    torch.set_rng_state(state)
    shapes = {each.shape: each for each in weights}
    for label, parameter in head.named_parameters():
        if weights and parameter.shape not in shapes:
            raise ValueError(f"the head has a parameter {label} of shape {tuple(parameter.shape)}; "
                             f"expected those of its linear layers, {[*map(tuple, shapes)]}")
        parameter.data.copy_(shapes.get(parameter.shape, parameter.data))
    return head


def layers(*sizes: int) -> list[torch.Tensor]:
    """Random weights and biases of layers with these widths."""
    found = []
    for inputs, outputs in pairwise(sizes):
        found += [torch.randn(outputs, inputs), torch.randn(outputs)]
    return found


class WithMatrices(nn.Module):
    """A head without dropout, by matrix products and a maximum."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.values = nn.ParameterList(layers(*sizes))

    def forward(self, x):
        *first, weight, bias = self.values
        if first:
            x = x @ first[0].T + first[1]
            x = torch.maximum(x, x / 100)
        return x @ weight.T + bias


MATRICES = {"OneLayerHead": lambda inputs, hidden, outputs: WithMatrices(inputs, outputs),
            "TwoLayerHead": WithMatrices}


def shapes_of(head: nn.Module) -> list[str]:
    """Of all that is learnt, in any order."""
    return sorted(str(tuple(parameter.shape)) for parameter in head.parameters())


@check()
def what_is_learnt(part):
    """One layer learns one matrix and one bias; two layers learn two of each."""
    return {"shapes in OneLayerHead(inputs=5, hidden=7, outputs=3)":
                shapes_of(part.OneLayerHead(5, 7, 3)),
            "shapes in TwoLayerHead(inputs=5, hidden=7, outputs=3)":
                shapes_of(part.TwoLayerHead(5, 7, 3))}


@check()
def eval_mode(part):
    """In eval mode nothing is dropped: the same input gives the same output."""
    x, found = torch.randn(30, 5), {}
    for name in ("OneLayerHead", "TwoLayerHead"):
        head, given = build(part, name, (5, 7, 3)).eval(), x.clone()
        output = head(given)
        found[f"the input of {name} afterwards"] = given
        found[f"{name} gives the same output twice"] = (
            None if output is None else torch.equal(output, head(x)))
    return found


@check()
def by_hand(part):
    """Without dropout: one layer with weights (1, 2) and bias 3; two layers with a LeakyReLU."""
    one = build(part, "OneLayerHead", (2, 9, 1), torch.tensor([[1.0, 2.0]]), torch.tensor([3.0]))
    two = build(part, "TwoLayerHead", (1, 2, 1), torch.tensor([[2.0], [1.0]]),
                torch.tensor([1.0, 1.0]), torch.tensor([[3.0, 0.0]]), torch.tensor([0.0]))
    return {"one layer on (4, −1)": one.eval()(torch.tensor([[4.0, -1.0]])),
            "two layers on 2": two.eval()(torch.tensor([[2.0]])),
            "two layers on −2": two.eval()(torch.tensor([[-2.0]]))}


@check(against=MATRICES)
def as_matrices(part):
    """In eval mode, one layer is a matrix product; two layers have a LeakyReLU between them."""
    found = {}
    for batch, inputs, hidden, outputs in ((1, 4, 3, 1), (7, 5, 6, 2), (3, 10, 4, 5)):
        for name in ("OneLayerHead", "TwoLayerHead"):
            sizes = (inputs, outputs) if name == "OneLayerHead" else (inputs, hidden, outputs)
            head = build(part, name, (inputs, hidden, outputs), *layers(*sizes))
            shape = f"{name}({inputs}, {hidden}, {outputs})"
            found[f"output of {shape}, batch of {batch}"] = head.eval()(torch.randn(batch, inputs))
    return found


@check(against=MATRICES)
def backward(part):
    """The gradients of the embeddings are right, even where LeakyReLU's input is negative."""
    found = {}
    for name, sizes in (("OneLayerHead", (4, 3)), ("TwoLayerHead", (4, 6, 3))):
        head = build(part, name, (4, 6, 3), *layers(*sizes)).eval()
        x = torch.randn(5, 4, requires_grad=True)
        found |= {f"{name}, {key}": value for key, value in gradients(head(x), x=x).items()}
    return found


def copies(times: int, numbers: int) -> torch.Tensor:
    """Weights of a layer: its first outputs copy the first number, the next ones the second, …"""
    return torch.eye(numbers).repeat_interleave(times, 0)


# Of 4000 draws and more: the difference of two shares has a standard deviation of at most 0.013.
@check(tolerance={"OneLayerHead, share of inputs that are dropped": 0.06,
                  "OneLayerHead, share of sentences that lose both inputs": 0.06,
                  "OneLayerHead, share of outputs that are dropped alone": 0.06})
def dropout_of_one(part):
    """OneLayerHead drops 0.3 of its inputs in training mode, before the linear layer."""
    # Two inputs, each copied to ten outputs: an input that is dropped takes all ten with it.
    head = build(part, "OneLayerHead", (2, 9, 20), copies(10, 2), torch.zeros(20)).train()
    x = torch.ones(4000, 2)
    output = head(x).unflatten(1, (2, 10))
    dropped = (output == 0).all(2)
    kept = output[~dropped]
    return {"OneLayerHead, share of inputs that are dropped": float(dropped.double().mean()),
            "OneLayerHead, share of sentences that lose both inputs":
                float(dropped.all(1).double().mean()),
            "OneLayerHead, share of outputs that are dropped alone":
                float((kept == 0).double().mean()),
            "OneLayerHead, what an input of 1 becomes": kept.max(),
            "the inputs afterwards": x}


@check(tolerance={"TwoLayerHead, share of inputs that are dropped": 0.06,
                  "TwoLayerHead, share of sentences that lose both inputs": 0.06,
                  "TwoLayerHead, share of hidden numbers that are dropped": 0.06,
                  "TwoLayerHead, share of outputs that are dropped alone": 0.06})
def dropout_of_two(part):
    """TwoLayerHead drops 0.3 of its inputs, then 0.45 of its hidden numbers."""
    # Each of two inputs is copied to two hidden numbers, each of these to nine outputs.
    head = build(part, "TwoLayerHead", (2, 4, 36), copies(2, 2), torch.zeros(4), copies(9, 4),
                 torch.zeros(36)).train()
    x = torch.ones(8000, 2)
    output = head(x).unflatten(1, (2, 2, 9))
    # Both copies of an input are 0 if it is dropped, or if each of them is.
    hidden = (output == 0).all(3)
    both, one = float(hidden.all(2).double().mean()), float(hidden.double().mean())
    first = 1 - (1 - one)**2 / max(1e-9, 1 - 2 * one + both)  # P(none) = (1 − p)(1 − q)²
    second = 1 - (1 - 2 * one + both) / max(1e-9, 1 - one)
    kept = output[~hidden]
    return {"TwoLayerHead, share of inputs that are dropped": first,
            "TwoLayerHead, share of sentences that lose both inputs":
                float(hidden.all((1, 2)).double().mean()),
            "TwoLayerHead, share of hidden numbers that are dropped": second,
            "TwoLayerHead, share of outputs that are dropped alone":
                float((kept == 0).double().mean()),
            "TwoLayerHead, what an input of 1 becomes": kept.max(),
            "the inputs afterwards": x}


# The largest of 40,000 even draws is within a thousandth of the bound, that of 200 within a tenth.
@check(tolerance={f"{name}, largest first number of each {kind} times √inputs": allowed
                  for name in ("OneLayerHead", "TwoLayerHead")
                  for kind, allowed in (("matrix", 0.01), ("bias", 0.1))})
def first_weights(part):
    """Weights and biases start as in nn.Linear: evenly drawn from −1/√inputs to 1/√inputs."""
    found = {}
    for name in ("OneLayerHead", "TwoLayerHead"):
        head = build(part, name, (200, 200, 200))
        for kind, dimensions in (("matrix", 2), ("bias", 1)):
            found[f"{name}, largest first number of each {kind} times √inputs"] = [
                each.abs().max().item() * 200**0.5 for each in head.parameters()
                if each.dim() == dimensions]
    return found


def install(part: types.SimpleNamespace) -> None:
    """The table of architectures holds the classes themselves."""
    for name, architecture in ARCHITECTURES.items():
        head = getattr(part, architecture.head.__name__, architecture.head)
        ARCHITECTURES[name] = dataclasses.replace(architecture, head=head)


EXERCISE = Exercise(
    title="heads of one and of two layers",
    places=("heads.layers:OneLayerHead", "heads.layers:TwoLayerHead"),
    install=install,
    mistakes=(
        ("without the LeakyReLU. Two linear layers with nothing between them act as one.",
         "            nn.LeakyReLU(),\n", ""),
        ("with a ReLU, which makes negative numbers 0. LeakyReLU multiplies them by 0.01.",
         "nn.LeakyReLU()", "nn.ReLU()"),
        ("with a GELU instead of the LeakyReLU.", "nn.LeakyReLU()", "nn.GELU()"),
        ("with a tanh instead of the LeakyReLU.", "nn.LeakyReLU()", "nn.Tanh()"),
        ("when LeakyReLU's slope is 0.1. It must be 0.01, the default.",
         "nn.LeakyReLU()", "nn.LeakyReLU(0.1)"),
        ("when LeakyReLU's slope is 0.2. It must be 0.01, the default.",
         "nn.LeakyReLU()", "nn.LeakyReLU(0.2)"),
        ("without the first dropout.", "FIRST_DROPOUT = 0.3 ", "FIRST_DROPOUT = 0.0 "),
        ("without the second dropout.", "SECOND_DROPOUT = 0.45\n", "SECOND_DROPOUT = 0.0\n"),
        ("when both dropouts are 0.3. The second must be 0.45.",
         "SECOND_DROPOUT = 0.45\n", "SECOND_DROPOUT = 0.3\n"),
        ("when the two dropouts are swapped. The first must be 0.3, the second 0.45.",
         "            nn.Dropout(FIRST_DROPOUT),\n            nn.Linear(inputs, hidden),\n"
         "            nn.LeakyReLU(),\n            nn.Dropout(SECOND_DROPOUT),",
         "            nn.Dropout(SECOND_DROPOUT),\n            nn.Linear(inputs, hidden),\n"
         "            nn.LeakyReLU(),\n            nn.Dropout(FIRST_DROPOUT),"),
        ("when dropout stays on in eval mode. F.dropout(x, p) ignores the mode; use nn.Dropout.",
         "            nn.Dropout(FIRST_DROPOUT),\n            nn.Linear(inputs, hidden),\n",
         "            type('Always', (nn.Module,), {'forward': lambda self, x: "
         "nn.functional.dropout(x, FIRST_DROPOUT)})(),\n"
         "            nn.Linear(inputs, hidden),\n"),
        ("when dropout comes after the linear layer of OneLayerHead. It must come before.",
         "            nn.Dropout(FIRST_DROPOUT),\n            nn.Linear(inputs, outputs))",
         "            nn.Linear(inputs, outputs),\n            nn.Dropout(FIRST_DROPOUT))"),
        ("with dropout on the outputs too. Nothing comes after the last linear layer.",
         "            nn.Linear(hidden, outputs))",
         "            nn.Linear(hidden, outputs), nn.Dropout(SECOND_DROPOUT))"),
        ("with a LeakyReLU after the last layer as well. The losses take raw outputs.",
         "            nn.Linear(hidden, outputs))",
         "            nn.Linear(hidden, outputs), nn.LeakyReLU())"),
        ("with a softmax at the end. The losses take raw outputs.",
         "            nn.Linear(inputs, outputs))",
         "            nn.Linear(inputs, outputs), nn.Softmax(-1))"),
        ("when a linear layer has no bias.",
         "nn.Linear(inputs, outputs)", "nn.Linear(inputs, outputs, bias=False)"),
        ("when the first of the two layers is as wide as the outputs. It must be `hidden` wide.",
         "nn.Linear(inputs, hidden),\n            nn.LeakyReLU(),\n"
         "            nn.Dropout(SECOND_DROPOUT),\n            nn.Linear(hidden, outputs)",
         "nn.Linear(inputs, outputs),\n            nn.LeakyReLU(),\n"
         "            nn.Dropout(SECOND_DROPOUT),\n            nn.Linear(outputs, outputs)"),
        ("when OneLayerHead has two layers.", "            nn.Linear(inputs, outputs))",
         "            nn.Linear(inputs, hidden), nn.Linear(hidden, outputs))"),
    ),
    hints=(
        "What does a module do differently after .train() and after .eval()? Which of your layers "
        "does that affect?",
        "Make the layers in __init__, after super().__init__(), each with its own name. Use two "
        "dropouts, because their rates differ. Call the layers one after another in forward.",
        "self.first = nn.Sequential(nn.Dropout(0.3), nn.Linear(inputs, hidden), nn.LeakyReLU()); "
        "self.second = nn.Sequential(nn.Dropout(0.45), nn.Linear(hidden, outputs)). forward "
        "returns self.second(self.first(embeddings)).",
    ),
)
