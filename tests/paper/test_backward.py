"""multitask_backward: surgery on ordinary parameters, in whatever loop a user has.

You learn what a training loop may do to a gradient before and after surgery, and that the combined
gradient equals that of the flat matrix every time.
"""

import pytest
import torch
from test_10_training import counting_saved
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from optim import (
    SURGERY,
    FlatParameters,
    Method,
    TaskGradients,
    average_gradients,
    backward,
    gram_matrix,
    multitask_backward,
    project_conflicting,
)
from optim.methods.losses import Famo

# float32 sums in another order
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Network(nn.Module):
    """A trunk and three heads, which want different signs of the same thing: they conflict."""

    def __init__(self, trunk=None):
        super().__init__()
        self.trunk = trunk or nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6))
        self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        for head in self.heads[1:]:
            head.load_state_dict(self.heads[0].state_dict())

    def loss(self, task, hidden):
        return (self.heads[task](hidden) - (1, -2, 3)[task]).square().mean()

    def losses(self, x):
        hidden = self.trunk(x)
        return [self.loss(task, hidden) for task in range(3)]

    def one_by_one(self, x):
        return (self.loss(task, self.trunk(x)) for task in range(3))


@pytest.fixture
def model() -> Network:
    return Network()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def rows_of(losses, shared) -> torch.Tensor:
    """The tasks' gradients by torch.autograd.grad, (tasks, params)."""
    shared, rows = list(shared), []
    for loss in losses:
        found = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def flat_gradient(parameters) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def check(model, x, **tolerance):
    """Checks that `.grad` is PCGrad's in the trunk and the plain sum's in the heads.

    Returns the trunk's.
    """
    rows = rows_of(model.losses(x), model.trunk.parameters())
    expected = project_conflicting(rows, generator=seeded())
    assert not torch.allclose(expected, rows.sum(0), rtol=1e-2)  # surgery has something to do
    assert_close(flat_gradient(model.trunk.parameters()), expected, **(tolerance or CLOSE))
    heads = list(model.heads.parameters())
    for parameter, gradient in zip(heads, torch.autograd.grad(sum(model.losses(x)), heads), strict=True):
        assert_close(parameter.grad, gradient, **(tolerance or CLOSE))
    return expected


# ------------------------------------------------------------------------------- losses and graphs


@pytest.mark.parametrize("given", ["list", "tensor", "values of a dict", "generator"])
def test_ways_to_give_losses(model, x, given):
    """One forward pass with three losses, or one per loss: the same gradients."""
    losses = {"list": model.losses, "tensor": lambda x: torch.stack(model.losses(x)),
              "values of a dict": lambda x: dict(enumerate(model.losses(x))).values(),
              "generator": model.one_by_one}[given](x)
    result = multitask_backward(losses, model.trunk.parameters(), generator=seeded())
    check(model, x)

    rows = rows_of(model.losses(x), model.trunk.parameters())
    assert_close(result.losses, torch.stack(model.losses(x)).detach())
    assert_close(result.gram, gram_matrix(rows), **CLOSE)
    assert not result.losses.requires_grad


def test_graph_freed_before_the_next(model, x):
    """What autograd saves for a backward pass is gone when the next forward pass begins."""
    at_each_forward = []
    with counting_saved() as alive:
        model.trunk.register_forward_pre_hook(lambda *_: at_each_forward.append(len(alive)))
        multitask_backward(model.one_by_one(x), model.trunk.parameters())
    assert at_each_forward == [0, 0, 0]
    assert not alive


def test_graphs_kept_or_not(model, x):
    losses = model.losses(x)
    multitask_backward(losses, model.trunk.parameters(), generator=seeded(), retain_graph=True)
    model.zero_grad()
    multitask_backward(losses, model.trunk.parameters(), generator=seeded())
    check(model, x)
    with pytest.raises(RuntimeError, match="second time"):
        losses[0].backward()


