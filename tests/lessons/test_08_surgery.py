"""Lesson 8: gradient surgery.

Two tasks conflict if the product of their gradients is negative: a small step down one task's
gradient raises the other's loss. PCGrad removes from each task's gradient the part that points
against another's. You learn Algorithm 1 of Yu et al. 2020 with numbers you can check by hand, why
the tasks' Gram matrix is all it needs, what the paper's Eq. 2–5 do instead, and which beliefs about
surgery are false.

Write it yourself: minbert study, ex12_gram.py; minbert study, ex13_pcgrad.py; minbert study,
ex14_paper.py.
"""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from minbert_study.exercises.pcgrad import project_conflicting as algorithm_1
from optim import (
    constant_weights,
    cosines,
    gram_matrix,
    norm_of_combination,
    paper_weights,
    pcgrad_weights,
    project_conflicting,
    project_paper,
)
from optim.surgery import combine, random_order


def gradients(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


THREE_TASKS = gradients([[0, -1, -2], [0, 0, 1], [0, 1, 1]])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def all_orders(tasks):
    """Every order in which each task can meet the others."""
    sequences = []
    for task in range(tasks):
        others = [other for other in range(tasks) if other != task]
        sequences.append(list(itertools.permutations(others)))
    return list(itertools.product(*sequences))


@st.composite
def matrices(draw, fewest=1, most=5):
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shape = draw(st.integers(fewest, most)), draw(st.integers(1, 9))
    rows = torch.randn(shape, dtype=torch.float64)
    return rows * 10.0 ** torch.randint(-3, 4, (len(rows), 1))


# ------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(("rows", "expected"), [
    ([[-4, 1, 1], [6, 1, 1]], [0.5848, 3.8012, 3.8012]),
    ([[3, 1], [-2, 1]], [0.5, 3.5]),
    ([[1, 0], [0, 1]], [1, 1]),
    ([[1, 0], [-2, 0]], [0, 0]),
    ([[1, -1], [0, 0]], [1, -1]),  # a zero gradient: no division by its norm
])
def test_two_tasks_by_hand(rows, expected):
    """For two tasks, PCGrad gives the results worked out by hand."""
    assert_close(project_conflicting(gradients(rows)), gradients(expected), atol=5e-5, rtol=0)


@pytest.mark.parametrize("order", all_orders(3))
def test_one_conflict_any_order(order):
    """If only two of three tasks conflict, every order gives the same result."""
    result = project_conflicting(gradients([[1, 0, 0], [-1, 1, 0], [0, 0, 1]]), order)
    assert_close(result, gradients([0.5, 1.5, 1]), atol=1e-12, rtol=0)


def test_order_matters():
    """If one task conflicts with two others, 8 orders can give 8 different results.

    The third pair agrees, but a projection brings it into conflict. The results' mean is
    [0, 0.05, 0.40].
    """
    outputs = [project_conflicting(THREE_TASKS, order) for order in all_orders(3)]

    assert len(outputs) == 8
    assert_close(torch.stack(outputs).mean(0), gradients([0, 0.05, 0.40]), atol=1e-12, rtol=0)
    different = {tuple(output.round(decimals=9).tolist()) for output in outputs}
    assert len(different) == 8


def test_never_against_itself():
    """A task is never projected against itself: nothing would be left, as g − (g·g/‖g‖²) g = 0."""
    rows = gradients([[1.0, 2.0]])
    assert torch.equal(project_conflicting(rows), rows[0])

    for task, others in enumerate(random_order(6, seeded(0))):
        assert task not in others

    for order in ([[0], [1]], [0, 1]):
        with pytest.raises(ValueError, match="every other task once"):
            project_conflicting(gradients([[1, 0], [0, 1]]), order=order)
    with pytest.raises(ValueError, match=r"got a list: make one with torch.as_tensor"):
        project_conflicting([[1.0, 0.0], [0.0, 1.0]])


