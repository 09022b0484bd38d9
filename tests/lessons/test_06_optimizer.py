"""Lesson 6: AdamW, one update rule, four proofs.

You learn what the course's form is (bias correction in the step size, decay after the update),
where it differs from torch's own AdamW, and how to tell that an optimizer is right: by hand,
against double precision, on a bowl and in Rosenbrock's valley.
"""

import math

import numpy as np
import pytest
import torch

from optim import AdamW, linear_decay
from optim.adamw import adamw_update
from optim.fast import fused_adamw
from optim.schedule import constant


def float64_adamw(weights, gradient, steps, lr, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-6):
    """The update written a second time, in numpy and double precision, from the papers'
    equations."""
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t in range(1, steps + 1):
        g = gradient(weights, t)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        alpha = lr * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        weights = weights - alpha * m / (np.sqrt(v) + eps)
        weights = weights - lr * weight_decay * weights
    return weights


def test_the_first_step_by_hand():
    """m = 0.1 g, v = 0.001 g², α = lr √0.001 / 0.1: the step is lr · g / (|g| + eps/√0.001), then
    the decay."""
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    parameter.grad = torch.tensor([4.0], dtype=torch.float64)
    AdamW([parameter], lr=0.1, weight_decay=0.5).step()
    moved = 2 - 0.1 * 4 / (4 + 1e-6 / math.sqrt(0.001))
    assert parameter.item() == pytest.approx(moved - 0.1 * 0.5 * moved, rel=1e-12)


def test_the_courses_optimizer_test_ends_where_double_precision_does():
    """The procedure of the course's optimizer_test.py, 1,000 steps; the reference is float64_adamw
    above."""
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
    # a thousand float32 steps, each rounded by at most 3e-8 either way: about √1000 · 2e-8 = 6e-7
    # in all
    assert np.abs(model.weight.detach().numpy() - expected).max() < 1e-6
    # the same, four digits by eye, so that a change of both implementations at once does not go
    # unseen
    assert np.round(expected, 4).tolist() == [[0.5548, 0.8666, 0.0729], [-0.4473, -0.2951, -0.2717]]


@pytest.mark.parametrize("correct_bias", [True, False])
def test_without_bias_correction_the_first_step_is_larger(correct_bias):
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    parameter.grad = torch.ones(1, dtype=torch.float64)
    AdamW([parameter], lr=1.0, eps=0.0, correct_bias=correct_bias).step()
    assert parameter.item() == pytest.approx(-1.0 if correct_bias else -0.1 / math.sqrt(0.001),
                                             rel=1e-12)


def run(optimizer_class, steps=50, **options):
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(20, dtype=torch.float64))
    optimizer = optimizer_class([parameter], lr=0.01, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter**4).sum().backward()
        optimizer.step()
    return parameter.detach()


def test_it_equals_torchs_adamw_where_the_two_forms_meet():
    """No eps and no decay: the same sequence. Deviation in the docstring: they part with either."""
    torch.testing.assert_close(run(AdamW, eps=0.0),
                               run(torch.optim.AdamW, eps=0.0, weight_decay=0.0),
                               atol=1e-12, rtol=0)
    assert (run(AdamW, eps=1e-2) - run(torch.optim.AdamW, eps=1e-2,
                                       weight_decay=0.0)).abs().max() > 1e-4
    # decay after the update multiplies the step too: a difference of lr² · weight_decay a step
    apart = (run(AdamW, 1, eps=0.0, weight_decay=0.1)
             - run(torch.optim.AdamW, 1, eps=0.0, weight_decay=0.1)).abs()
    torch.testing.assert_close(apart, torch.full_like(apart, 0.01 * 0.01 * 0.1), atol=1e-12, rtol=0)


def test_eps_is_larger_in_torchs_terms_by_the_bias_correction():
    """√v + eps here is √(v/(1−β2ᵗ)) + eps/√(1−β2ᵗ) there: equal after the first step if eps is so
    scaled."""
    ours = run(AdamW, 1, eps=1e-3)
    theirs = run(torch.optim.AdamW, 1, eps=1e-3 / math.sqrt(1 - 0.999), weight_decay=0.0)
    torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)