def test_two_losses_of_one_task(model, x):
    """Two losses of one task are one row if added; given apart, they are two tasks to surgery."""
    first, second, third = model.losses(x)
    added = multitask_backward([first + second, third], model.trunk.parameters(), retain_graph=True)
    apart = multitask_backward([first, second, third], model.trunk.parameters())
    assert (added.gram.shape, apart.gram.shape) == ((2, 2), (3, 3))
    assert_close(added.gram[0, 0], apart.gram[:2, :2].sum())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_checkpointing(model, x, reentrant, one_by_one):
    """Surgery works with activations that are computed again in the backward pass."""
    trunk = model.trunk

    class Checkpointed(nn.Module):
        def forward(self, x):
            return checkpoint(trunk, x, use_reentrant=reentrant)

    model.trunk = Checkpointed()
    x.requires_grad_()  # reentrant checkpoints see no graph otherwise
    losses = model.one_by_one(x) if one_by_one else model.losses(x)
    multitask_backward(losses, trunk.parameters(), generator=seeded())
    model.trunk = trunk
    check(model, x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_compiled(model, x, backend, one_by_one):
    """A compiled trunk works; several losses of one forward pass need one setting (see how-to)."""
    trunk = model.trunk
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=one_by_one):
        model.trunk = torch.compile(trunk, backend=backend)
        losses = model.one_by_one(x) if one_by_one else model.losses(x)
        multitask_backward(losses, trunk.parameters(), generator=seeded())
    model.trunk = trunk
    check(model, x)


# -------------------------------------------------------------------------------------- parameters


def test_untouched(model, x):
    """Frozen parameters, and those that no loss reaches, keep their `.grad`, be it None or not."""
    frozen = model.trunk[0].bias.requires_grad_(False)
    frozen.grad = torch.ones(8)
    unused, used_before = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used_before.grad = torch.full((2,), 7.0)
    multitask_backward(model.losses(x), [*model.trunk.parameters(), unused, used_before])
    assert frozen.grad.tolist() == [1.0] * 8
    assert unused.grad is None
    assert used_before.grad.tolist() == [7.0, 7.0]


def test_frozen_encoder(model, x):
    """A stage that trains the heads alone can keep the same line."""
    model.trunk.requires_grad_(False)
    result = multitask_backward(model.losses(x), model.trunk.parameters())
    assert not result.gram.any()
    assert model.trunk[0].weight.grad is None
    assert model.heads[0].weight.grad is not None


def test_reached_by_some(model, x):
    """A parameter that only the first task uses has zero gradients for the other tasks."""
    adapter = nn.Linear(6, 6)
    hidden = model.trunk(x)
    losses = [model.loss(0, adapter(hidden)), model.loss(1, hidden), model.loss(2, hidden)]
    shared = [*model.trunk.parameters(), *adapter.parameters()]
    expected = project_conflicting(rows_of(losses, shared), generator=seeded())
    multitask_backward(losses, shared, generator=seeded())
    assert_close(flat_gradient(shared), expected, **CLOSE)


def test_accumulation(model, x):
    """Two calls add up, into the same memory; so does an ordinary backward before them."""
    parameters = list(model.parameters())
    x2 = torch.randn(4, 5)
    grads = []
    for batch in (x, x2):
        model.zero_grad()
        multitask_backward(model.losses(batch), model.trunk.parameters(), generator=seeded())
        grads.append([parameter.grad.clone() for parameter in parameters])
    model.zero_grad()
    sum(value.sum() for value in parameters).backward()  # a gradient of ones
    places = [parameter.grad.data_ptr() for parameter in parameters]
    for batch in (x, x2):
        multitask_backward(model.losses(batch), model.trunk.parameters(), generator=seeded())
    assert [parameter.grad.data_ptr() for parameter in parameters] == places
    for parameter, first, second in zip(parameters, *grads, strict=True):
        assert_close(parameter.grad, 1 + first + second)


def test_tied_in_the_trunk(x):
    """A layer that is used twice has one gradient, of both uses."""
    layer = nn.Linear(5, 5)
    model = Network(nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(5, 6)))
    multitask_backward(model.losses(x), model.trunk.parameters(), generator=seeded())
    check(model, x)


