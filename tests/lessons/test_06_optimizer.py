"""Lesson 6: AdamW, one update rule and four ways to check it.

You learn what the course's form is (bias correction in the step size, decay after the update),
where it differs from torch's own AdamW, and how to tell that an optimizer is right: by hand,
against double precision, on a bowl and in Rosenbrock's valley.

Write it yourself: minbert study, ex11_adamw.py.
"""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from optim import AdamW, linear_decay
from optim.adamw import adamw_update
from optim.fast import fused_adamw
from optim.schedule import constant


def float64_adamw(weights, gradient, steps, lr, weight_decay, betas=(0.9, 0.999), eps=1e-6):
    """The update written a second time, in numpy, from the papers' equations."""
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t in range(1, steps + 1):
        g = gradient(weights, t)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        alpha = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        weights = weights - alpha * m / (np.sqrt(v) + eps)
        weights = weights - lr * weight_decay * weights
    return weights


def minimise(loss, parameter, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
    return parameter.detach()


def run(optimizer_class, steps=50, **options):
    """Twenty weights after some steps down x⁴."""
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(20, dtype=torch.float64))
    optimizer = optimizer_class([parameter], lr=0.01, **options)
    return minimise(lambda x: (x**4).sum(), parameter, optimizer, steps)


def test_first_step_by_hand():
    """The first step is lr · g / (|g| + eps/√0.001); the decay follows."""
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    parameter.grad = torch.tensor([4.0], dtype=torch.float64)

    AdamW([parameter], lr=0.1, weight_decay=0.5).step()

    # m = 0.1 g, v = 0.001 g², α = lr √0.001 / 0.1
    moved = 2 - 0.1 * 4 / (4 + 1e-6 / math.sqrt(0.001))
    assert parameter.item() == pytest.approx(moved - 0.1 * 0.5 * moved, rel=1e-12)


def test_the_courses_test():
    """The 1,000 steps of the course's optimizer_test.py end where they end in double precision."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    start = model.weight.detach().double().numpy().copy()
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, correct_bias=True)

    inputs = []
    for _ in range(1000):
        optimizer.zero_grad()
        x = torch.FloatTensor(rng.uniform(size=[3]))
        inputs.append(x.double().numpy())
        loss = ((torch.stack([x[0] + x[1], -x[2]]) - model(x)) ** 2).sum()
        loss.backward()
        optimizer.step()

    def gradient(weights, t):
        x = inputs[t - 1]
        return 2 * np.outer(weights @ x - np.array([x[0] + x[1], -x[2]]), x)

    expected = float64_adamw(start, gradient, 1000, lr=1e-3, weight_decay=1e-4)
    # 1,000 float32 steps, each rounded by at most 3e-8 either way: about √1000 · 2e-8 = 6e-7
    assert np.abs(model.weight.detach().numpy() - expected).max() < 1e-6
    # Four fixed digits also catch a change made to both implementations at once.
    assert np.round(expected, 4).tolist() == [[0.5548, 0.8666, 0.0729], [-0.4473, -0.2951, -0.2717]]


@pytest.mark.parametrize(("correct_bias", "end"), [(True, -1.0), (False, -0.1 / math.sqrt(0.001))])
def test_bias_correction(correct_bias, end):
    """Without bias correction the first step is about three times larger."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.ones(1, dtype=torch.float64)
    AdamW([parameter], lr=1.0, eps=0.0, correct_bias=correct_bias).step()
    assert parameter.item() == pytest.approx(end, rel=1e-12)


def test_against_torchs_adamw():
    """Without eps and decay, ours and torch's give the same weights; with either, they differ."""
    ours, theirs = run(AdamW, eps=0.0), run(torch.optim.AdamW, eps=0.0, weight_decay=0.0)
    assert_close(ours, theirs, atol=1e-12, rtol=0)

    ours, theirs = run(AdamW, eps=1e-2), run(torch.optim.AdamW, eps=1e-2, weight_decay=0.0)
    assert (ours - theirs).abs().max() > 1e-4

    # decay after the update multiplies the step too: a difference of lr² · weight_decay per step
    ours = run(AdamW, 1, eps=0.0, weight_decay=0.1)
    theirs = run(torch.optim.AdamW, 1, eps=0.0, weight_decay=0.1)
    apart = (ours - theirs).abs()
    assert_close(apart, torch.full_like(apart, 0.01 * 0.01 * 0.1), atol=1e-12, rtol=0)


def test_eps_in_torchs_terms():
    """torch's AdamW gives our first step if its eps is ours divided by √(1−β2).

    In step t our denominator √v + eps, divided by √(1−β2ᵗ), is √(v/(1−β2ᵗ)) + eps/√(1−β2ᵗ).
    torch's is √(v/(1−β2ᵗ)) + eps.
    """
    ours = run(AdamW, 1, eps=1e-3)
    theirs = run(torch.optim.AdamW, 1, eps=1e-3 / math.sqrt(1 - 0.999), weight_decay=0.0)
    assert_close(ours, theirs, atol=1e-14, rtol=0)