@pytest.mark.parametrize("correct_bias", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_in_one_pass_is_the_equations_line_by_line(dtype, weight_decay, correct_bias):
    group = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-3, "weight_decay": weight_decay,
             "correct_bias": correct_bias}
    start = [torch.randn(1000, dtype=dtype), torch.zeros(1000, dtype=dtype),
             torch.zeros(1000, dtype=dtype)]
    ends = []
    for update in (adamw_update, fused_adamw):
        torch.manual_seed(1)
        theta, m, v = (value.clone() for value in start)
        for t in range(1, 6):
            update(theta, torch.randn(1000, dtype=dtype), m, v, t, **group)
        ends.append((theta, m, v))
    # five steps, a few roundings each, of numbers up to 4
    tolerance = 20 * torch.finfo(dtype).eps
    for plain, fast in zip(*ends, strict=True):
        torch.testing.assert_close(fast, plain, atol=tolerance, rtol=tolerance)


def test_a_bowl_and_rosenbrocks_valley_are_descended():
    bowl = torch.nn.Parameter(torch.tensor([5.0, -3.0]))
    optimizer = AdamW([bowl], lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        (bowl**2).sum().backward()
        optimizer.step()
    assert bowl.detach().abs().max() < 1e-2
    point = torch.nn.Parameter(torch.tensor([-1.5, 2.0]))
    optimizer = AdamW([point], lr=0.02)
    for _ in range(4000):
        optimizer.zero_grad()
        ((1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2).backward()
        optimizer.step()
    assert (point.detach() - 1).abs().max() < 0.05


def test_a_parameter_without_gradient_is_left_alone_even_by_decay():
    """An idle head must not shrink while it waits for its task."""
    idle = torch.nn.Parameter(torch.ones(3))
    AdamW([idle], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(idle, torch.ones(3))


def test_gradients_are_not_modified_and_two_runs_are_equal_bit_for_bit():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    AdamW([parameter], weight_decay=0.1).step()
    assert parameter.grad.tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(run(AdamW, weight_decay=0.1), run(AdamW, weight_decay=0.1))


def test_state_saved_and_loaded_goes_on_as_if_never_stopped():
    def gradient_step(parameter, optimizer):
        parameter.grad = parameter.detach().cos()
        optimizer.step()

    straight = torch.nn.Parameter(torch.ones(4))
    optimizer = AdamW([straight], lr=0.1)
    for step in range(6):
        if step == 3:
            saved, value = optimizer.state_dict(), straight.detach().clone()
            saved = {**saved, "state": {k: {n: torch.as_tensor(x).clone() if n != "step" else x
                                            for n, x in s.items()}
                                        for k, s in saved["state"].items()}}
        gradient_step(straight, optimizer)
    resumed = torch.nn.Parameter(value)
    optimizer = AdamW([resumed], lr=0.1)
    optimizer.load_state_dict(saved)
    for _ in range(3):
        gradient_step(resumed, optimizer)
    assert torch.equal(resumed, straight)


@pytest.mark.parametrize(("options", "message"), [
    ({"lr": -1e-3}, "lr must be 0 or more, got -0.001"),
    ({"betas": (1.0, 0.999)}, r"beta1 must be in \[0, 1\)"),
    ({"betas": (0.9, -0.1)}, "beta2"), ({"eps": -1.0}, "eps"),
    ({"weight_decay": float("nan")}, "weight_decay"),
])
def test_hyperparameters_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW([torch.nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_sparse_gradient_is_a_dense_one_of_zeros_elsewhere_bit_for_bit(weight_decay, monkeypatch):
    """Rows that no sentence looks up move on: their moments decay and push. Blocks of 3 rows here,
    some untouched."""
    monkeypatch.setattr("optim.fast.BLOCK", 6)
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
    assert (tables[0].weight[1] != before[1]).all()  # row 1, long after its last gradient


def test_the_schedule_rises_to_one_and_falls_to_zero():
    values = [linear_decay(step, 10, 100) for step in range(101)]
    assert values[0] == 0.1
    assert max(values) == values[9] == values[10] == 1.0
    assert values[55] == 0.5
    assert values[100] == 0.0
    assert [constant(step, 0, 100) for step in (0, 5, 99)] == [1.0, 1.0, 1.0]
    assert constant(4, 10, 100) == 0.5
