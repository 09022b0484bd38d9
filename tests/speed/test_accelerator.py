"""What runs differently on a GPU: attention on a packed row, steps in CUDA graphs, fused updates.

The first part runs everywhere. The second needs CUDA, and shows that a GPU computes what a CPU
does.
"""

import copy
import dataclasses
import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_10_training import EXAMPLES, SENTENCES, batches, build, flat, without_head_dropout

from minbert import BertConfig, BertForMaskedLM, Masked, Packing, fast
from minbert.attention import attention
from minbert.fast import linear
from minbert.fast.linear import product
from minbert.fast.packed import ragged_attention
from multitask import pretrain
from multitask.data import batching
from multitask.data.batching import LEAST, LEAST_ON_CPU, rounded
from multitask.data.examples import Example
from multitask.pretraining.batches import MaskedBatch
from multitask.pretraining.step import MaskedTrainer, loss_of
from multitask.system import device as devices
from multitask.system.device import pick_precision, precision_note
from multitask.training import all_at_once as together
from multitask.training import cuda_graphs
from multitask.training.cuda_graphs import BackwardGraphs
from multitask.training.step import SurgeryTrainer
from optim import SURGERY, AdamW, Method, combine, gram_matrix

CUDA = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(),
                                reason="no CUDA device here: what is special to one "
                                       "is not tested")


# --------------------------------------------------------------------------------------- everywhere


@given(st.integers(1, 100_000))
def test_rounding_wastes_little(length):
    """A rounded length wastes an eighth at most."""
    assert length <= rounded(length) < length + max(LEAST, length / 8 + 1)
    assert rounded(length) % LEAST == 0
    assert rounded(rounded(length)) == rounded(length)


def test_few_rounded_lengths():
    assert len({rounded(length) for length in range(1, 16 * 512 + 1)}) <= 16 + 3 * 8


def test_bounds_of_sentences():
    """Bounds are where sentences begin and end."""
    packing = Packing.from_lengths([2, 1, 4])
    assert packing.bounds.tolist() == [0, 2, 3, 7]
    assert packing.bounds.dtype == torch.int32

    assert packing.followed_by([0], 4).bounds.tolist() == [0, 2, 3, 7, 7]
    assert packing.followed_by([5, 1], 6).bounds.tolist() == [0, 2, 3, 7, 12, 13]

    packing.copy_(Packing.from_lengths([4, 2, 1]))  # the next batch of a graph
    assert packing.bounds.tolist() == [0, 4, 6, 7]


def replay_by_hand(heads):
    """In place of a CUDA graph: does the work again and overwrites the first results.

    The results of other graphs are then lost, since all have their memory from one pool.
    """
    results = []

    def capture(work, pool):
        before = {parameter: parameter.grad for parameter in heads.parameters()}
        loss = work()
        made = {parameter: parameter.grad for parameter in heads.parameters()
                if parameter.grad is not before[parameter]}
        results.extend([loss, *made.values()])

        def replay():
            for result in results:
                result.detach().fill_(float("nan"))
            loss.copy_(work())
            for parameter, gradient in made.items():
                gradient.copy_(parameter.grad)

        return loss, replay

    return capture


def steps_of_changing_shape(trainer, model):
    """Each step takes all examples of a task, or all but one: → (steps, tasks) losses."""
    tokens = {name: model.tokenize(examples) for name, examples in EXAMPLES.items()}
    return torch.tensor([
        list(trainer.step({
            name: items.batch([(step + k) % len(items) for k in range(len(items) - step % 2)])
            for name, items in tokens.items()}).losses.values())
        for step in range(5)])


def trained(change=lambda trainer: None):
    """A trainer, changed before its first step; its losses; the model's weights after them."""
    model = without_head_dropout(build(positions=128))
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3, clip=1.0)
    change(trainer)
    return trainer, steps_of_changing_shape(trainer, model), flat(model.parameters()).detach()


