"""Lesson 13: conflict or noise?

In training, tasks' gradients are nearly orthogonal, half of them conflicting. Is that the tasks, or
the small batch? You learn to measure conflict at one moment, layer by layer, without disturbing the
model, and to hold it against what two batches of one and the same task agree upon.
"""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minbert import BertConfig, BertModel, BertTokenizer
from multitask import MultitaskBert
from multitask.analysis.probe import conflict_probe, part_grams, part_slices, summarise
from multitask.data.course import Example
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import cosines, gram_matrix

SENTENCES = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice",
             "is it any good", "yes"]
PAIRS = list(itertools.combinations(SENTENCES, 2))
EXAMPLES = {
    "sst": [Example(str(i), (text,), float(i % 5)) for i, text in enumerate(SENTENCES)],
    "para": [Example(str(i), pair, float(i % 2)) for i, pair in enumerate(PAIRS[:7])],
    "sts": [Example(str(i), pair, 0.6 * i) for i, pair in enumerate(PAIRS[7:])],
}
PARTS = ["embeddings", "layer 0", "layer 1", "pooler"]


@pytest.fixture
def model() -> MultitaskBert:
    tokenizer = BertTokenizer.train(SENTENCES, 80)
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, initializer_range=0.2)
    return MultitaskBert(BertModel(config), tokenizer, "concatB").eval()


@pytest.fixture
def tokens(model):
    return {name: model.tokenize(examples) for name, examples in EXAMPLES.items()}


# ---------------------------------------------------------------------------------- the measurement


def test_every_cosine_is_what_autograd_grad_gives(model, tokens):
    """The same draws, the gradients by another route, the parts by their names alone."""
    draws, size = 3, 2
    probe = conflict_probe(model, tokens, size, draws, seed=5)
    prefixes = {"embeddings": "embeddings.", "layer 0": "layers.0.", "layer 1": "layers.1.",
                "pooler": "pooler_"}
    named = dict(model.encoder.named_parameters())
    generator = torch.Generator().manual_seed(5)
    for draw in range(draws):
        gradients = {}
        for name in TASKS:
            items = torch.randperm(len(EXAMPLES[name]), generator=generator).tolist()
            for half in range(2):
                batch = tokens[name].batch(items[half * size:(half + 1) * size])
                loss = TASKS[name].loss(model(name, batch), batch.labels)
                gradients[name,
                          half] = dict(zip(named, torch.autograd.grad(loss, list(named.values())),
                                           strict=True))

        def cosine(first, second, prefix=""):
            vectors = [torch.cat([value.double().flatten() for name, value in found.items()
                                  if name.startswith(prefix)])
                       for found in (first, second)]
            return F.cosine_similarity(*vectors, dim=0).item()

        expected = {("pairs", f"{a}-{b}"): (gradients[a, 0], gradients[b, 0])
                    for a, b in itertools.combinations(TASKS, 2)}
        expected |= {("same_task", name): (gradients[name, 0], gradients[name, 1])
                     for name in TASKS}
        for (kind, key), vectors in expected.items():
            found = probe[kind][key]
            # float32 gradients, summed in another order
            assert found["cosine"][draw] == pytest.approx(cosine(*vectors), abs=1e-5)
            for part, prefix in prefixes.items():
                assert found["layers"][part][draw] == pytest.approx(cosine(*vectors, prefix),
                                                                    abs=1e-5)


def test_a_probe_is_plain_json_with_a_number_for_every_draw(model, tokens):
    probe = conflict_probe(model, tokens, 2, draws=4, seed=0)
    assert json.loads(json.dumps(probe, allow_nan=False)) == probe
    assert list(probe["pairs"]) == ["sst-para", "sst-sts", "para-sts"]
    assert list(probe["same_task"]) == ["sst", "para", "sts"]
    assert {key: probe[key] for key in ("batch_size", "draws", "seed", "dropout")} == {
        "batch_size": 2, "draws": 4, "seed": 0, "dropout": False}
    for values in (*probe["pairs"].values(), *probe["same_task"].values()):
        assert list(values["layers"]) == PARTS
        assert {len(series) for series in (values["cosine"], *values["layers"].values())} == {4}


def test_parts_cover_every_parameter_once(model):
    slices = part_slices(model.encoder)
    assert list(slices) == PARTS
    covered = [index for part in slices.values() for index in range(part.start, part.stop)]
    assert covered == list(range(sum(value.numel() for value in model.encoder.parameters())))
    layer = sum(value.numel() for value in model.encoder.layers[0].parameters())
    assert slices["layer 1"].stop - slices["layer 1"].start == layer