def test_tied_to_a_head(model):
    """If an embedding is also a head's weight, its whole gradient is combined."""
    table = nn.Embedding(7, 5)
    model.heads[0].weight, model.heads[0].bias = nn.Parameter(torch.ones(1, 6)), None
    shared = [table.weight, *model.trunk.parameters()]
    hidden = model.trunk(table(torch.tensor([0, 3, 3])))
    losses = [(hidden[:, :5] @ table.weight.T).square().mean(), model.loss(1, hidden)]
    expected = project_conflicting(rows_of(losses, shared))
    multitask_backward(losses, shared)
    assert_close(flat_gradient(shared), expected, **CLOSE)


def test_given_twice(model, x):
    shared = [*model.trunk.parameters(), *model.trunk.parameters()]
    multitask_backward(model.losses(x), shared, generator=seeded())
    check(model, x)


def test_hooks(model, x):
    """A tensor's hooks see each task's gradient; what they return counts."""
    weight, seen = model.trunk[2].weight, []
    weight.register_hook(seen.append)
    weight.register_post_accumulate_grad_hook(lambda value: seen.append(value.grad.clone()))
    bias = model.trunk[2].bias
    bias.register_hook(lambda gradient: gradient * 0)
    expected = rows_of(model.losses(x), [weight])[:, None]
    seen.clear()
    multitask_backward(model.losses(x), model.trunk.parameters())
    for row, by_tensor, by_accumulation in zip(expected, seen[::2], seen[1::2], strict=True):
        assert_close(by_tensor.flatten()[None], row)
        assert_close(by_accumulation, by_tensor)
    assert not bias.grad.any()


def test_strides():
    """A parameter in another memory format keeps it, as fused optimizers want."""
    trunk = nn.Sequential(nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last), nn.Flatten())
    model, x = Network(nn.Sequential(*trunk, nn.Linear(12, 6))), torch.randn(4, 2, 3, 3)
    multitask_backward(model.losses(x), model.trunk.parameters(), generator=seeded())
    weight = model.trunk[0].weight
    assert weight.grad.stride() == weight.stride() != (8, 4, 2, 1)
    check(model, x)


# ------------------------------------------------------------------ optimizers and mixed precision


def test_scaler_and_autocast(model, x):
    """Scaled losses give the unscaled combination; an overflow skips one step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(blow_up=1.0):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = [scaler.scale(loss) * blow_up for loss in model.losses(x)]
        multitask_backward(losses, model.trunk.parameters(), generator=seeded())
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(blow_up=1e38)
    assert not torch.isfinite(flat_gradient(model.trunk.parameters())).all()
    assert scaler.get_scale() == 512
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    step()
    assert scaler.get_scale() == 512
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert_close(parameter, old - 0.1 * parameter.grad)
        parameter.data.copy_(old)
    # products in bfloat16 have 8 bits
    check(model, x, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_one_task_overflows(model, x, bad):
    """If a task overflows, no shared gradient that it reaches is finite, whatever the method."""
    first, second, _ = model.losses(x)
    result = multitask_backward([first, second * bad], model.trunk.parameters(), "paper")
    assert not torch.isfinite(flat_gradient(model.trunk.parameters())).any()
    assert result.weights.tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Products of 300 × 300 do not fit into float16; the Gram matrix is exact all the same."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    rows = torch.tensor([[300.0, 1.0, 2.0], [-300.0, 1.0, 4.0]], dtype=dtype)
    result = multitask_backward([weight @ row for row in rows], [weight])
    assert_close(result.gram, gram_matrix(rows), rtol=0, atol=0)
    assert_close(result.gram, rows.double() @ rows.double().T)
    assert weight.grad.dtype == dtype
    assert_close(weight.grad, project_conflicting(rows), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [
    [[1e4, 1e4], [-6e-5, 1e-5]],   # a weight of 1e8
    [[6e4, 100], [-5e4, 100]],     # weights of about 2, terms of 1.1e5
])
def test_narrow_numbers(rows):
    """float16 holds the result, but not the weights or terms that lead to it."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    rows = torch.tensor(rows, dtype=torch.float16)
    result = multitask_backward([weight @ row for row in rows], [weight])
    assert max(result.weights.max(), (result.weights @ rows.double().abs()).max()) > 65504
    assert_close(weight.grad, project_conflicting(rows), rtol=0, atol=0)
    assert torch.isfinite(weight.grad).all()


