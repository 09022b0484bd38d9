"""Lesson 7: a model as one long vector, the tasks' gradients as rows of one matrix.

Gradient surgery is geometry in R^params. You learn how a module's parameters become views of one
vector without the module noticing, and how backward can be made to write each task's gradient into
its own row.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from optim import FlatParameters, TaskGradients, split_decayed


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))


def task_gradients(model, tasks, table=None) -> TaskGradients:
    return TaskGradients(FlatParameters(model.named_parameters()), tasks, table)


def test_flattening():
    """Flattening changes neither values nor outputs."""
    model, inputs = network(), torch.randn(5, 3)
    before = model(inputs)
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    flat = FlatParameters(model.named_parameters())

    assert torch.equal(model(inputs), before)
    assert torch.equal(flat.vector, values)


def test_one_memory():
    """The vector and the module share the same memory."""
    model = network()
    flat = FlatParameters(model.named_parameters())

    flat.vector.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in model.parameters())

    ones = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(ones)
    assert (flat.vector == 1).all()


def test_rows_by_autograd():
    """Every row is the gradient that autograd.grad gives."""
    model, inputs = network().double(), torch.randn(5, 3, dtype=torch.float64)

    def loss(task):
        column = model(inputs)[:, task]
        return column.square().mean() if task == 0 else column.sin().mean()

    expected = []
    for task in range(2):
        parts = torch.autograd.grad(loss(task), list(model.parameters()))
        expected.append(torch.cat([part.flatten() for part in parts]))

    gradients = task_gradients(model, tasks=2)
    for _ in range(2):  # twice: a row starts from zero every time
        for task in range(2):
            with gradients.row(task):
                loss(task).backward()

    assert_close(gradients.matrix, torch.stack(expected), atol=1e-12, rtol=0)


def test_unused_parameters():
    """A parameter that a task does not use has a zero gradient in that task's row."""
    model = nn.ModuleDict({"used": nn.Linear(2, 1), "unused": nn.Linear(2, 1)})
    gradients = task_gradients(model, tasks=2)
    gradients.matrix.fill_(9.0)

    for task, name in enumerate(model):
        with gradients.row(task):
            model[name](torch.ones(1, 2)).sum().backward()

    assert gradients.matrix.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
                                         [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]


def reader(sparse):
    """A table of 9 words, of which a loss reads some, and a layer on top."""
    torch.manual_seed(2)
    return nn.ModuleDict({"table": nn.Embedding(9, 2, sparse=sparse), "top": nn.Linear(2, 2)})


@pytest.mark.parametrize("sparse", [True, False])
def test_adding_to_a_row(sparse):
    """A gradient may be added to a row later, in pieces."""
    model = reader(sparse)
    gradients = task_gradients(model, 2, "table.weight" if sparse else None)

    def loss(words):
        return model["top"](model["table"](torch.tensor(words)).sum(0)).sin().sum()

    grams = []
    for first, second in ([[1, 4], [4, 7, 7]], [[4, 7, 7], [1, 4]]):
        with gradients.row(0):
            (loss(first) + loss(second)).backward()
        with gradients.row(1):
            loss(first).backward()
        with gradients.adding(1):
            loss(second).backward()
        grams.append(gradients.gram())

    # float32 rounding of one sum in two orders: four products that should be equal
    assert_close(grams[0], grams[0][0, 0].expand(2, 2), atol=0, rtol=1e-6)
    assert_close(grams[1], grams[0], atol=0, rtol=1e-6)


def test_sparse_table():
    """Keeping only the table rows that were looked up gives the same result as the whole matrix."""
    sentences = [[1, 4, 1], [4, 7], [], [4, 1]]  # repeated, shared, none at all
    weights = torch.tensor([1.5, 1.0, 2.0, 0.5], dtype=torch.float64)

    def combined(sparse):
        model = reader(sparse)
        gradients = task_gradients(model, 4, "table.weight" if sparse else None)
        for _ in range(2):  # twice: what an earlier step looked up is forgotten
            for task, words in enumerate(sentences):
                hidden = model["table"](torch.tensor(words)).sum(0) if words else torch.ones(2)
                with gradients.row(task):
                    (model["top"](hidden) * (task + 1)).sin().sum().backward()
        gram = gradients.gram()
        row, table = gradients.combine_(weights)

        assert all(parameter.grad is None for parameter in model.parameters())
        assert gradients.matrix.shape[1] == (6 if sparse else 24)
        return gram, row, table

    sparse_gram, top, table = combined(sparse=True)
    gram, row, no_table = combined(sparse=False)

    assert no_table is None
    # float64 sums in another order
    assert_close(sparse_gram, gram, atol=1e-12, rtol=0)
    assert torch.equal(torch.cat([table.to_dense().flatten(), top]), row)


def test_table_is_first():
    """A table must be the first parameter; a dense gradient of it is kept as its rows."""
    model = reader(sparse=False)
    with pytest.raises(ValueError, match=r"first parameter, table\.weight, got top\.weight"):
        task_gradients(model, 1, "top.weight")

    gradients = task_gradients(model, 1, "table.weight")
    with gradients.row(0):
        model["table"](torch.tensor([1])).sum().backward()
    assert gradients._looked_up()[0].tolist() == [1]
    assert gradients.gram().item() == 2


def test_frozen_parameters():
    model = network()
    model[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"0\.bias is frozen: leave it out of FlatParameters"):
        task_gradients(model, tasks=2)


def test_row_after_an_error():
    """After a row no gradient is left in the model, not even if an error ended the row."""
    model = network()
    gradients = task_gradients(model, tasks=1)
    with pytest.raises(RuntimeError, match="on purpose"), gradients.row(0):
        raise RuntimeError("on purpose")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_split_decayed():
    """Biases and LayerNorm do not decay."""
    decayed, undecayed = split_decayed(network())
    assert list(decayed) == ["0.weight", "3.weight"]
    assert list(undecayed) == ["0.bias", "2.weight", "2.bias", "3.bias"]


FLOAT32, FLOAT64 = nn.Linear(2, 2).weight, nn.Linear(2, 2).double().weight


@pytest.mark.parametrize(("parameters", "message"), [
    ([], "no parameters"),
    ([("a", FLOAT32), ("b", FLOAT32)], "twice"),
    ([("a", FLOAT32), ("b", FLOAT64)], "one dtype"),
])
def test_bad_parameters(parameters, message):
    """Parameters that cannot be one vector are refused."""
    with pytest.raises(ValueError, match=message):
        FlatParameters(parameters)