def test_dot_products_of_the_parts_add_up_to_the_whole(model):
    """Cosines of layers do not average to the whole's cosine; dot products add up."""
    slices = part_slices(model.encoder)
    matrix = torch.randn(4, max(part.stop for part in slices.values()))
    parts = part_grams(matrix, slices)
    assert parts.shape == (4, 4, 4)
    # squared norms of about 10,000, each of the two sums right to float32's 6e-8
    torch.testing.assert_close(parts.sum(0), gram_matrix(matrix), atol=2e-3, rtol=0)
    assert not torch.allclose(torch.stack([cosines(gram) for gram in parts]).mean(0),
                              cosines(parts.sum(0)), atol=1e-4)


def test_without_sampling_noise_two_batches_of_a_task_agree(model):
    """Every example the same: the batches of a task are one batch, and its cosine is 1 in every
    layer."""
    tokens = {name: model.tokenize(examples[:1] * 6) for name, examples in EXAMPLES.items()}
    for values in conflict_probe(model, tokens, 3, draws=2, seed=0)["same_task"].values():
        for series in (values["cosine"], *values["layers"].values()):
            assert series == pytest.approx([1, 1], abs=1e-6)  # float32 gradients


def test_one_task_alone_has_a_noise_floor_and_no_pairs(model, tokens):
    probe = conflict_probe(model, {"sts": tokens["sts"]}, 2, draws=2, seed=0)
    assert (probe["pairs"], list(probe["same_task"])) == ({}, ["sts"])
    assert summarise(probe)["pairs"] == {}


# ----------------------------------------------------------------------------- nothing is disturbed


@pytest.mark.parametrize("dropout", [False, True])
def test_a_probe_leaves_everything_as_it_found_it(model, tokens, dropout):
    model.train()
    model.encoder.layers[0].eval()  # a mixture of modes, of gradients, of what is frozen
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None
    model.encoder.pooler_dense.weight.requires_grad_(False)
    found = [(parameter.detach().clone(), parameter.data_ptr(), parameter.grad,
              None if parameter.grad is None else parameter.grad.clone(), parameter.requires_grad)
             for parameter in model.parameters()]
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    conflict_probe(model, tokens, 2, draws=2, seed=0, dropout=dropout)
    for parameter, (value, address, gradient, numbers, required) in zip(model.parameters(), found, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.data_ptr() == address
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, numbers)
        assert parameter.requires_grad == required
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_after_a_failure_too(model, tokens):
    state = torch.get_rng_state()
    model.train().heads["para"][1].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="gradient of para"):
        conflict_probe(model, tokens, 2, draws=1, seed=0, dropout=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_training_goes_on_as_if_there_had_been_no_probe(model, tokens):
    """The trainer's parameters are views of its vector; a probe that moved them would train nothing
    from then on."""
    results = []
    for probed in (False, True):
        twin = copy.deepcopy(model).train()
        trainer = SurgeryTrainer(twin, "pcgrad", lr=1e-3)
        torch.manual_seed(0)
        for _ in range(2):
            trainer.step({name: values.batch([0, 1, 2]) for name, values in tokens.items()})
            if probed:
                conflict_probe(twin, tokens, 2, draws=1, seed=0)
        results.append(torch.cat([value.detach().flatten() for value in twin.parameters()]))
    assert torch.equal(*results)


# ------------------------------------------------------------------------------------ its arguments


def test_dropout_is_off_unless_asked_for_and_then_a_matter_of_the_seed(model, tokens):
    plain = conflict_probe(model, tokens, 2, draws=2, seed=0)
    assert conflict_probe(model.train(), tokens, 2, draws=2, seed=0) == plain
    dropped = conflict_probe(model, tokens, 2, draws=2, seed=0, dropout=True)
    torch.manual_seed(123)
    again = conflict_probe(model, tokens, 2, draws=2, seed=0, dropout=True)
    assert dropped == again
    assert dropped["pairs"] != plain["pairs"]
    assert conflict_probe(model, tokens, 2, draws=2, seed=1) != plain


def test_arguments_that_cannot_be_probed_are_refused(model, tokens):
    unlabelled = model.tokenize([Example("", example.sentences, None)
                                 for example in EXAMPLES["sst"]])
    for examples, size, message in (
            (tokens, 4, r"sst: 6 examples, but two batches of 4 without a common example take 8"),
            (tokens, 0, "at least 1"), ({}, 2, "got none"),
            ({"nli": tokens["sst"]}, 2, "sst, para, sts expected"),
            ({"sst": unlabelled}, 2, "without a label")):
        with pytest.raises(ValueError, match=message):
            conflict_probe(model, examples, size, draws=1, seed=0)


def test_a_probe_works_where_gradients_are_switched_off(model, tokens):
    with torch.no_grad():
        assert conflict_probe(model, tokens, 2, draws=1,
                              seed=0)["pairs"]["sst-para"]["cosine"] != [0.0]


# -------------------------------------------------------------------------------------- its summary


def series(values: list[float], layer: list[float]) -> dict:
    return {"cosine": values, "layers": {"layer 0": layer}}


def test_a_summary_by_hand():
    """Between tasks .1 on average; within sst .5 and within sts .32: .1 / √(.5 · .32) = .25."""
    summary = summarise({
        "pairs": {"sst-sts": series([0.2, -0.1, 0.2], [-0.1, -0.1, 0.5])},
        "same_task": {"sst": series([0.4, 0.6, 0.5], [0.3, 0.2, 0.1]),
                      "sts": series([0.32] * 3, [0.1, -0.3, 0.1])}})
    pair = summary["pairs"]["sst-sts"]
    half = 4.302653 * 0.1  # t of 2 degrees of freedom; s/√3 = √(.03 / 3) = .1
    assert pair["n"] == 3
    assert pair["conflict_rate"] == pytest.approx(1 / 3)
    assert (pair["mean_cosine"], pair["low"],
            pair["high"]) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)
    assert pair["ratio_to_same_task"] == pytest.approx(0.25)
    assert summary["same_task"]["sst"]["noise_share"] == pytest.approx(0.5)
    assert summary["same_task"]["sts"]["noise_share"] == pytest.approx(0.68)
    layer = pair["layers"]["layer 0"]
    assert layer["conflict_rate"] == pytest.approx(2 / 3)
    assert layer["ratio_to_same_task"] is None  # within sts nothing but noise: −.1 / 3 on average
    assert summary["same_task"]["sst"]["layers"]["layer 0"]["noise_share"] == pytest.approx(0.8)