def test_steps_with_graphs(monkeypatch):
    """Steps with graphs are the steps without; a head may have a parameter without a gradient."""
    def add_unused(trainer):
        trainer.heads["para"].register_parameter("unused", torch.nn.Parameter(torch.ones(1)))

    def make_graphs(trainer):
        add_unused(trainer)
        monkeypatch.setattr(cuda_graphs, "captured", replay_by_hand(trainer.heads))
        trainer._fills = False  # as on a GPU, where the graph's own batch is computed
        trainer._graphs = BackwardGraphs(trainer._backward_task, trainer.heads)

    trainer, losses, weights = trained(make_graphs)
    _, expected_losses, expected = trained(add_unused)

    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=1e-5)
    # where a gradient is all but zero, AdamW's steps of 1e-3 have the sign of rounding errors
    torch.testing.assert_close(weights, expected, atol=1e-3, rtol=0)
    assert (weights - expected).abs().mean() < 1e-6
    assert len(trainer._graphs.captured) == 6  # three tasks, batches of two sizes


@pytest.mark.parametrize("tokens", [1, 16, 17, 200, 1025])
def test_rows_of_few_lengths(tokens):
    """On a CPU, sequences that are not empty fill a row up to one of few lengths."""
    lengths = [40] * (tokens // 40) + [tokens % 40] * (tokens % 40 > 0)
    ids, labels = torch.zeros(tokens, dtype=torch.int64), torch.zeros(len(lengths))
    filled = batching.Batch(ids, ids, Packing.from_lengths(lengths), 1, labels).in_few_lengths()

    assert len(filled.input_ids) == rounded(tokens, LEAST_ON_CPU) == (
        -(-tokens // 16) * 16 + (tokens > 1024) * 112)

    assert filled.packing.batch == len(lengths) + filled.dummy_sequences
    added = {1: [15], 16: [], 17: [15], 200: [8], 1025: [63, 64]}[tokens]
    assert filled.packing.lengths[len(lengths):].tolist() == added


def test_steps_in_few_shapes():
    """On a CPU, steps in few shapes are the steps in any.

    Rows are filled up, so that memory is not taken for ever new shapes. The rows of an encoder with
    few positions are left alone.
    """
    trainer, losses, weights = trained()
    assert trainer._fills
    _, expected_losses, expected = trained(lambda trainer: setattr(trainer, "_fills", False))

    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=1e-5)
    assert (weights - expected).abs().mean() < 1e-6  # as above
    assert not SurgeryTrainer(build(), "pcgrad", lr=1e-3)._fills


def test_when_no_graph_can_be_made(monkeypatch):
    """Steps continue without graphs, after a warning."""
    monkeypatch.setattr(together, "MOST_TOKENS", 0)  # as on a GPU: task by task

    def refuse(work, pool):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    def make_graphs(trainer):
        monkeypatch.setattr(cuda_graphs, "captured", refuse)
        trainer._graphs = BackwardGraphs(trainer._backward_task, trainer.heads)

    with pytest.warns(UserWarning, match="no CUDA graph"):
        _, losses, _ = trained(make_graphs)
    assert torch.equal(losses, trained()[1])


@pytest.mark.parametrize(("dtype", "head_dim", "is_flash_built", "other"), [
    (torch.float32, 32, True, "flash"), (torch.bfloat16, 32, True, "efficient"),
    (torch.bfloat16, 32, False, "flash"), (torch.bfloat16, 264, True, "flash")])
def test_kernels_for_packed_rows(dtype, head_dim, is_flash_built, other, monkeypatch):
    """The kernels for packed rows exist, with their derivatives, and the right one is called.

    No numbers are computed: torch works out shapes, and which kernel backward would call.
    """
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available",
                        lambda: is_flash_built)
    monkeypatch.setattr(torch.ops.aten, f"_{other}_attention_forward", None)
    rows = torch.empty(3, 105, 4, head_dim, device="meta", dtype=dtype, requires_grad=True)

    row = ragged_attention(*rows, torch.empty(5, dtype=torch.int32, device="meta"), 64, 0.1)
    assert (row.shape, row.dtype) == ((105, 4, head_dim), dtype)

    row.sum().backward()
    assert rows.grad.shape == rows.shape


@pytest.mark.parametrize(("device", "has", "hidden_size", "expected"), [
    ("cuda", (7, 5), 128, "fp32"), ("cuda", (8, 0), 128, "bf16"), ("cuda", (9, 0), 128, "bf16"),
    ("cpu", True, 384, "bf16"), ("cpu", True, 256, "fp32"), ("cpu", False, 768, "fp32"),
])
def test_automatic_precision(device, has, hidden_size, expected, monkeypatch):
    """bf16 is taken where a GPU's capability has it, and for wide encoders where a CPU has it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has)
    assert pick_precision("auto", torch.device(device), hidden_size) == expected
    for name in ("fp32", "bf16"):
        assert pick_precision(name, torch.device(device), hidden_size) == name


@pytest.mark.parametrize("multiplies", [True, False])
def test_bf16_needs_onednn(multiplies, monkeypatch):
    """A processor's instructions are not enough: torch must use them."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(devices, "BY_ONEDNN", multiplies)
    assert devices.cpu_has_bf16() == multiplies


def test_precision_note(monkeypatch):
    """A run's first lines say whether bf16 is in hardware or whether fp32 is faster."""
    assert "in hardware" in precision_note("bf16", CUDA)
    assert precision_note("fp32", CUDA) == precision_note("fp32", torch.device("cpu")) == ""

    for has_bf16, expected in ((True, "in hardware"), (False, "fp32 is faster")):
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert expected in precision_note("bf16", torch.device("cpu"))


@pytest.mark.parametrize("width", [2, 5])
def test_products_without_onednn(width, monkeypatch):
    """Without AVX-512, products are left to torch: oneDNN would refuse those in bf16."""
    layer, x, grad = torch.nn.Linear(3, width), torch.randn(4, 3), torch.randn(4, width)
    monkeypatch.setattr(linear, "BY_ONEDNN", False)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)
    place = torch.ones(width, 3)
    linear.add_weight_gradient(place, grad, x)
    assert torch.allclose(place, 1 + grad.T @ x, atol=1e-6)

    found = product(layer, x.bfloat16())
    expected = x.bfloat16() @ layer.weight.bfloat16().T + layer.bias.bfloat16()
    assert torch.allclose(found, expected, atol=2**-6)  # two roundings of numbers up to 4