def test_eq_2_to_5_by_hand():
    """Eq. 2 to 5 also project where there is no conflict; Algorithm 1 does not."""
    rows = gradients([[1, 0], [1, 1]])
    # g1' = g1 − (1/2) g2 = [0.5, −0.5], g2' = g2 − (1/1) g1 = [0, 1]
    assert_close(project_paper(rows), gradients([0.5, 0.5]), atol=1e-12, rtol=0)
    assert_close(project_conflicting(rows), gradients([2, 1]), atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------- a second way


@settings(max_examples=200, deadline=None)
@given(matrices(), st.integers(0, 2**31))
def test_gram_route_is_algorithm_1(rows, seed):
    """Working from the Gram matrix gives what Algorithm 1 gives on the vectors themselves."""
    order = random_order(len(rows), seeded(seed))
    # float64 rounding, relative to the largest gradient
    atol = 1e-11 * rows.abs().max().item()
    assert_close(project_conflicting(rows, order), algorithm_1(rows, order), atol=atol, rtol=1e-9)


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_paper_weights(rows):
    """The paper's weights give the result of Eq. 2 to 5 on the vectors, written out here."""
    expected = torch.zeros_like(rows[0])
    for i, gradient in enumerate(rows):
        expected += gradient
        for j, other in enumerate(rows):
            if j != i:
                expected -= (gradient @ other) / (other @ other) * other

    atol = 1e-11 * rows.abs().max().item()
    assert_close(project_paper(rows), expected, atol=atol, rtol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_three_tasks_by_torchjd(seed, monkeypatch):
    """For three tasks, our weights equal torchjd's if ours use the order that torchjd drew."""
    from torchjd.aggregation import PCGradWeighting

    drawn, randperm = [], torch.randperm

    def recording(*args, **kwargs):
        drawn.append(randperm(*args, **kwargs))
        return drawn[-1]

    rows = torch.randn(3, 5, generator=seeded(seed), dtype=torch.float64)
    rows[1] -= rows[0]
    monkeypatch.setattr(torch, "randperm", recording)
    theirs = PCGradWeighting()(rows @ rows.T)

    # torchjd's order has all tasks; it skips the one that is projected
    order = [[j for j in drawn[i].tolist() if j != i] for i in range(3)]
    assert_close(pcgrad_weights(rows @ rows.T, order), theirs, atol=1e-10, rtol=0)


# --------------------------------------------------------------------------------------- properties


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_weights_at_least_one(rows):
    """PCGrad's weights are at least 1, and all are 1 if and only if no two tasks conflict."""
    gram = gram_matrix(rows)
    weights = pcgrad_weights(gram)

    assert (weights >= 1).all()
    conflict = bool((gram < 0).any())
    assert bool((weights == 1).all()) == (not conflict)


@settings(max_examples=100, deadline=None)
@given(matrices(), st.integers(0, 2**31))
def test_scaling_and_rotation(rows, seed):
    """Scaling or rotating all gradients scales or rotates the result."""
    order, size = random_order(len(rows), seeded(seed)), rows.abs().max().item()
    square = torch.randn(rows.shape[1], rows.shape[1], dtype=torch.float64)
    rotation, _ = torch.linalg.qr(square)

    for project in (lambda matrix: project_conflicting(matrix, order), project_paper):
        result = project(rows)
        assert_close(project(8 * rows), 8 * result, atol=1e-10 * size, rtol=1e-8)
        assert_close(project(rows @ rotation), result @ rotation, atol=1e-9 * size, rtol=1e-6)


def test_conflicts_can_remain():
    """With three tasks the sum after surgery may still point against a task."""
    results = [project_conflicting(THREE_TASKS, order) for order in all_orders(3)]
    assert any((THREE_TASKS @ result < 0).any() for result in results)


@settings(max_examples=50, deadline=None)
@given(matrices(2, 2))
def test_two_tasks_no_conflict_left(rows):
    """With two tasks, the result points against neither task's gradient."""
    assert (rows @ project_conflicting(rows) >= -1e-9 * (rows @ rows.T).abs().max()).all()


def test_inputs_are_kept():
    """Surgery modifies no input and leaves the global generator where it was."""
    rows = torch.randn(4, 6)
    copy, state = rows.clone(), torch.get_rng_state()

    project_conflicting(rows)
    project_paper(rows)

    assert torch.equal(rows, copy)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_that_require_gradients():
    """Such come from autograd.grad with create_graph; surgery is not differentiated."""
    rows = torch.randn(2, 6, requires_grad=True)
    for surgery in (partial(project_conflicting, order=[[1], [0]]), project_paper):
        assert torch.equal(surgery(rows), surgery(rows.detach()))
        assert not surgery(rows).requires_grad


def test_seeded_order():
    """A seeded generator gives the same order again, and every order occurs."""
    rows = torch.randn(5, 6)
    first = project_conflicting(rows, generator=seeded(4))
    second = project_conflicting(rows, generator=seeded(4))
    assert torch.equal(first, second)

    orders = {str(random_order(3, seeded(seed))) for seed in range(200)}
    assert len(orders) == 8


# ------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30])
@pytest.mark.parametrize("other", [1e-30, 1.0, 1e30])
def test_float32_of_any_scale(scale, other):
    """Surgery is right for float32 gradients of any scale.

    Squares of 1e30 overflow float32, and those of 1e-30 vanish in it. So products are in float64.
    """
    rows = torch.randn(3, 50, generator=seeded(0))
    rows[1] -= 0.5 * rows[0]  # conflicts with the first
    rows = rows * torch.tensor([scale, scale, other])[:, None]
    order, longest = random_order(3, seeded(1)), rows.double().norm(dim=1).max()
    exact = algorithm_1(rows.double(), order)
    # float32 rounding of rows as long as the longest
    assert (project_conflicting(rows, order).double() - exact).norm() <= 1e-5 * longest
    # and it is not the plain sum
    assert not torch.allclose(exact / longest, rows.double().sum(0) / longest, atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_across_pieces(dtype, monkeypatch):
    """The Gram matrix is summed in float64, also over several pieces of the gradients."""
    monkeypatch.setattr("optim.surgery.PIECE_ON_CPU", 7)
    rows = torch.randn(3, 50, dtype=dtype)
    assert_close(gram_matrix(rows), rows.double() @ rows.double().T, atol=1e-12, rtol=0)


def test_autocast():
    """The Gram matrix is the same inside autocast."""
    rows = torch.randn(3, 5000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram_matrix(rows)
    assert torch.equal(gram_matrix(rows), inside)


def test_combine_in_place(monkeypatch):
    """The combination may overwrite the first gradient."""
    monkeypatch.setattr("optim.surgery.PIECE_ON_CPU", 7)
    rows, weights = torch.randn(3, 50), torch.tensor([1.5, 1.0, 2.0], dtype=torch.float64)
    expected = combine(rows, weights)
    # float32 rounding of three terms near 1
    assert_close(expected, (weights @ rows.double()).float(), atol=2e-6, rtol=0)

    result = combine(rows, weights, out=rows[0])

    assert result.data_ptr() == rows.data_ptr()
    assert torch.equal(rows[0], expected)


def test_norm_of_combination():
    """The norm of the result is known before the result is computed."""
    rows = torch.randn(3, 8, dtype=torch.float64)
    gram = gram_matrix(rows)
    weights = pcgrad_weights(gram)

    norm = combine(rows, weights).norm().item()
    assert norm_of_combination(gram, weights) == pytest.approx(norm, rel=1e-12)


def test_cosines_by_hand():
    """The cosines are those worked out by hand, and 0 for a zero gradient."""
    values = cosines(gram_matrix(gradients([[1, 0], [1, 1], [-2, 0], [0, 0]])))
    root = 0.5**0.5
    expected = [[1, root, -1, 0], [root, 1, -root, 0], [-1, -root, 1, 0], [0, 0, 0, 0]]
    assert_close(values, gradients(expected), atol=1e-12, rtol=0)


def test_constant_weights():
    """Constant weights do not depend on the gradients.

    PCGrad's mean weights, held fixed, are a control. They separate the effect of reacting to
    conflicts from that of unequal task weights.
    """
    values = [1.5, 1.0, 2.0]
    method = constant_weights(values)
    values[0] = 9.0  # too late: the method has its own copy

    for gram in (torch.eye(3), -torch.ones(3, 3), torch.zeros(3, 3)):
        weights = method(gram, generator=torch.Generator())
        assert weights.tolist() == [1.5, 1.0, 2.0]
        assert weights.dtype == torch.float64
        weights.zero_()  # the caller has its own copy too

    rows = gradients([[1, 0], [0, 1], [1, 1]])
    assert combine(rows, method(gram_matrix(rows))).tolist() == [3.5, 3.0]


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_bad_constant_weights(bad):
    """Constant weights that are not one finite number per task are refused."""
    with pytest.raises(ValueError, match="one finite number per task"):
        constant_weights(bad)


@pytest.mark.parametrize("weights", [pcgrad_weights, paper_weights])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad, weights):
    """Gradients that are not finite are refused, and the error names their task."""
    rows = gradients([[1, 0], [bad, 1], [0, 1]])
    with pytest.raises(ValueError, match=r"tasks \[1\] are not finite"):
        weights(gram_matrix(rows))


@pytest.mark.parametrize("rows", [torch.ones(3), torch.ones(2, 2, dtype=torch.int64),
                                  torch.ones(0, 3)])
def test_bad_matrices(rows):
    """A matrix of gradients must have two dimensions, floats and at least one task."""
    with pytest.raises(ValueError, match=r"\(tasks, params\) matrix of floats"):
        project_conflicting(rows)