def test_mixed_dtypes():
    """Parameters of several types share one Gram matrix."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    losses = [a.sum() - 2 * b.sum().float(), a.sum() + b.sum().float()]
    result = multitask_backward(losses, [a, b])
    assert result.gram.tolist() == [[10, -2], [-2, 4]]
    assert (a.grad.dtype, b.grad.dtype) == (torch.float32, torch.bfloat16)


# ------------------------------------------------------------------------------- the same elsewhere


@pytest.mark.parametrize("method", [name for name in SURGERY if name != "constant"])
@pytest.mark.parametrize("piece", [1 << 18, 7])
def test_flat_route(method, piece, model, x, monkeypatch):
    """One block of memory or many give the same gradient, with the same generator."""
    monkeypatch.setattr(backward, "PIECE", piece)
    expected = Network()
    expected.load_state_dict(model.state_dict())
    result = multitask_backward(model.losses(x), model.trunk.parameters(), Method(method), seeded())

    gradients = TaskGradients(FlatParameters(expected.trunk.named_parameters()), 3)
    for task in range(3):
        with gradients.row(task):
            expected.loss(task, expected.trunk(x)).backward()
    weights = Method(method)(gradients.gram(), seeded(), result.losses.double())
    assert_close(result.weights, weights, rtol=1e-6, atol=0)
    ours, theirs = flat_gradient(model.trunk.parameters()), gradients.combine_(weights)[0]
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
    for one, other in zip(model.heads.parameters(), expected.heads.parameters(), strict=True):
        assert_close(one.grad, other.grad)


@pytest.mark.parametrize("method", ["sum", "pcgrad", "nashmtl"])
def test_default_device(method, model, x):
    """The Gram matrix stays on the CPU where torch's default device is another."""
    losses = model.losses(x)
    with torch.device("meta"):
        result = multitask_backward(losses, model.trunk.parameters(), method)
    assert result.gram.device.type == result.weights.device.type == "cpu"


# ---------------------------------------------------------------------------------------- processes


def _process(rank, state, x, file, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    model = Network()
    model.load_state_dict(state)
    own, never = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    for method in ("pcgrad", Method("famo")):
        losses = model.losses(x[2 * rank:2 * rank + 2])
        if rank == 1:  # only one of the two processes reaches this parameter
            losses[0] = losses[0] + 2 * own.sum()
        multitask_backward(losses, [*model.trunk.parameters(), own, never], method, seeded(),
                           group=torch.distributed.group.WORLD)
    average_gradients(model.heads.parameters())
    assert never.grad is None
    results[rank] = [parameter.grad for parameter in [*model.parameters(), own]]
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes(model, x, tmp_path):
    """Two halves of a batch in two processes are one batch: rows and losses are averaged before
    surgery."""
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (model.state_dict(), x, tmp_path / "file", results), nprocs=2)
        first, second = results[0], results[1]

    own = nn.Parameter(torch.ones(5))
    for method in ("pcgrad", Method("famo")):
        losses = model.losses(x)
        losses[0] = losses[0] + own.sum()
        multitask_backward(losses, [*model.trunk.parameters(), own], method, seeded())
    for parameter, one, two in zip([*model.parameters(), own], first, second, strict=True):
        assert torch.equal(one, two)
        assert_close(one, parameter.grad, **CLOSE)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("given", "message"), [
    (lambda model, losses, shared: ([], shared), "no losses were given"),
    (lambda model, losses, shared: (iter([]), shared), "no losses were given"),
    (lambda model, losses, shared: ([losses[0], 1.0], shared), r"losses\[1\] is of type float"),
    (lambda model, losses, shared: ({"a": losses[0]}, shared), r"type str.*give its values\(\)"),
    (lambda model, losses, shared: ([losses[0], model.trunk(torch.ones(2, 5))], shared),
     r"losses\[1\] has shape \(2, 6\).*mean\(\)"),
    (lambda model, losses, shared: ([losses[0], losses[1].detach()], shared),
     r"losses\[1\] has no graph"),
    (lambda model, losses, shared: ([losses[0], losses[1].to("meta")], shared),
     r"losses\[1\] is on meta, the first on cpu: move it with .to\('cpu'\)"),
    (lambda model, losses, shared: (losses, []), "shared is empty"),
    (lambda model, losses, shared: (losses, model), r"is a Network: give its parameters\(\)"),
    (lambda model, losses, shared: (losses, ["trunk.0.weight"]), "must hold parameters.*got str"),
    (lambda model, losses, shared: (losses, model.trunk.named_parameters()), "got tuple"),
    (lambda model, losses, shared: (losses, [shared[0] * 1]), "got a computed tensor"),
    (lambda model, losses, shared: (losses, Network().trunk.parameters()), "no loss reaches any"),
])
def test_errors(model, x, given, message):
    """One line says what is wrong, and an error found before the first backward leaves `.grad`."""
    losses, shared = given(model, model.losses(x), list(model.trunk.parameters()))
    with pytest.raises(ValueError, match=message) as caught:
        multitask_backward(losses, shared)
    assert "\n" not in str(caught.value)
    if "reaches" not in message:
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("given", "message"), [
    (lambda trunk: trunk, r"parameters is a Sequential: give its parameters\(\)"),
    (lambda trunk: trunk.named_parameters(), "parameters must hold parameters.*got tuple"),
])
def test_average_of_what(model, given, message):
    with pytest.raises(ValueError, match=message):
        average_gradients(given(model.trunk))