# ---------------------------------------------------------------------------------------- with CUDA


def ragged(dtype, heads=4, head_dim=32, lengths=(7, 1, 64, 33)):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, sum(lengths), heads, head_dim, generator=generator).to(CUDA, dtype)
    return rows.requires_grad_(), Packing.from_lengths(lengths).to(CUDA)


@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_packed_attention_on_a_gpu(dtype, tolerance):
    """Attention on a packed row equals the formula on the padded grid."""
    rows, packing = ragged(dtype)
    weight = torch.randn(rows.shape[1:], device=CUDA)

    row = ragged_attention(*rows, packing.bounds, packing.seq)
    (row.float() * weight).sum().backward()
    ours, rows.grad = rows.grad, None

    wide = rows.detach().double().requires_grad_()
    grids = [packing.pad(each).transpose(1, 2) for each in wide]
    expected = packing.unpad(attention(*grids, packing.mask).transpose(1, 2))
    (expected * weight).sum().backward()

    torch.testing.assert_close(row.double(), expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(ours.double(), wide.grad, atol=3 * tolerance, rtol=0)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_dropout_share(dtype):
    """Dropout in attention leaves out the given share.

    Values are all one, so an output is the sum of the weights that stay, over 1 − p: 1 in the mean.
    """
    rows, packing = ragged(dtype, lengths=(512,) * 8)
    with torch.no_grad():
        rows[2] = 1

    torch.manual_seed(0)
    row = ragged_attention(*rows, packing.bounds, packing.seq, 0.25).float()

    assert row.std() > 0.005
    assert row.mean().item() == pytest.approx(1, abs=0.01)


def on_cuda(model):
    return copy.deepcopy(model).to(CUDA)


@needs_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("bf16", 5e-2)])
def test_gpu_steps_are_cpu_steps(precision, tolerance):
    """Three steps, each replayed from graphs: the losses, and in float32 the weights after them."""
    model = without_head_dropout(build(positions=128))
    trainers, results = [], []
    for each in (model, on_cuda(model)):
        each.precision = precision if each.device.type == "cuda" else "fp32"

        trainer = SurgeryTrainer(each, "pcgrad", lr=1e-3, weight_decay=0.01, clip=1.0)
        inputs = batches(each)
        results.append([trainer.step(inputs).losses for _ in range(3)])
        trainers.append(trainer)

    for ours, expected in zip(results[1], results[0], strict=True):
        assert ours == pytest.approx(expected, rel=tolerance * 10)
    assert len(trainers[1]._graphs.captured) == 3

    if precision == "fp32":
        torch.testing.assert_close(trainers[1].flat.vector.cpu(), trainers[0].flat.vector,
                                   atol=2e-4, rtol=0)