@pytest.mark.parametrize("correct_bias", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_equals_plain(dtype, weight_decay, correct_bias):
    """The update in one pass equals the equations applied one by one."""
    group = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-3, "weight_decay": weight_decay,
             "correct_bias": correct_bias}
    start = torch.randn(1000, dtype=dtype)

    ends = []
    for update in (adamw_update, fused_adamw):
        torch.manual_seed(1)
        theta, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        for t in range(1, 6):
            update(theta, torch.randn(1000, dtype=dtype), m, v, t, **group)
        ends.append((theta, m, v))

    # five steps, a few roundings each, of numbers up to 4
    tolerance = 20 * torch.finfo(dtype).eps
    plain, fused = ends
    assert_close(fused, plain, atol=tolerance, rtol=tolerance)


def test_replaced_updates(monkeypatch):
    """An update that is replaced takes effect, be it a partial or a closure."""
    def scaled(factor):
        def update(theta, g, *given, **options):
            adamw_update(theta, factor * g, *given, **options)

        return update

    expected = run(AdamW)
    for update in (functools.partial(adamw_update), scaled(1.0)):
        monkeypatch.setattr("optim.adamw.adamw_update", update)
        assert torch.equal(run(AdamW), expected)

    monkeypatch.setattr("optim.adamw.adamw_update", scaled(-1.0))
    with pytest.warns(UserWarning, match="adamw.py and optim/fast.py do not agree"):
        assert not torch.equal(run(AdamW), expected)


def test_bowl_and_valley():
    """AdamW finds the lowest point of a bowl, and that of Rosenbrock's valley at (1, 1)."""
    bowl = torch.nn.Parameter(torch.tensor([5.0, -3.0]))
    end = minimise(lambda x: (x**2).sum(), bowl, AdamW([bowl], lr=0.05), 500)
    assert end.abs().max() < 1e-2

    def valley(x):
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    point = torch.nn.Parameter(torch.tensor([-1.5, 2.0]))
    end = minimise(valley, point, AdamW([point], lr=0.02), 4000)
    assert (end - 1).abs().max() < 0.05


def test_no_gradient_no_decay():
    """Without a gradient a parameter does not decay: an idle head must not shrink."""
    idle = torch.nn.Parameter(torch.ones(3))
    AdamW([idle], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(idle, torch.ones(3))


def test_gradients_are_kept():
    """A step does not modify the gradients."""
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    AdamW([parameter], weight_decay=0.1).step()
    assert parameter.grad.tolist() == [1.0, 2.0, 3.0]


def test_resumed_state():
    """With its state saved and loaded, an optimizer continues as if it had never stopped."""
    def take_steps(parameter, optimizer):
        for _ in range(3):
            parameter.grad = parameter.detach().cos()
            optimizer.step()

    straight = torch.nn.Parameter(torch.ones(4))
    optimizer = AdamW([straight], lr=0.1)
    take_steps(straight, optimizer)
    # copies, because a state dict holds the tensors themselves, and the next steps change them
    saved, value = copy.deepcopy(optimizer.state_dict()), straight.detach().clone()
    take_steps(straight, optimizer)

    resumed = torch.nn.Parameter(value)
    optimizer = AdamW([resumed], lr=0.1)
    optimizer.load_state_dict(saved)
    take_steps(resumed, optimizer)

    assert torch.equal(resumed, straight)


@pytest.mark.parametrize(("options", "message"), [
    ({"lr": -1e-3}, "lr must be 0 or more, got -0.001"),
    ({"betas": (1.0, 0.999)}, r"beta1 must be in \[0, 1\)"),
    ({"betas": (0.9, -0.1)}, "beta2"),
    ({"eps": -1.0}, "eps"),
    ({"weight_decay": float("nan")}, "weight_decay"),
])
def test_bad_hyperparameters(options, message):
    """A hyperparameter outside its range is refused by name."""
    with pytest.raises(ValueError, match=message):
        AdamW([torch.nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sparse_equals_dense(weight_decay, monkeypatch):
    """A sparse gradient acts like a dense one with zero rows elsewhere, bit for bit."""
    monkeypatch.setattr("optim.fast.BLOCK", 6)  # blocks of 3 rows, some of them without gradient
    tables = [torch.nn.Embedding(10, 2, sparse=sparse) for sparse in (True, False)]
    tables[1].load_state_dict(tables[0].state_dict())
    optimizers = [AdamW(table.parameters(), lr=0.1, weight_decay=weight_decay) for table in tables]

    for ids in ([1, 7, 1], [0, 9], [2], [8, 7, 6]):
        before = tables[0].weight.detach().clone()
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            table(torch.tensor(ids)).square().sum().backward()
            assert table.weight.grad.is_sparse == table.sparse
            optimizer.step()
        assert torch.equal(tables[0].weight, tables[1].weight)

    # row 1 had its only gradient three steps ago, and its moments still move it
    assert (tables[0].weight[1] != before[1]).all()


def test_schedules():
    """The schedule rises to one and then falls to zero, or stays at one."""
    values = [linear_decay(step, 10, 100) for step in range(101)]
    assert values[0] == 0.1
    assert max(values) == values[9] == values[10] == 1.0
    assert values[55] == 0.5
    assert values[100] == 0.0

    assert [constant(step, 0, 100) for step in (0, 5, 99)] == [1.0, 1.0, 1.0]
    assert constant(4, 10, 100) == 0.5