def test_unknown_method(model, x):
    with pytest.raises(ValueError, match="no surgery method 'pcgrd'; choose from pcgrad, paper"):
        multitask_backward(model.losses(x), model.trunk.parameters(), "pcgrd")
    with pytest.raises(ValueError, match=r"returned shape \(2,\).* 3 tasks"):
        multitask_backward(model.losses(x), model.trunk.parameters(), lambda gram, generator: [1, 1])


@pytest.mark.parametrize("method", ["nashmtl", "normalised", "uncertainty"])
def test_scaled_losses(method, model, x):
    """A method sees losses and gradients without a GradScaler's factor."""
    plain = multitask_backward(model.losses(x), model.trunk.parameters(), Method(method))
    scaled = multitask_backward([4096 * loss for loss in model.losses(x)],
                                model.trunk.parameters(), Method(method), scale=4096.0)
    assert_close(scaled.weights, plain.weights)


def test_what_a_method_remembers(model, x):
    """A stateful method given by name is refused, as it would forget; as a Method it remembers."""
    with pytest.raises(ValueError, match=r"dwa remembers.*Method\('dwa'\)"):
        multitask_backward(model.losses(x), model.trunk.parameters(), "dwa")
    method = Method("dwa")
    for epoch, factor in enumerate((1.0, 0.5, 0.5)):
        losses = [loss * (factor if task else 1.0) for task, loss in enumerate(model.losses(x))]
        result = multitask_backward(losses, model.trunk.parameters(), method, epoch=epoch)
    expected = 3 * (torch.tensor([1.0, .5, .5], dtype=torch.float64) / 2).softmax(0)
    assert_close(result.weights, expected)


def test_an_object_keeps_its_state(model, x):
    own = Famo()
    for _ in range(2):
        multitask_backward(model.losses(x), model.trunk.parameters(), own)
    assert "xi" in own.state


def test_sparse_gradients():
    """Sparse gradients of shared parameters are refused, and the error gives the shape."""
    table, linear = nn.Embedding(9, 2, sparse=True), nn.Linear(2, 1)
    losses = [linear(table(torch.tensor([task]))).sum() for task in range(2)]
    with pytest.raises(ValueError, match=r"shape \(9, 2\) is sparse: build .* sparse=False"):
        multitask_backward(losses, [table.weight, *linear.parameters()], retain_graph=True)
    table.weight.grad = None
    multitask_backward(losses, linear.parameters())
    assert table.weight.grad.is_sparse


def test_after_an_error(model, x):
    """A forward pass that fails half-way leaves the shared `.grad` as it was."""
    def losses():
        yield model.loss(0, model.trunk(x))
        raise RuntimeError("no more data")

    before = model.trunk[0].bias.grad = torch.full((8,), 5.0)
    with pytest.raises(RuntimeError, match="no more data"):
        multitask_backward(losses(), model.trunk.parameters())
    assert model.trunk[0].bias.grad is before
    assert before.tolist() == [5.0] * 8
    assert model.trunk[0].weight.grad is None