@needs_cuda
def test_many_graphs_in_one_pool():
    """Many graphs from one pool do not write on each other's results.

    Sentences have 1 to 50 words, so that steps meet graphs in any order.
    """
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(rng.choices(SENTENCES[0].split(), k=rng.randint(1, 50)))

    rows = range(40)
    examples = {"sst": [Example(str(i), (sentence(),), float(i % 5)) for i in rows],
                "para": [Example(str(i), (sentence(), sentence()), float(i % 2)) for i in rows],
                "sts": [Example(str(i), (sentence(), sentence()), i % 5 + 0.5) for i in rows]}

    model, losses = without_head_dropout(build(positions=128)), []
    for graphed in (True, False):
        each = on_cuda(model)
        trainer, draw = SurgeryTrainer(each, "pcgrad", lr=1e-4), random.Random(1)
        if not graphed:
            trainer._graphs = None

        tokens = {name: each.tokenize(items) for name, items in examples.items()}
        losses.append([
            list(trainer.step({name: items.batch(draw.sample(rows, 4))
                               for name, items in tokens.items()}).losses.values())
            for _ in range(30)])

    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3,
                               atol=1e-4)


@needs_cuda
def test_dropout_in_a_graph():
    """Dropout in a graph differs from step to step, and repeats with the seed."""
    runs = []
    for _ in range(2):
        each = build(positions=128).to(CUDA)
        torch.manual_seed(3)
        trainer = SurgeryTrainer(each, "pcgrad", lr=0.0)

        inputs = batches(each)
        runs.append([trainer.step(inputs).losses["sst"] for _ in range(3)])

    assert len(set(runs[0])) == 3
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


def change_nothing(model):
    pass


def add_hook(model):
    model.encoder.layers[0].register_forward_hook(lambda part, given, out: 0.5 * out)


def add_hook_to_head(model):
    model.heads["sts"].register_forward_hook(lambda part, given, out: 0.5 * out)


def add_parameter_hook(model):
    model.heads["sst"][1].weight.register_hook(torch.zeros_like)


def change_eps(model):
    model.encoder.layers[1].output_layer_norm.eps = 0.5


def change_activation(model):
    model.encoder.layers[0].activation = torch.nn.ReLU()


def change_loss(model):
    model.tasks["sst"] = dataclasses.replace(model.tasks["sst"], weight=3.0)


@needs_cuda
@pytest.mark.filterwarnings("ignore:The book")
@pytest.mark.parametrize("change", [
    change_nothing, add_hook, add_hook_to_head, add_parameter_hook, change_eps, change_activation,
    change_loss])
@pytest.mark.parametrize("is_in_autocast", [False, True])
def test_graphs_follow_changes(change, is_in_autocast):
    """What is changed between two steps takes effect, and a caller's autocast changes nothing."""
    model, losses = without_head_dropout(build(positions=128)), []
    for each in (model, on_cuda(model)):
        trainer, place = SurgeryTrainer(each, "sum", lr=2e-2), each.device.type
        inputs = batches(each)
        for step in range(4):
            if step == 2:
                change(each)
            with torch.autocast(place, torch.bfloat16, enabled=is_in_autocast and place != "cpu"):
                losses.append(list(trainer.step(inputs).losses.values()))
    torch.testing.assert_close(torch.tensor(losses[4:]), torch.tensor(losses[:4]), rtol=1e-3,
                               atol=1e-4)


