"""Surgery methods: each is compared with its optimality condition, other code, or autograd.

You learn what every method promises, and that a promise is easier to check than a derivation. The
conditions are in tools/optimality.py, which also prints them for torchjd.
"""

import math
from itertools import pairwise

import optimality
import pytest
import torch
from test_10_training import batches, build, without_head_dropout
from torch.testing import assert_close

from multitask.data.batching import MicroBatches
from multitask.training.step import SurgeryTrainer, group_of
from optim import (
    SURGERY,
    Method,
    SurgeryError,
    gram_matrix,
    pcgrad_weights,
    project_conflicting,
)
from optim.methods.descent import _project, cagrad_weights, mgda_weights
from optim.methods.losses import DynamicWeightAverage, Famo, GradNorm, Uncertainty
from optim.methods.vaccine import GradVac

# Only rounding is allowed, except where K itself has too few digits. Two directions closer than
# 1e-7 differ in K's last digits only, and FairGrad's equations may span 16 powers of ten.
LIMITS = {("imtlg", "nearly parallel"): .1, ("config", "nearly parallel"): .1,
          ("fairgrad", "1e±12"): 1e-3, ("fairgrad", "dependent"): 1e-7,
          ("nashmtl", "dependent"): 1e-7}


@pytest.mark.parametrize("name", optimality.CONDITIONS)
def test_optimality(name):
    """Every method meets its optimality condition, for 2 to 10 tasks.

    Some gradients are dependent, zero, identical, opposite, nearly parallel or scaled by 1e±12.
    """
    weights_of, off = Method(name), optimality.CONDITIONS[name]
    checked = set()
    for kind, G in optimality.gradients(160, seed=1):
        K = G @ G.T
        found = off(K, weights_of(K))
        if found is not None:
            checked.add(kind)
            assert found < LIMITS.get((name, kind), 1e-11), (kind, K)
    assert {"plain", "long or short"} <= checked


def test_upgrad_is_a_mean_of_projections():
    """Each projection v_i is optimal by itself; for two tasks, UPGrad is half of PCGrad."""
    for _, G in optimality.gradients(80, seed=2):
        K = G @ G.T
        for unit in torch.eye(len(K), dtype=torch.float64):
            if unit @ K @ unit > 0:
                assert optimality.projected(K, _project(K, unit), unit) < 1e-11
        if len(K) == 2 and K.diagonal().min() > 0:
            assert_close(Method("upgrad")(K), pcgrad_weights(K) / 2)


@pytest.mark.parametrize(("name", "theirs", "tolerance"), [
    ("imtlg", "IMTLG", 1e-9), ("config", "ConFIG", 1e-6), ("alignedmtl", "AlignedMTL", 1e-9),
    ("upgrad", "UPGrad", 2e-3), ("dualproj", "DualProj", 2e-3),  # theirs adds 1e-4 · I to K
    ("fairgrad", "FairGrad", 1e-6), ("mgda", "MGDA", 1e-3)])
def test_torchjd(name, theirs, tolerance):
    """On gradients without special cases, updates equal torchjd's."""
    from torchjd import aggregation

    options = {"FairGrad": {"alpha": 2.0}, "MGDA": {"epsilon": 1e-9, "max_iters": 5000}}
    aggregate = getattr(aggregation, theirs)(**options.get(theirs, {}))
    factor = {"AlignedMTL": lambda tasks: tasks}.get(theirs, lambda tasks: 1)  # a mean there
    for kind, G in optimality.gradients(80, seed=3, most_tasks=5):
        if kind == "plain":
            expected = factor(len(G)) * aggregate(G)
            found = Method(name)(G @ G.T) @ G
            assert (found - expected).norm() <= tolerance * G.norm(dim=1).max()