def test_the_ratio_finds_the_cosine_that_noise_hides():
    """μ₁, μ₂ at cosine .6 with noise of 3 and 8 times their squared length: cosine .6 · √(1/4 ·
    1/9) = .1, ratio .6."""
    dimensions, generator = 4000, np.random.default_rng(0)
    means = np.zeros((2, dimensions))
    means[0, 0], means[1, :2] = 1, (0.6, 0.8)
    noise = np.sqrt(np.array([3, 8]) / dimensions)[:, None, None]

    def cosine(a, b):
        return (np.sum(a * b, -1) / np.linalg.norm(a,
                                                   axis=-1) / np.linalg.norm(b, axis=-1)).tolist()

    first, second = (means[:, None] + noise * generator.normal(size=(2, 200, dimensions))
                     for _ in range(2))
    summary = summarise({"pairs": {"sst-sts": {"cosine": cosine(*first), "layers": {}}},
                         "same_task": {name: {"cosine": cosine(first[row], second[row]),
                                              "layers": {}}
                                       for row, name in enumerate(("sst", "sts"))}})
    # 200 draws of cosines with deviation 1/√4000 = .016: means to .0011, the ratio to a hundredth
    # of itself or two
    assert summary["pairs"]["sst-sts"]["mean_cosine"] == pytest.approx(0.1, abs=0.005)
    assert summary["pairs"]["sst-sts"]["ratio_to_same_task"] == pytest.approx(0.6, abs=0.03)
    assert summary["same_task"]["sst"]["noise_share"] == pytest.approx(3 / 4, abs=0.005)
    assert summary["same_task"]["sts"]["noise_share"] == pytest.approx(8 / 9, abs=0.005)


def test_a_real_probe_can_be_summarised(model, tokens):
    summary = summarise(conflict_probe(model, tokens, 2, draws=1, seed=0))
    assert summary["pairs"]["sst-para"]["low"] is None  # one draw has no spread
    assert list(summary["pairs"]["sst-para"]["layers"]) == PARTS
    json.dumps(summary, allow_nan=False)