def test_a_model_that_changes_at_every_step():
    """It gets no more graphs after a while, and a warning."""
    model, count = build(positions=128), cuda_graphs.MOST_CHANGES
    graphs = BackwardGraphs(None, model.heads)
    with pytest.warns(UserWarning, match="changes again and again"):
        found = [graphs.hold_for(model) for model.calls in range(count)]
    assert found == [True] * (count - 1) + [False]


@needs_cuda
def test_modes_in_graphs():
    """Without dropout in eval mode, also after steps with it."""
    model = build(positions=128, dropout=0.3).to(CUDA)
    trainer, inputs = SurgeryTrainer(model, "sum", lr=0.0), batches(model)
    trainer.step(inputs)
    model.eval()
    assert trainer.step(inputs).losses == pytest.approx(trainer.step(inputs).losses, rel=1e-5)


@needs_cuda
def test_a_head_without_weights():
    model = build(positions=128).to(CUDA)
    model.heads["sts"] = torch.nn.AvgPool1d(16)
    losses = SurgeryTrainer(model, "sum", lr=0.0).step(batches(model)).losses
    assert all(map(math.isfinite, losses.values()))


@needs_cuda
@pytest.mark.parametrize("name", SURGERY)
def test_methods_take_losses_from_a_gpu(name):
    if name == "constant":
        name = "constant:weights=1+2"
    rows, losses = torch.randn(2, 9), torch.tensor([1.0, 2.0])
    weights = []
    for place in ("cpu", CUDA):
        method = Method(name)
        weights.append(method(gram_matrix(rows).to(place), torch.Generator().manual_seed(0),
                              losses.to(place)).cpu())
        if method.observe:
            method.observe(losses.to(place))
    assert torch.equal(*weights)


@needs_cuda
def test_half_moved_and_then_whole():
    """The error is torch's alone, and the fast forms run once all parts are in one place."""
    model = build(positions=128).encoder
    ids = torch.ones(2, 5, dtype=torch.int64, device=CUDA)
    model.embeddings.to(CUDA)
    with pytest.raises(RuntimeError):
        model(ids)
    assert fast.applies(model.to(CUDA))


@needs_cuda
def test_nan_loss_in_graphs():
    """A loss that is not finite stops a step in graphs."""
    model = build(positions=128).to(CUDA)
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    inputs = batches(model)
    trainer.step(inputs)

    before = trainer.flat.vector.clone()
    inputs["para"].labels[0] = float("nan")

    with pytest.raises(FloatingPointError, match="para"):
        trainer.step(inputs)

    assert torch.equal(trainer.flat.vector, before)


@needs_cuda
def test_pieces_go_by_hand():
    """Batches in pieces are computed without graphs."""
    model = without_head_dropout(build(positions=128)).to(CUDA)
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)

    result = trainer.step({
        name: model.tokenize(examples).micro_batches(range(len(examples)), 2, len(examples))
        for name, examples in EXAMPLES.items()})

    assert not trainer._graphs.captured
    assert all(loss > 0 for loss in result.losses.values())


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_predictions(precision):
    model = build(positions=128).eval()
    theirs = on_cuda(model)
    theirs.precision = precision

    for name, examples in EXAMPLES.items():
        expected = model.predict_logits(name, model.tokenize(examples))
        found = theirs.predict_logits(name, theirs.tokenize(examples))
        torch.testing.assert_close(found, expected, atol=1e-5 if precision == "fp32" else 5e-2,
                                   rtol=0)


@needs_cuda
def test_gpu_encode_and_forward():
    model = build(positions=128).eval()
    tokenizer, encoder, theirs = model.tokenizer, model.encoder, on_cuda(model.encoder)
    sentences = [text for example in EXAMPLES["para"] for text in example.sentences]

    for pooling in ("mean", "cls", "pooler"):
        torch.testing.assert_close(theirs.encode(sentences, tokenizer, pooling),
                                   encoder.encode(sentences, tokenizer, pooling), atol=2e-5, rtol=0)

    inputs = tokenizer(sentences)
    ours = theirs(**{name: value.to(CUDA) for name, value in inputs.items()})
    expected = encoder(**inputs)

    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours.last_hidden_state.cpu()[mask], expected.last_hidden_state[mask],
                               atol=2e-5, rtol=0)
    torch.testing.assert_close(ours.pooler_output.cpu(), expected.pooler_output, atol=2e-5, rtol=0)


