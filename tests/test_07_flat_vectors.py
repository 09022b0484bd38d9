"""Lesson 7: a model as one long vector, the tasks' gradients as rows of one matrix.

Gradient surgery is geometry in R^params. You learn how a module's parameters become views of one vector without the
module noticing, and how backward can be made to write each task's gradient into its own row.
"""

import pytest
import torch
from torch import nn

from optim import FlatParameters, TaskGradients, split_decayed


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))


def losses(model, inputs):
    out = model(inputs)
    return [out[:, 0].square().mean(), out[:, 1].sin().mean()]


def test_flattening_changes_neither_values_nor_outputs():
    model, inputs = network(), torch.randn(5, 3)
    before, values = model(inputs), [parameter.detach().clone() for parameter in model.parameters()]
    flat = FlatParameters(model.named_parameters())
    assert torch.equal(model(inputs), before)
    assert torch.equal(flat.vector, torch.cat([value.flatten() for value in values]))


def test_vector_and_module_are_one_memory():
    model = network()
    flat = FlatParameters(model.named_parameters())
    flat.vector.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in model.parameters())
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    assert (flat.vector == 1).all()


def test_every_row_is_the_gradient_that_autograd_grad_gives():
    model, inputs = network().double(), torch.randn(5, 3, dtype=torch.float64)
    expected = [torch.cat([g.flatten() for g in torch.autograd.grad(losses(model, inputs)[task],
                                                                    list(model.parameters()))])
                for task in range(2)]
    gradients = TaskGradients(FlatParameters(model.named_parameters()), tasks=2)
    for _ in range(2):  # twice: a row starts from zero every time
        for task in range(2):
            with gradients.row(task):
                losses(model, inputs)[task].backward()
    torch.testing.assert_close(gradients.matrix, torch.stack(expected), atol=1e-12, rtol=0)


def test_a_parameter_that_a_task_does_not_touch_has_gradient_zero():
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    gradients = TaskGradients(FlatParameters(model.named_parameters()), tasks=1)
    gradients.matrix.fill_(9.0)
    with gradients.row(0):
        model["used"](torch.ones(1, 2)).sum().backward()
    assert gradients.matrix.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]


def test_outside_a_row_no_gradient_is_left_behind():
    model = network()
    gradients = TaskGradients(FlatParameters(model.named_parameters()), tasks=1)
    with pytest.raises(RuntimeError, match="on purpose"), gradients.row(0):
        raise RuntimeError("on purpose")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_biases_and_layer_norm_are_apart_from_what_decays():
    decayed, undecayed = split_decayed(network())
    assert list(decayed) == ["0.weight", "3.weight"]
    assert list(undecayed) == ["0.bias", "2.weight", "2.bias", "3.bias"]


def test_what_cannot_be_one_vector_is_refused():
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="no parameters"):
        FlatParameters([])
    with pytest.raises(ValueError, match="twice"):
        FlatParameters([("a", shared.weight), ("b", shared.weight)])
    with pytest.raises(ValueError, match="one dtype"):
        FlatParameters([("a", shared.weight), ("b", nn.Linear(2, 2).double().weight)])
