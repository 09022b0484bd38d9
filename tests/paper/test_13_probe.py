"""Lesson 13: conflict or noise?

In training, the tasks' gradients are nearly orthogonal, and about half of the pairs conflict. Do
the tasks cause this, or the small batches? You learn to measure conflict at one moment, layer by
layer, without disturbing the model. You then compare it with how far two batches of one task agree.
"""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from test_10_training import SENTENCES, build
from torch.nn import functional as F

from multitask import MultitaskBert
from multitask.analysis.probe import conflict_probe, summarise
from multitask.data.examples import Example
from multitask.tasks import TASKS

TEXTS = [*SENTENCES, "yes"]
PAIRS = list(itertools.combinations(TEXTS, 2))
EXAMPLES = {
    "sst": [Example(str(i), (text,), float(i % 5)) for i, text in enumerate(TEXTS)],
    "para": [Example(str(i), pair, float(i % 2)) for i, pair in enumerate(PAIRS[:7])],
    "sts": [Example(str(i), pair, 0.6 * i) for i, pair in enumerate(PAIRS[7:])],
}
# a part → how the names of its parameters begin
PARTS = {"embeddings": "embeddings.", "layer 0": "layers.0.", "layer 1": "layers.1.",
         "pooler": "pooler_"}


@pytest.fixture
def model() -> MultitaskBert:
    return build(dropout=0.1).eval()


@pytest.fixture
def tokens(model):
    return {name: model.tokenize(examples) for name, examples in EXAMPLES.items()}


# ---------------------------------------------------------------------------------- the measurement


def test_cosines_from_autograd(model, tokens):
    """Every cosine is what autograd.grad gives for the same draws; names tell the parts apart."""
    draws, size = 3, 2
    probe = conflict_probe(model, tokens, size, draws, seed=5)
    named = dict(model.encoder.named_parameters())
    generator = torch.Generator().manual_seed(5)

    def gradient(task, items):
        batch = tokens[task].batch(items)
        loss = TASKS[task].loss(model(task, batch), batch.labels)
        return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))

    def cosine(first, second, prefix=""):
        names = [name for name in named if name.startswith(prefix)]
        a = torch.cat([first[name].double().flatten() for name in names])
        b = torch.cat([second[name].double().flatten() for name in names])
        return pytest.approx(F.cosine_similarity(a, b, dim=0).item(), abs=1e-5)

    for draw in range(draws):
        halves = {}
        for task in TASKS:
            items = torch.randperm(len(EXAMPLES[task]), generator=generator).tolist()
            halves[task] = gradient(task, items[:size]), gradient(task, items[size:2 * size])

        compared = [(probe["pairs"][f"{a}-{b}"], halves[a][0], halves[b][0])
                    for a, b in itertools.combinations(TASKS, 2)]
        compared += [(probe["same_task"][task], *halves[task]) for task in TASKS]
        for found, first, second in compared:
            # float32 gradients, summed in another order
            assert found["cosine"][draw] == cosine(first, second)
            for part, prefix in PARTS.items():
                assert found["layers"][part][draw] == cosine(first, second, prefix)


def test_a_probe_is_plain_json(model, tokens):
    """A probe can be written as JSON and holds one number for every draw."""
    probe = conflict_probe(model, tokens, 2, draws=4, seed=0)
    assert json.loads(json.dumps(probe, allow_nan=False)) == probe
    assert list(probe["pairs"]) == ["sst-para", "sst-sts", "para-sts"]
    assert list(probe["same_task"]) == ["sst", "para", "sts"]
    for values in (*probe["pairs"].values(), *probe["same_task"].values()):
        assert list(values["layers"]) == list(PARTS)
        assert {len(series) for series in (values["cosine"], *values["layers"].values())} == {4}


def test_one_task_alone(model, tokens):
    """A probe of one task has a noise floor and no pairs."""
    probe = conflict_probe(model, {"sts": tokens["sts"]}, 2, draws=2, seed=0)
    assert (probe["pairs"], list(probe["same_task"])) == ({}, ["sts"])
    assert summarise(probe)["pairs"] == {}


# ----------------------------------------------------------------------------- nothing is disturbed


def test_a_probe_disturbs_nothing(model, tokens):
    """Weights, gradients, modes and the random state stay as they were."""
    model.train()
    model.encoder.layers[0].eval()  # modes, gradients and frozen parameters are mixed
    model.encoder.pooler_dense.weight.requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None

    def settings():
        return ([(parameter.data_ptr(), parameter.requires_grad)
                 for parameter in model.parameters()],
                [module.training for module in model.modules()],
                torch.get_rng_state().tolist())

    values = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    copies, before = copy.deepcopy(gradients), settings()
    conflict_probe(model, tokens, 2, draws=2, seed=0)

    assert settings() == before
    for parameter, value, gradient, numbers in zip(model.parameters(), values, gradients, copies,
                                                   strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, numbers)