@needs_cuda
def test_float64_on_a_gpu():
    """Without a kernel for packed rows in float64, attention runs on the padded grid."""
    model = build(positions=128).eval()
    encoder, inputs = model.encoder.double(), model.tokenizer(SENTENCES)

    found = on_cuda(encoder)(**{name: value.to(CUDA) for name, value in inputs.items()})

    torch.testing.assert_close(found.pooler_output.cpu(), encoder(**inputs).pooler_output)


@needs_cuda
def test_surgery_on_a_gpu():
    rows = torch.randn(3, 1_000_003, generator=torch.Generator().manual_seed(0))
    expected = rows.double() @ rows.double().T

    gram = gram_matrix(rows.to(CUDA))
    assert gram.device.type == "cpu"
    # of 1e6; the products' rounding is a thousandth
    torch.testing.assert_close(gram, expected, atol=0.05, rtol=1e-6)

    weights = torch.tensor([1.5, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(combine(rows.to(CUDA), weights).cpu(), combine(rows, weights),
                               atol=1e-6, rtol=0)

    tiny = gram_matrix(rows.to(CUDA) * 1e-30)
    torch.testing.assert_close(tiny * 1e60, expected, atol=0.05, rtol=1e-6)


@needs_cuda
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_update_on_a_gpu(weight_decay):
    generator = torch.Generator().manual_seed(0)
    start, gradients = (torch.randn(1000, generator=generator),
                        torch.randn(20, 1000, generator=generator))

    found = []
    for device in ("cpu", "cuda"):
        theta = torch.nn.Parameter(start.to(device, copy=True))
        optimizer = AdamW([theta], lr=1e-2, weight_decay=weight_decay)
        for gradient in gradients:
            theta.grad = gradient.to(device)
            optimizer.step()
        found.append(theta.detach().cpu())

    torch.testing.assert_close(found[1], found[0], atol=2e-6, rtol=0)


@needs_cuda
def test_pretraining_gradients():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2,
                                       num_attention_heads=4, intermediate_size=64)).eval()

    ids = torch.randint(5, 50, (25,))
    types = torch.tensor([0] * 5 + [1] * 4 + [0] * 4 + [0] * 3 + [1] * 9)
    masked = Masked(ids, torch.tensor([1, 10, 20]), torch.tensor([7, 8, 9]))
    batch = MaskedBatch(masked, Packing.from_lengths([9, 4, 12]), types)

    theirs = on_cuda(model)
    loss_of(model, batch).backward()
    loss_of(theirs, batch.to(CUDA)).backward()

    for (name, ours), expected in zip(theirs.named_parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(ours.grad.cpu(), expected.grad, atol=2e-5, rtol=1e-3,
                                       msg=name)


@needs_cuda
def test_pretraining_on_a_gpu(tmp_path, interrupted):
    """Pretraining runs on a GPU and resumes after an interruption.

    It runs in bf16, which auto takes on a recent GPU, and the next batch is made ahead.
    """
    text = tmp_path / "text"
    text.write_text("\n\n".join(
        f"the {animal} {sound}. the {animal} always {sound}. " * 30
        for animal, sound in (
            ("cat", "meows"), ("dog", "barks"), ("cow", "moos"), ("bird", "sings")) * 4))

    flags = ["--text", str(text), "--out", str(tmp_path / "run"), "--layers", "2", "--hidden", "64",
             "--heads", "2", "--vocab-size", "60", "--length", "32", "--steps", "60",
             "--held-out", "0.3", "--batch-size", "16", "--lr", "1e-2",
             "--second-segment", "again", "--checkpoint-every", "20"]

    with interrupted(MaskedTrainer, 40):
        assert pretrain.main(flags) == 130
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["environment"]["precision"]) == (60, "bf16")
    assert metrics["perplexity"] < 15  # 58 before