@pytest.mark.parametrize("alpha", [0.2, 20.0, 100.0])
def test_fairgrad(alpha):
    """K w = w^(−1/α) for lengths that differ by 1e2; with a large α a weight may be 1e-150."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        lengths = 10 ** (-2 * torch.rand(3, 1, dtype=torch.float64, generator=generator))
        G = lengths * torch.randn(3, 50, dtype=torch.float64, generator=generator)
        w = Method(f"fairgrad:alpha={alpha}")(G @ G.T)
        assert (G @ G.T @ w * w ** (1 / alpha) - 1).abs().max() < 1e-9


def test_cagrad():
    """No direction within c‖g_0‖ of the mean serves the worst task better; c = 0 is the mean."""
    random = torch.Generator().manual_seed(0)
    for kind, G in optimality.gradients(40, seed=4, most_tasks=4):
        if kind != "plain":
            continue
        mean, c = G.mean(0), 0.4
        d = (1 + c**2) * (cagrad_weights(G @ G.T, c) @ G)
        assert (d - mean).norm() == pytest.approx(float(c * mean.norm()))
        others = torch.randn(2000, G.shape[1], generator=random, dtype=torch.float64)
        others = mean + c * mean.norm() * others / others.norm(dim=1, keepdim=True)
        assert (G @ d).min() >= (others @ G.T).min(1).values.max() - 1e-12
        assert_close(cagrad_weights(G @ G.T, 0.0) @ G, mean)


def test_mgda_normalised():
    """With unit gradients, no length dominates: the weights are those of the cosines."""
    G = torch.tensor([[3.0, 0.0], [1e-3, 1e-3]], dtype=torch.float64)
    unit = G / G.norm(dim=1, keepdim=True)
    expected = mgda_weights(unit @ unit.T) @ unit
    assert_close(mgda_weights(G @ G.T, normalise=True) @ G, expected)


# ------------------------------------------------------------------------------- methods with state


def test_gradvac():
    """A pair with a cosine below its target is pulled up to it; targets follow the cosines met."""
    G = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    first = -1 / math.sqrt(5)
    method = GradVac(beta=0.25)
    assert_close(method(G @ G.T) @ G, project_conflicting(G))  # targets of 0
    assert_close(method.state["targets"][0, 1].item(), 0.25 * first)

    method.state["targets"] = torch.full((2, 2), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    combined = method(G @ G.T, generator) @ G
    pulled = []
    for i, j in ((0, 1), (1, 0)):  # g_i + a g_j with cosine 1/2 to g_j, by bisection
        low, high = 0.0, 100.0
        for _ in range(100):
            a = (low + high) / 2
            row = G[i] + a * G[j]
            if row @ G[j] < 0.5 * row.norm() * G[j].norm():
                low = a
            else:
                high = a
        pulled.append(row)
    assert_close(combined, sum(pulled))


def adam(value: torch.Tensor, lr: float, decay: float = 0.0) -> torch.optim.Adam:
    return torch.optim.Adam([value.requires_grad_()], lr=lr, weight_decay=decay)


LOSSES = [torch.tensor(row, dtype=torch.float64)
          for row in ([1.0, 2.0, 0.5], [0.9, 2.2, 0.4], [0.7, 1.9, 0.45], [0.6, 1.0, 0.5])]
GRAM = torch.tensor([[4.0, -1.0, 0.5], [-1.0, 1.0, 0.2], [0.5, 0.2, 9.0]], dtype=torch.float64)


def test_uncertainty():
    """s follows torch's Adam on Σ ½ exp(−s) L + ½ s, differentiated by autograd."""
    method, s = Uncertainty(lr=0.1), torch.zeros(3, dtype=torch.float64)
    optimizer = adam(s, 0.1)
    for losses in LOSSES:
        assert_close(method(GRAM, losses), (0.5 * (-s).exp()).detach())
        optimizer.zero_grad()
        (0.5 * (-s).exp() * losses + 0.5 * s).sum().backward()
        optimizer.step()


def test_gradnorm():
    """w follows torch's Adam on Σ |w ‖g‖ − target|, with Σ w = T afterwards."""
    method, w = GradNorm(alpha=1.5, lr=0.1), torch.ones(3, dtype=torch.float64)
    optimizer, norms = adam(w, 0.1), GRAM.diagonal().sqrt()
    for losses in LOSSES:
        assert_close(method(GRAM, losses), w.detach())
        rates = losses / LOSSES[0]
        target = ((w * norms).mean() * (rates / rates.mean())**1.5).detach()
        optimizer.zero_grad()
        (w * norms - target).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            w *= 3 / w.sum()


def test_famo():
    """ξ follows torch's Adam along (∂softmax/∂ξ)ᵀ δ, as in the authors' code."""
    method, xi = Famo(lr=0.1, decay=0.01), torch.zeros(3, dtype=torch.float64)
    optimizer = adam(xi, 0.1, 0.01)
    for before, after in pairwise(LOSSES):
        z = xi.softmax(0)
        expected = (z / before / (z / before).sum()).detach()
        assert_close(method(GRAM, before), expected, rtol=0, atol=1e-7)
        method.observe(after)
        optimizer.zero_grad()
        z.backward(before.log() - after.log())
        optimizer.step()


def test_famo_after_an_overflow():
    """Losses after a step for which FAMO was not called are ignored."""
    method = Famo()
    method.observe(LOSSES[0])
    assert not method.state
    method(GRAM, LOSSES[0])
    for losses in LOSSES[1:]:
        method.observe(losses)
    assert method.state["step"] == 1


