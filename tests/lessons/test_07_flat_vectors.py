"""Lesson 7: a model as one long vector, the tasks' gradients as rows of one matrix.

Gradient surgery is geometry in R^params. You learn how a module's parameters become views of one
vector without the module noticing, and how backward can be made to write each task's gradient into
its own row.
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
    model.load_state_dict({name: torch.ones_like(value)
                           for name, value in model.state_dict().items()})
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


def reader(sparse):
    """A table of 9 words, of which a loss reads some, and a layer on top."""
    torch.manual_seed(2)
    return nn.ModuleDict({"table": nn.Embedding(9, 2, sparse=sparse), "top": nn.Linear(2, 2)})


@pytest.mark.parametrize("sparse", [True, False])
def test_a_row_can_be_added_to_later(sparse):
    model = reader(sparse)
    gradients = TaskGradients(FlatParameters(model.named_parameters()), 2,
                              "table.weight" if sparse else None)

    def loss(words: list[int]) -> torch.Tensor:
        return model["top"](model["table"](torch.tensor(words)).sum(0)).sin().sum()

    grams = []
    for pieces in ([[1, 4], [4, 7, 7]], [[4, 7, 7], [1, 4]]):
        with gradients.row(0):
            (loss(pieces[0]) + loss(pieces[1])).backward()
        with gradients.row(1):
            loss(pieces[0]).backward()
        with gradients.adding(1):
            loss(pieces[1]).backward()
        grams.append(gradients.gram())
    # float32 rounding of one sum in two orders: four products that should be equal
    torch.testing.assert_close(grams[0], grams[0][0, 0].expand(2, 2), atol=0, rtol=1e-6)
    torch.testing.assert_close(grams[1], grams[0], atol=0, rtol=1e-6)


def test_a_table_kept_as_the_rows_looked_up_is_the_whole_matrix():
    sentences = [[1, 4, 1], [4, 7], [], [4, 1]]  # repeated, shared, none at all
    weights, ends = torch.tensor([1.5, 1.0, 2.0, 0.5], dtype=torch.float64), []
    for sparse in (True, False):
        model = reader(sparse)
        gradients = TaskGradients(FlatParameters(model.named_parameters()), 4,
                                  "table.weight" if sparse else None)
        for _ in range(2):  # twice: what an earlier step looked up is forgotten
            for task, words in enumerate(sentences):
                hidden = model["table"](torch.tensor(words)).sum(0) if words else torch.ones(2)
                with gradients.row(task):
                    (model["top"](hidden) * (task + 1)).sin().sum().backward()
        gram = gradients.gram()
        row, table = gradients.combine_(weights)
        ends.append((gram, row if table is None else torch.cat([table.to_dense().flatten(), row])))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert gradients.matrix.shape[1] == (6 if sparse else 24)
    assert table is None
    # float64 sums in another order
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-12, rtol=0)
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_table_must_be_first_and_its_gradient_sparse():
    flat = FlatParameters(reader(False).named_parameters())
    with pytest.raises(ValueError, match=r"first parameter, table\.weight, got top\.weight"):
        TaskGradients(flat, 1, "top.weight")
    model = reader(False)
    gradients = TaskGradients(FlatParameters(model.named_parameters()), 1, "table.weight")
    with pytest.raises(ValueError, match="sparse=True"), gradients.row(0):
        model["table"](torch.tensor([1])).sum().backward()
    assert model["table"].weight.grad is None


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
