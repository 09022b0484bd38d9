"""Lesson 8: gradient surgery.

Two tasks conflict if their gradients point against each other: a step that helps one hurts the
other. PCGrad takes from each task's gradient what points against another's. You learn Algorithm 1
of Yu et al. 2020 with numbers you can check by hand, why the tasks' Gram matrix is all it needs,
what the paper's Eq. 2–5 do instead, and which beliefs about surgery are false.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import algorithm_1

from optim import (
    constant_weights,
    cosines,
    gram_matrix,
    norm_of_combination,
    paper_weights,
    pcgrad_weights,
    project_conflicting,
    project_paper,
    sum_weights,
)
from optim.surgery import SURGERY, combine, random_order


def gradients(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def all_orders(tasks):
    """Every way in which every task can meet the others."""
    sequences = [list(itertools.permutations([j for j in range(tasks) if j != i]))
                 for i in range(tasks)]
    return [list(map(list, order)) for order in itertools.product(*sequences)]


@st.composite
def matrices(draw, fewest=1, most=5):
    torch.manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn(draw(st.integers(fewest, most)), draw(st.integers(1, 9)),
                       dtype=torch.float64)
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
    torch.testing.assert_close(project_conflicting(gradients(rows)), gradients(expected), atol=5e-5,
                               rtol=0)


def test_the_weights_of_the_first_example():
    weights = pcgrad_weights(gram_matrix(gradients([[-4, 1, 1], [6, 1, 1]])))
    torch.testing.assert_close(weights, gradients([2.2222, 1.5789]), atol=5e-5, rtol=0)


def test_three_tasks_of_which_two_conflict_give_the_same_in_any_order():
    rows = gradients([[1, 0, 0], [-1, 1, 0], [0, 0, 1]])
    for order in all_orders(3):
        torch.testing.assert_close(project_conflicting(rows, order), gradients([0.5, 1.5, 1]),
                                   atol=1e-12, rtol=0)


def test_with_three_conflicts_the_order_matters():
    """K: 8 orders, 8 different outputs, their mean [0, 0.05, 0.40]."""
    rows = gradients([[0, -1, -2], [0, 0, 1], [0, 1, 1]])
    outputs = [project_conflicting(rows, order) for order in all_orders(3)]
    assert len(outputs) == 8
    torch.testing.assert_close(torch.stack(outputs).mean(0), gradients([0, 0.05, 0.40]), atol=1e-12,
                               rtol=0)
    assert len({tuple(output.round(decimals=9).tolist()) for output in outputs}) == 8


def test_a_task_is_never_projected_against_itself():
    """Against itself, every gradient would vanish: g − (g·g/‖g‖²) g = 0."""
    rows = gradients([[1.0, 2.0]])
    assert torch.equal(project_conflicting(rows), rows[0])
    assert all(i not in others for i, others in enumerate(random_order(6,
                                                                       torch.Generator().manual_seed(0))))
    with pytest.raises(ValueError, match="every other task once"):
        project_conflicting(gradients([[1, 0], [0, 1]]), order=[[0], [1]])


def test_eq_2_to_5_by_hand():
    """g1 = [1, 0], g2 = [1, 1]: g1' = g1 − (1/2) g2 = [.5, −.5], g2' = g2 − (1/1) g1 = [0, 1]. No
    conflict, yet cut."""
    rows = gradients([[1, 0], [1, 1]])
    torch.testing.assert_close(project_paper(rows), gradients([0.5, 0.5]), atol=1e-12, rtol=0)
    torch.testing.assert_close(project_conflicting(rows), gradients([2, 1]), atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------- a second way


@settings(max_examples=200, deadline=None)
@given(matrices(), st.integers(0, 2**31))
def test_the_gram_matrix_route_is_algorithm_1(rows, seed):
    order = random_order(len(rows), torch.Generator().manual_seed(seed))
    # float64 rounding, relative to the largest gradient
    torch.testing.assert_close(project_conflicting(rows, order), algorithm_1(rows, order),
                               atol=1e-11 * rows.abs().max().item(), rtol=1e-9)


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_the_papers_weights_are_eq_2_to_4_written_out(rows):
    projected = [g - sum((g @ h) / (h @ h) * h for j, h in enumerate(rows) if j != i)
                 for i, g in enumerate(rows)]
    torch.testing.assert_close(project_paper(rows), torch.stack(projected).sum(0),
                               atol=1e-11 * rows.abs().max().item(), rtol=1e-9)


def test_two_tasks_agree_with_torchjd():
    """torchjd averages where PCGrad's authors sum; with two tasks there is one order, so both are
    defined."""
    from torchjd.aggregation import PCGrad

    for seed in range(20):
        rows = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed))
        theirs = PCGrad()(rows)
        ours = project_conflicting(rows)
        # float32 rounding of sums of 7 products near 1
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_three_tasks_agree_with_torchjds_gram_weights_with_its_order_fixed(monkeypatch):
    """torchjd draws each task's order by torch.randperm; we record what it drew and hand it to
    ours."""
    from torchjd.aggregation import PCGradWeighting

    drawn = []
    randperm = torch.randperm

    def recording(*args, **kwargs):
        drawn.append(randperm(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(torch, "randperm", recording)
    for seed in range(20):
        rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows[1] -= rows[0]
        drawn.clear()
        theirs = PCGradWeighting()(rows @ rows.T)
        order = [[j for j in drawn[i].tolist() if j != i] for i in range(3)]
        torch.testing.assert_close(pcgrad_weights(rows @ rows.T, order), theirs, atol=1e-10, rtol=0)


# --------------------------------------------------------------------------------------- properties


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_weights_are_at_least_one_and_all_one_exactly_without_conflict(rows):
    gram = gram_matrix(rows)
    weights = pcgrad_weights(gram)
    assert (weights >= 1).all()
    conflict = bool((gram < 0).any())
    assert bool((weights == 1).all()) == (not conflict)


@settings(max_examples=100, deadline=None)
@given(matrices(), st.integers(0, 2**31))
def test_scaling_or_rotating_all_gradients_scales_or_rotates_the_result(rows, seed):
    order = random_order(len(rows), torch.Generator().manual_seed(seed))
    rotation, _ = torch.linalg.qr(torch.randn(rows.shape[1], rows.shape[1], dtype=torch.float64))
    result, size = project_conflicting(rows, order), rows.abs().max().item()
    for weighting in (project_conflicting, lambda matrix, _: project_paper(matrix)):
        result = weighting(rows, order)
        torch.testing.assert_close(weighting(8 * rows, order), 8 * result, atol=1e-10 * size,
                                   rtol=1e-8)
        torch.testing.assert_close(weighting(rows @ rotation, order), result @ rotation,
                                   atol=1e-9 * size, rtol=1e-6)


def test_with_three_tasks_conflicts_can_remain():
    """A common belief that is false: after surgery the sum may still point against a task."""
    rows = gradients([[0, -1, -2], [0, 0, 1], [0, 1, 1]])
    assert any((rows @ project_conflicting(rows, order) < 0).any() for order in all_orders(3))


@settings(max_examples=50, deadline=None)
@given(matrices(2, 2))
def test_with_two_tasks_no_conflict_remains(rows):
    assert (rows @ project_conflicting(rows) >= -1e-9 * (rows @ rows.T).abs().max()).all()


def test_inputs_are_not_modified_and_the_global_generator_does_not_move():
    rows = torch.randn(4, 6)
    copy, state = rows.clone(), torch.get_rng_state()
    project_conflicting(rows)
    project_paper(rows)
    assert torch.equal(rows, copy)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seeded_generator_gives_the_same_order_again():
    rows = torch.randn(5, 6)
    first, second = (project_conflicting(rows, generator=torch.Generator().manual_seed(4))
                     for _ in range(2))
    assert torch.equal(first, second)
    orders = {str(random_order(3, torch.Generator().manual_seed(seed))) for seed in range(200)}
    assert len(orders) == 8  # all of them occur


# ------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
@pytest.mark.parametrize("method", SURGERY)
def test_float32_gradients_of_any_scale_are_projected_rightly(scale, method):
    """Squares of 1e30 overflow float32 and those of 1e-30 vanish in it; sums of products are
    float64."""
    rows = gradients([[-4, 1, 1], [6, 1, 1]], torch.float32)
    expected = combine(rows, SURGERY[method](gram_matrix(rows)))
    scaled = combine(rows * scale, SURGERY[method](gram_matrix(rows * scale)))
    torch.testing.assert_close(scaled / scale, expected, atol=1e-5, rtol=1e-5)


def test_the_gram_matrix_is_exact_across_blocks(monkeypatch):
    monkeypatch.setattr("optim.surgery.PIECE_ON_CPU", 7)
    rows = torch.randn(3, 50)  # shorter than a piece of float32 products: float64 throughout
    torch.testing.assert_close(gram_matrix(rows), rows.double() @ rows.double().T, atol=1e-12,
                               rtol=0)
    rows = torch.randn(3, 50, dtype=torch.float64)
    torch.testing.assert_close(gram_matrix(rows), rows @ rows.T, atol=1e-12, rtol=0)


def long_gradients(kind):
    """(3, 300,005) float32: what makes float32 sums go wrong."""
    rows = torch.randn(3, 300_005, generator=torch.Generator().manual_seed(0))
    if kind == "all of one sign":  # partial sums grow, and every rounding is of a large number
        rows = rows.abs() + 10
    elif kind == "nearly orthogonal":  # products of ±1e4 that cancel to almost nothing
        rows[1] = rows[0].roll(1) * torch.tensor([100.0, -100.0]).repeat(150_003)[:300_005]
    elif kind == "nearly opposed":  # K_01 is nearly −‖g‖²
        rows[1] = rows[2] * 1e-3 - rows[0]
    elif kind == "scales apart":  # a layer of large gradients, then of small ones
        rows *= torch.logspace(-8, 8, 300_005)
    return rows


@pytest.mark.parametrize("kind",
                         ["random", "all of one sign", "nearly orthogonal", "nearly opposed",
                          "scales apart"])
def test_float32_gram_is_exact(kind):
    rows = long_gradients(kind)
    exact = gram_matrix(rows.double())
    norms = exact.diagonal().sqrt()
    error = ((gram_matrix(rows) - exact) / (norms[:, None] * norms)).abs().max().item()
    assert error < 1e-13  # products and sums are float64
    # what pairwise or vectorised sums really do: √1024 roundings of 6e-8 at most
    assert error < 1e-6
    # a cosine's error moves a weight of PCGrad by as much: times the ratio of two norms, once for
    # each other task
    order = [[1, 2], [2, 0], [0, 1]]
    torch.testing.assert_close(pcgrad_weights(gram_matrix(rows), order),
                               pcgrad_weights(exact, order),
                               atol=0, rtol=4 * 1e-6 * (norms.max() / norms.min()).item())


@pytest.mark.parametrize("scales",
                         [(1e-30, 1e-30, 1e-30), (1e30, 1e30, 1e30), (1e-30, 1.0, 1e30),
                          (1e-22, 1e-19, 0.0)])
def test_long_gradients_of_any_scale_have_exact_products(scales):
    """1e-30² is 0 in float32 and 1e30² is inf; each is noticed, and all is done again in
    float64."""
    rows = torch.randn(3, 5000) * torch.tensor(scales)[:, None]
    torch.testing.assert_close(gram_matrix(rows), rows.double() @ rows.double().T, atol=0,
                               rtol=1e-10)


def test_a_surrounding_autocast_changes_no_product():
    rows = torch.randn(3, 5000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram_matrix(rows)
    assert torch.equal(gram_matrix(rows), inside)


def test_the_combination_may_take_the_place_of_the_first_gradient(monkeypatch):
    monkeypatch.setattr("optim.surgery.PIECE_ON_CPU", 7)
    rows, weights = torch.randn(3, 50), torch.tensor([1.5, 1.0, 2.0], dtype=torch.float64)
    expected = combine(rows, weights)
    # float32 rounding of three terms near 1
    torch.testing.assert_close(expected, (weights @ rows.double()).float(), atol=2e-6, rtol=0)
    result = combine(rows, weights, out=rows[0])
    assert result.data_ptr() == rows.data_ptr()
    assert torch.equal(rows[0], expected)


def test_the_norm_of_the_result_is_known_before_it_is_computed():
    rows = torch.randn(3, 8, dtype=torch.float64)
    gram = gram_matrix(rows)
    weights = pcgrad_weights(gram)
    assert norm_of_combination(gram, weights) == pytest.approx(combine(rows, weights).norm().item(),
                                                               rel=1e-12)


def test_cosines_by_hand():
    values = cosines(gram_matrix(gradients([[1, 0], [1, 1], [-2, 0], [0, 0]])))
    root = 0.5**0.5
    expected = [[1, root, -1, 0], [root, 1, -root, 0], [-1, -root, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(values, gradients(expected), atol=1e-12, rtol=0)


def test_the_plain_sum_has_weights_one():
    assert sum_weights(torch.eye(3)).tolist() == [1, 1, 1]


def test_constant_weights_do_not_look_at_the_gradients():
    """PCGrad's mean weights, held fixed, are the control that tells surgery from an unequal
    weighting of the tasks."""
    values = [1.5, 1.0, 2.0]
    method = constant_weights(values)
    values[0] = 9.0
    for gram in (torch.eye(3), -torch.ones(3, 3), torch.zeros(3, 3)):
        weights = method(gram, generator=torch.Generator())
        assert weights.tolist() == [1.5, 1.0, 2.0]
        assert weights.dtype == torch.float64
        weights.zero_()  # a caller's own copy
    rows = gradients([[1, 0], [0, 1], [1, 1]])
    assert combine(rows, method(gram_matrix(rows))).tolist() == [3.5, 3.0]


def test_constant_weights_one_for_each_task():
    with pytest.raises(ValueError, match="2 constant weights for 3 tasks"):
        constant_weights([1, 2])(torch.eye(3))
    for bad in ([], [1.0, float("nan")], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="one finite number per task"):
            constant_weights(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused_by_task(bad):
    rows = gradients([[1, 0], [bad, 1], [0, 1]])
    for weights in (pcgrad_weights, paper_weights):
        with pytest.raises(ValueError, match=r"tasks \[1\] are not finite"):
            weights(gram_matrix(rows))


def test_what_is_no_gradient_matrix_is_refused():
    for rows in (torch.ones(3), torch.ones(2, 2, dtype=torch.int64), torch.ones(0, 3)):
        with pytest.raises(ValueError, match=r"\(tasks, params\) matrix of floats"):
            project_conflicting(rows)