def test_dwa():
    """From the third epoch on, weights follow the ratio of the last two epochs' mean losses."""
    method = DynamicWeightAverage(temperature=2.0)
    found = [method(GRAM, losses, epoch) for epoch in range(4) for losses in LOSSES[epoch % 2:][:2]]
    means = [torch.stack(LOSSES[start:start + 2]).mean(0) for start in (0, 1)]
    for epoch, weights in enumerate(found[::2]):
        expected = torch.ones(3, dtype=torch.float64)
        if epoch >= 2:
            expected = 3 * (means[(epoch - 1) % 2] / means[epoch % 2] / 2).softmax(0)
        assert_close(weights, expected)
        assert_close(weights, found[2 * epoch + 1])


# ----------------------------------------------------------------------------- names and the trainer


def test_options(monkeypatch):
    monkeypatch.setitem(SURGERY, "mine", lambda gram, rounds=3: [1.0] * len(range(rounds)))
    K = torch.tensor([[1.0, -0.5], [-0.5, 2.0]], dtype=torch.float64)
    assert_close(Method("cagrad:c=0.2")(K), cagrad_weights(K, c=0.2))
    assert Method("constant:weights=1.5+2")(K).tolist() == [1.5, 2]
    assert Method("mine:rounds=2")(K).tolist() == [1, 1]
    assert Method("alignedmtl:scale=mean")(K).tolist() != Method("alignedmtl")(K).tolist()
    for text, message in (("nosuch", "there is no surgery method 'nosuch'; choose from pcgrad"),
                          ("cagrad:d=1", "cagrad has no option 'd'; its options are c"),
                          ("cagrad:c=much", "cagrad: c is 'much', expected a number"),
                          ("mine:rounds=2.5", "mine: rounds is '2.5', expected a whole number"),
                          ("sum:c=1", "sum has no option 'c'; it has none"),
                          ("mgda:normalise=1", "normalise is '1', expected true or false"),
                          ("gradvac:beta=2", "beta is 2.0, expected a number from 0 to 1"),
                          ("famo:lr=-1", "famo: lr is -1.0, expected a number above 0"),
                          ("famo:decay=nan", "famo: decay is 'nan', expected a number")):
        with pytest.raises(ValueError, match=message):
            Method(text)
    with pytest.raises(ValueError, match=r"GradVac is a class: give an instance, GradVac\(\)"):
        Method(SURGERY["gradvac"])
    with pytest.raises(SurgeryError, match=r"returned \[inf, 1.0\]: weights must be finite"):
        Method(lambda gram: torch.tensor([math.inf, 1.0]))(K)
    for text in ("constant", "constant:weights=1+x"):
        with pytest.raises(ValueError, match="expected numbers in the tasks' order"):
            Method(text)(K)


def test_nothing_to_combine():
    """Gradients that are all zero, as of frozen layers, need no weights and give no error."""
    for name in SURGERY:
        if name != "constant":
            zeros = torch.zeros(3, 3, dtype=torch.float64)
            weights = Method(name)(zeros, torch.Generator(), torch.ones(3, dtype=torch.float64))
            assert torch.isfinite(weights).all(), name