def test_after_a_failure_too(model, tokens):
    """A probe that fails disturbs nothing either."""
    state = torch.get_rng_state()
    model.train().heads["para"][1].weight.data.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="gradient of para"):
        conflict_probe(model, tokens, 2, draws=1, seed=0)

    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------ its arguments


def test_only_the_seed_matters(model, tokens):
    """A probe depends on its seed.

    Dropout in training mode does not matter, nor that gradients are switched off around it.
    """
    plain = conflict_probe(model, tokens, 2, draws=2, seed=0)
    assert conflict_probe(model.train(), tokens, 2, draws=2, seed=0) == plain
    with torch.no_grad():
        assert conflict_probe(model, tokens, 2, draws=2, seed=0) == plain
    assert conflict_probe(model, tokens, 2, draws=2, seed=1) != plain


def test_too_few_examples(model, tokens):
    message = "sst: 6 examples, but two batches of 4 without a common example take 8"
    with pytest.raises(ValueError, match=message):
        conflict_probe(model, tokens, 4, draws=1, seed=0)


# -------------------------------------------------------------------------------------- its summary


def series(values: list[float], layer: list[float]) -> dict:
    return {"cosine": values, "layers": {"layer 0": layer}}


def test_a_summary_by_hand():
    """Mean cosines of .1 between tasks, .5 within sst and .32 within sts give a ratio of .25.

    .1 / √(.5 · .32) = .1 / .4 = .25.
    """
    summary = summarise({
        "pairs": {"sst-sts": series([0.2, -0.1, 0.2], [-0.1, -0.1, 0.5])},
        "same_task": {"sst": series([0.4, 0.6, 0.5], [0.3, 0.2, 0.1]),
                      "sts": series([0.32] * 3, [0.1, -0.3, 0.1])}})
    pair, same = summary["pairs"]["sst-sts"], summary["same_task"]

    assert pair["n"] == 3
    assert pair["conflict_rate"] == pytest.approx(1 / 3)
    half = 4.302653 * 0.1  # t of 2 degrees of freedom; s/√3 = √(.03 / 3) = .1
    interval = (pair["mean_cosine"], pair["low"], pair["high"])
    assert interval == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)
    assert pair["ratio_to_same_task"] == pytest.approx(0.25)
    assert same["sst"]["noise_share"] == pytest.approx(0.5)
    assert same["sts"]["noise_share"] == pytest.approx(0.68)

    layer = pair["layers"]["layer 0"]
    assert layer["conflict_rate"] == pytest.approx(2 / 3)
    assert layer["ratio_to_same_task"] is None  # within sts −.1 / 3 on average: nothing but noise
    assert same["sst"]["layers"]["layer 0"]["noise_share"] == pytest.approx(0.8)


def test_noise_is_divided_out():
    """The ratio finds the cosine that noise hides.

    The means have cosine .6, and the noise has 3 and 8 times their squared length. The gradients
    then have cosine .6 · √(1/4 · 1/9) = .1, but the ratio is .6.
    """
    dimensions, generator = 4000, np.random.default_rng(0)
    means = np.zeros((2, 1, dimensions))
    means[0, 0, 0] = 1
    means[1, 0, :2] = 0.6, 0.8
    noise = np.sqrt(np.array([3, 8]) / dimensions)[:, None, None]

    def draw():
        return means + noise * generator.normal(size=(2, 200, dimensions))

    def cosine(a, b):
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return {"cosine": (np.sum(a * b, -1) / lengths).tolist(), "layers": {}}

    first, second = draw(), draw()
    summary = summarise({"pairs": {"sst-sts": cosine(*first)},
                         "same_task": {"sst": cosine(first[0], second[0]),
                                       "sts": cosine(first[1], second[1])}})

    # A cosine has a deviation of 1/√4000 = .016. So means of 200 draws are right to .0011, and the
    # ratio is right to one or two per cent.
    pair, same = summary["pairs"]["sst-sts"], summary["same_task"]
    assert pair["mean_cosine"] == pytest.approx(0.1, abs=0.005)
    assert pair["ratio_to_same_task"] == pytest.approx(0.6, abs=0.03)
    assert same["sst"]["noise_share"] == pytest.approx(3 / 4, abs=0.005)
    assert same["sts"]["noise_share"] == pytest.approx(8 / 9, abs=0.005)