def test_generators():
    """Without a generator of the caller's, the global one stays where it is."""
    before = torch.get_rng_state()
    for name in ("rgw", "rlw", "pcgrad", "gradvac"):
        Method(name)(torch.eye(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_state_is_not_shared():
    """Every group of parameters has its own state, and a loss that overflows does not change it."""
    given = Famo(lr=1e-2)
    trainer = SurgeryTrainer(without_head_dropout(build()), given, lr=1e-3, surgery_by="layer")
    trainer.step(batches(trainer.model))
    assert not given.state
    assert all(method.state["step"] == 1 for method in trainer.methods.values())

    before = {key: value.clone() for key, value in trainer.state_dict().items()}
    with torch.no_grad():
        trainer.model.heads["sst"][1].bias.fill_(math.inf)
    trainer._observe({name: MicroBatches.of(batch)
                      for name, batch in batches(trainer.model).items()})
    assert all(torch.equal(value, before[key]) for key, value in trainer.state_dict().items())


def test_layers_of_transformers():
    assert group_of("encoder.layer.3.attention.self.query.weight", "block=2") == "layers 2 to 3"
    assert group_of("embeddings.LayerNorm.bias", "layer") == "embeddings"


def test_own_method():
    """A user's own function names what it needs as arguments."""
    seen = {}

    def mine(gram, losses, epoch):
        seen.update(losses=losses, epoch=epoch)
        return torch.ones(3)

    trainer = SurgeryTrainer(build(), mine, lr=1e-3)
    trainer.epoch = 7
    result = trainer.step(batches(trainer.model))
    assert seen["epoch"] == 7
    assert seen["losses"].tolist() == pytest.approx(list(result.losses.values()))


def test_own_module():
    """A module names it in its forward."""
    class Ones(torch.nn.Module):
        def forward(self, gram: torch.Tensor) -> torch.Tensor:
            return gram.new_ones(len(gram))

    assert Method(Ones())(torch.eye(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", SURGERY)
def test_training(name):
    """Every method trains, draws from its own generator alone, and resumes bit for bit.

    It stays on the CPU where torch's default device is another, as for half of the steps here.
    test_19_nothing_lost.py kills whole runs of the methods that keep state or draw numbers.
    """
    text = "constant:weights=1+2+1" if name == "constant" else name

    def trained(steps: int, trainer=None, device="cpu") -> SurgeryTrainer:
        trainer = trainer or SurgeryTrainer(without_head_dropout(build()), text, lr=1e-3, seed=3)
        for _ in range(steps):
            trainer.epoch += 1
            before = torch.get_rng_state()
            with torch.device(device):
                trainer.step(batches(trainer.model))
            assert torch.equal(torch.get_rng_state(), before)
        return trainer

    whole = trained(5)
    half = trained(3, device="meta")
    state = {key: value.clone() for key, value in half.state_dict().items()}
    resumed = SurgeryTrainer(half.model, text, lr=1e-3, seed=99)
    resumed.load_state_dict(state)
    resumed.epoch = half.epoch
    trained(2, resumed)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert whole.state_dict().keys() == resumed.state_dict().keys()


def test_famo_sees_the_updated_model():
    """FAMO's observe gets the losses of the same batches after the step."""
    trainer = SurgeryTrainer(without_head_dropout(build()), "famo", lr=1e-2)
    seen = []
    [method] = trainer.methods.values()
    method._weights.observe = seen.append
    given = batches(trainer.model)
    trainer.step(given)
    tasks = trainer.model.tasks
    expected = [tasks[name].loss(trainer.model(name, batch), batch.labels).item()
                for name, batch in given.items()]
    assert seen[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["nashmtl", "normalised", "mgda", "rgw"])
def test_one_task(name):
    """A single task keeps its gradient, whatever the method makes of its length."""
    models = []
    for surgery in (name, "sum"):
        model = without_head_dropout(build())
        SurgeryTrainer(model, surgery, lr=1e-3, tasks=["sst"]).step({"sst": batches(model)["sst"]})
        models.append(model.state_dict())
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.parametrize(("surgery_by", "count"), [("layer", 4), ("block=2", 3), ("encoder", 1)])
@pytest.mark.parametrize("plain", ["0", "1"])
def test_surgery_by(surgery_by, count, plain, monkeypatch):
    """Each group of parameters gets the weights of its own Gram matrix."""
    monkeypatch.setenv("MINBERT_PLAIN", plain)
    model = without_head_dropout(build())
    given = batches(model)
    rows = {}
    for name, batch in given.items():
        model.zero_grad()
        model.tasks[name].loss(model(name, batch), batch.labels).backward()
        rows[name] = {key: value.grad.clone() for key, value in model.encoder.named_parameters()}

    def group_of(key: str) -> str:
        first, number = key.split(".")[:2]
        if surgery_by == "encoder":
            return ""
        return first if first != "layers" else number if surgery_by == "layer" else "layers"

    keys = list(rows["sst"])
    groups = {group: [key for key in keys if group_of(key) == group]
              for group in dict.fromkeys(map(group_of, keys))}
    assert len(groups) == count
    expected = {}
    for members in groups.values():
        G = torch.stack([torch.cat([row[key].flatten() for key in members])
                         for row in rows.values()])
        weights = Method("paper")(gram_matrix(G)).float()
        for key in members:
            expected[key] = sum(weight * row[key]
                                for weight, row in zip(weights, rows.values(), strict=True))

    trainer = SurgeryTrainer(model, "paper", lr=0.0, surgery_by=surgery_by)
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    trainer.step(given)
    found = dict(zip(trainer.flat.parameters, trainer.flat.views(torch.cat([
        vector.grad.to_dense().flatten() for vector in trainer.vectors])), strict=True))
    for key, value in expected.items():
        assert_close(found[key], value, rtol=1e-3, atol=1e-6)


def test_surgery_by_refused():
    for text in ("block", "block=0", "heads", "layer=2"):
        with pytest.raises(ValueError, match="expected encoder, layer, or block=K"):
            SurgeryTrainer(build(), "sum", lr=1e-3, surgery_by=text)
