"""Lesson 10: training, where everything meets.

Sentences go into the shared encoder, heads turn embeddings into outputs, each task's gradient fills
its own row, surgery makes one vector of them, AdamW takes a step. You learn how a pair enters under
each architecture, who owns which gradient, and what a loss must be.
"""

import copy
import dataclasses
import itertools
import math
import weakref

import pytest
import torch
from oracle import reference
from plain_step import plain_step
from torch.nn import functional as F

from heads import ARCHITECTURES, TwoLayerHead
from minbert import BertConfig, BertModel, BertTokenizer, Packing, fast
from minbert.fast.gradients import GradBuffers, current_buffers
from multitask import MultitaskBert
from multitask.data.batching import MicroBatches
from multitask.data.course import Example
from multitask.tasks import PARA, SST, STS, TASKS
from multitask.training import all_at_once as together
from multitask.training.step import TABLE, SurgeryTrainer
from optim import AdamW, TaskGradients, gram_matrix, split_decayed
from optim.surgery import random_order

SENTENCES = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice",
             "is it any good"]
EXAMPLES = {
    "sst": [Example(str(i), (text,), float(i)) for i, text in enumerate(SENTENCES)],
    "para": [Example(str(i), pair, float(i % 2))
             for i, pair in enumerate(itertools.pairwise(SENTENCES))],
    "sts": [Example(str(i), pair, 1.3 * i)
            for i, pair in enumerate(zip(SENTENCES[:3], SENTENCES[2:], strict=True))],
}


def build(arch="concatB", dropout=0.0, seed=0, positions=32) -> MultitaskBert:
    torch.manual_seed(seed)
    tokenizer = BertTokenizer.train(SENTENCES, 80)
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=positions,
                        initializer_range=0.2,
                        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return MultitaskBert(BertModel(config), tokenizer, arch)


def without_head_dropout(model: MultitaskBert) -> MultitaskBert:
    for module in model.heads.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def batches(model):
    return {name: model.tokenize(examples).batch(range(len(examples)))
            for name, examples in EXAMPLES.items()}


@pytest.fixture
def task_by_task(monkeypatch):
    """One task's forward and backward after another, as where a step has many tokens."""
    monkeypatch.setattr(together, "MOST_TOKENS", 0)


# ------------------------------------------------------------------------------- how a pair goes in


@pytest.mark.parametrize(("arch", "sequences"), [("concatA", 2), ("concatB", 1), ("concatB_al", 1)])
def test_a_pair_enters_as_its_architecture_says(arch, sequences):
    model = build(arch)
    batch = model.tokenize(EXAMPLES["para"][:1]).batch([0])
    ids = [encoding.ids for encoding in (model.tokenizer.encode([SENTENCES[0]], [SENTENCES[1]])
                                         if sequences == 1
                                         else model.tokenizer.encode(SENTENCES[:2]))]
    assert batch.input_ids.tolist() == [number for sentence in ids for number in sentence]
    # no padding inside a pair
    assert batch.input_ids.tolist().count(model.tokenizer.pad_token_id) == 0
    assert batch.packing.batch == sequences
    assert batch.token_type_ids.max() == (1 if sequences == 1 else 0)


def test_concat_a_puts_the_two_embeddings_side_by_side():
    model = build("concatA").eval()
    pairs = [example.sentences for example in EXAMPLES["para"]]
    embedded = model.embed(model.tokenize(EXAMPLES["para"]).batch(range(len(pairs))))
    for row, (first, second) in zip(embedded, pairs, strict=True):
        pooled = [model.encoder(**model.tokenizer([text])).pooler_output[0]
                  for text in (first, second)]
        # float32 rounding
        torch.testing.assert_close(row, torch.cat(pooled), atol=1e-5, rtol=0)


def test_concat_b_is_the_padded_model_on_the_joined_pair():
    model = build("concatB").eval()
    firsts, seconds = zip(*(example.sentences for example in EXAMPLES["sts"]), strict=True)
    padded = model.encoder(**model.tokenizer(firsts, seconds)).pooler_output
    packed = model.embed(model.tokenize(EXAMPLES["sts"]).batch(range(3)))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


def test_heads_are_as_deep_as_their_architecture_says():
    shapes = {arch: [tuple(p.shape) for p in ARCHITECTURES[arch].build_head(16, 2, 1).parameters()]
              for arch in ARCHITECTURES}
    assert shapes == {"concatA": [(1, 32), (1,)], "concatB": [(1, 16), (1,)],
                      "concatB_al": [(16, 16), (16,), (1, 16), (1,)]}
    head = TwoLayerHead(4, 4, 2)
    assert [type(layer).__name__ for layer in head] == ["Dropout", "Linear", "LeakyReLU", "Dropout",
                                                        "Linear"]
    assert (head[0].p, head[3].p) == (0.3, 0.45)


# ------------------------------------------------------------------------------------------- losses


def test_losses_by_hand():
    logits = torch.tensor([[0.0, math.log(2.0), 0.0, 0.0, 0.0]])  # softmax: 1/6, 2/6, 1/6, 1/6, 1/6
    assert SST.loss(logits, torch.tensor([1.0])).item() == pytest.approx(math.log(3), rel=1e-6)
    # the sigmoid is applied once: at logit ln 3 the probability is 3/4
    assert PARA.loss(torch.tensor([[math.log(3.0)]]), torch.tensor([1.0])).item() == pytest.approx(
        math.log(4 / 3), rel=1e-6)
    assert STS.loss(torch.tensor([[2.0], [3.0]]),
                    torch.tensor([2.5, 5.0])).item() == pytest.approx((0.25 + 4) / 2)


def test_predictions_are_decoded_in_the_courses_terms():
    assert SST.decode(torch.tensor([[0, 1, 9, 2, 3.0]])).tolist() == [2]
    assert PARA.decode(torch.tensor([[-0.1], [0.1]])).tolist() == [0.0, 1.0]
    assert STS.decode(torch.tensor([[-3.0], [2.5], [7.0]])).tolist() == [0.0, 2.5, 5.0]


# ----------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("plain", ["0", "1"])
def test_the_plain_step(arch, clip, plain, monkeypatch):
    """The real step, with the fast forms and without, is the one of examples/plain_step.py."""
    monkeypatch.setenv("MINBERT_PLAIN", plain)
    ours, theirs = without_head_dropout(build(arch)), without_head_dropout(build(arch))
    trainer = SurgeryTrainer(ours, "pcgrad", lr=1e-3, weight_decay=0.1, clip=clip, seed=5)
    result = trainer.step(batches(ours))

    decayed, undecayed = split_decayed(theirs)
    optimizer = AdamW([{"params": decayed.values(), "weight_decay": 0.1},
                       {"params": undecayed.values()}], lr=1e-3)
    if clip:
        optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip) and None)
    order = random_order(3, torch.Generator().manual_seed(5))
    losses = plain_step(theirs, batches(theirs), optimizer, order)

    assert result.losses == pytest.approx(losses, rel=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # Adam's first step is lr · sign(g): where |g| is near eps = 1e-6, float32 noise shows in it
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0, msg=lambda text,
                                   name=name: f"{name}: {text}")


@pytest.mark.parametrize("arch", ["concatA", "concatB"])
def test_ten_steps_are_those_of_transformers_on_padded_batches_with_eq_1(arch):
    """Another encoder, padded batches, one backward of the summed loss: nothing shared but heads
    and AdamW."""
    ours = without_head_dropout(build(arch))
    theirs = reference(ours.encoder)
    heads = copy.deepcopy(ours.heads)
    optimizer = AdamW([*theirs.parameters(), *heads.parameters()], lr=1e-3)
    trainer = SurgeryTrainer(ours, "sum", lr=1e-3)

    def padded_loss(name):
        columns = list(zip(*(example.sentences for example in EXAMPLES[name]), strict=True))
        if arch == "concatA":
            pooled = torch.cat([theirs(**ours.tokenizer(column)).pooler_output
                                for column in columns], dim=1)
        else:
            pooled = theirs(**ours.tokenizer(*columns)).pooler_output
        logits, labels = heads[name](pooled), torch.tensor([example.label
                                                            for example in EXAMPLES[name]])
        return {"sst": lambda: F.cross_entropy(logits, labels.long()),
                "para": lambda: F.binary_cross_entropy(logits.sigmoid()[:, 0], labels),
                "sts": lambda: F.mse_loss(logits[:, 0], labels)}[name]()

    for step in range(10):
        losses = {name: padded_loss(name) for name in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        # float32 rounding, which ten steps of Adam amplify
        assert trainer.step(batches(ours)).losses == pytest.approx(
            {name: loss.item() for name, loss in losses.items()}, rel=1e-4 * (step + 1))


def test_a_head_gets_its_own_tasks_gradient_untouched_by_surgery():
    model = without_head_dropout(build())
    seen = {}
    trainer = SurgeryTrainer(model, "pcgrad", lr=0.0)
    step = trainer.optimizer.step

    def spy():
        seen.update({name: parameter.grad.clone()
                     for name, parameter in model.heads.named_parameters()})
        return step()

    trainer.optimizer.step = spy
    trainer.step(batches(model))
    for name, batch in batches(model).items():
        loss = TASKS[name].loss(model(name, batch), batch.labels)
        expected = torch.autograd.grad(loss, list(model.heads[name].parameters()))
        for (parameter, _), gradient in zip(model.heads[name].named_parameters(), expected,
                                            strict=True):
            # float32 rounding
            torch.testing.assert_close(seen[f"{name}.{parameter}"], gradient, atol=1e-6, rtol=1e-5)


def test_surgery_sees_the_encoders_gradients_and_nothing_else():
    model = without_head_dropout(build())
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    encoder = list(model.encoder.parameters())
    rows = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
        TASKS[name].loss(model(name, batch), batch.labels), encoder)])
                        for name, batch in batches(model).items()])
    result = trainer.step(batches(model))
    # float32 rounding in gradients of norms near 1
    torch.testing.assert_close(result.gram, gram_matrix(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("surgery", ["pcgrad", "sum"])
@pytest.mark.parametrize("arch", ["concatA", "concatB"])
def test_word_embeddings_as_looked_up_rows_train_as_a_whole_matrix_does(arch, surgery, monkeypatch):
    """Five steps, clipped and with decay; without TABLE every task's gradient is one row of all
    parameters."""
    ends = []
    for compact in (True, False):
        model = build(arch, dropout=0.1)
        if not compact:
            monkeypatch.setattr("multitask.training.step.TaskGradients",
                                lambda flat, tasks, *_, **named: TaskGradients(flat, tasks, **named))
        trainer = SurgeryTrainer(model, surgery, lr=1e-3, weight_decay=0.1, clip=0.5, seed=3)
        size = model.encoder.get_parameter(TABLE).numel() if compact else 0
        assert trainer.gradients.matrix.shape == (3, trainer.flat.vector.numel() - size)
        grams = [trainer.step(batches(model)).gram for _ in range(5)]
        ends.append((trainer.flat.vector, torch.stack(grams)))
    # products are summed in another order: 6e-8 of them, which Adam's steps of lr · sign(g) carry
    # on where |g| ≈ eps
    torch.testing.assert_close(ends[0][1], ends[1][1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-6, rtol=0)


def test_each_tasks_graph_is_freed_before_the_next_tasks_forward(task_by_task):
    """What autograd saves for backward is wrapped here, so that we can count what is alive."""

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    alive, at_each_forward, model = weakref.WeakSet(), [], build()

    def pack(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    embed = model.embed
    model.embed = lambda batch: at_each_forward.append(len(alive)) or embed(batch)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        SurgeryTrainer(model, "pcgrad", lr=1e-3).step(batches(model))
        assert at_each_forward == [0, 0, 0]
        kept = model("sst", batches(model)["sst"])
        assert len(alive) > 10  # the count does count
        del kept


# ---------------------------------------------------------------- all tasks at once, and one by one


def table_gradients(trainer):
    """(tasks, vocabulary, hidden), whether kept as rows or as a part of the matrix."""
    gradients = trainer.gradients
    if gradients.table is not None:
        return torch.stack([gradient.to_dense() for gradient in gradients._table_gradients])
    table = trainer.model.encoder.get_parameter(TABLE)
    return gradients.matrix[:, :table.numel()].reshape(-1, *table.shape)


def gradients_of_a_step(model, at_once: bool, monkeypatch) -> dict[str, torch.Tensor]:
    """What a step's forwards and backwards leave: losses, each task's gradient of the encoder and
    of its head."""
    monkeypatch.setattr(together, "MOST_TOKENS", 1000 if at_once else 0)
    calls = []
    backward = together.backward
    monkeypatch.setattr(together, "backward", lambda *given: calls.append(1) or backward(*given))
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    losses = trainer._backward([MicroBatches([batch], len(batch.labels))
                                for batch in batches(model).values()])
    monkeypatch.setattr(together, "backward", backward)
    dense = trainer.flat.vector.numel() - model.encoder.get_parameter(TABLE).numel()
    return {"at once": torch.tensor(len(calls)), "losses": torch.stack(losses),
            "rows": trainer.gradients.matrix[:, -dense:],
            "table": table_gradients(trainer),
            "heads": torch.cat([parameter.grad.flatten()
                                for parameter in model.heads.parameters()])}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("positions", [32, 64])  # with 64, rows are filled up
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_tasks_at_once_give_each_task_the_gradient_it_has_alone(arch, positions, precision,
                                                                    monkeypatch):
    models = [without_head_dropout(build(arch, positions=positions)) for _ in range(2)]
    for model in models:
        model.precision = precision
    found = [gradients_of_a_step(model, at_once, monkeypatch)
             for model, at_once in zip(models, (True, False),
                                                                                        strict=True)]
    assert [one.pop("at once") for one in found] == [1, 0]
    for name, ours in found[0].items():
        for row, alone in zip(*map(torch.atleast_2d, (ours, found[1][name])), strict=True):
            # sums in another order: float32's rounding; in bf16, of 8 bits, blocks of other
            # sentences
            assert (row - alone).norm() <= (1e-5 if precision == "fp32"
                                            else 0.02) * alone.norm(), name
    assert all(row.any() for row in found[0]["rows"])


def test_with_dropout_each_task_has_the_gradient_of_its_own_loss_under_the_masks_drawn(monkeypatch):
    """The same draws again, and autograd asked for one loss after another through the layers of
    all."""
    model = build(dropout=0.3)
    torch.manual_seed(5)
    found = gradients_of_a_step(model, True, monkeypatch)
    torch.manual_seed(5)
    each, encoder = batches(model), model.encoder
    row = torch.cat([encoder.embeddings(batch.input_ids, batch.token_type_ids,
                                        batch.packing.position_ids)
                     for batch in each.values()])
    packing = Packing.from_lengths([length for batch in each.values()
                                    for length in batch.packing.lengths.tolist()])
    firsts = fast.encode_layers(encoder, row, packing, first_only=True)
    firsts = firsts.split([batch.packing.batch for batch in each.values()])
    losses = [TASKS[name].loss(model.heads[name](model.pool(first, batch)), batch.labels)
              for first, (name, batch) in zip(firsts, each.items(), strict=True)]
    assert torch.equal(torch.stack(losses), found["losses"])
    decayed, undecayed = split_decayed(encoder)
    table = decayed.pop(TABLE)
    dense, tables, heads = [*decayed.values(), *undecayed.values()], [], []
    for (name, loss), row in zip(zip(each, losses, strict=True), found["rows"], strict=True):
        wanted = [table, *model.heads[name].parameters(), *dense]
        of_table, *others = torch.autograd.grad(loss, wanted, retain_graph=True)
        tables.append(of_table)
        heads += others[:-len(dense)]
        # float32 rounding of sums in another order
        torch.testing.assert_close(row, torch.cat([one.flatten() for one in others[-len(dense):]]),
                                   atol=2e-6,
                                   rtol=1e-5)
    for found_one, expected in ((found["table"], torch.stack(tables)),
                                (found["heads"], torch.cat([one.flatten() for one in heads]))):
        # the same
        torch.testing.assert_close(found_one.flatten(), expected.flatten(), atol=2e-6, rtol=1e-5)


def adapted(model):
    layer = model.encoder.layers[0]
    layer.adapter = torch.nn.Linear(16, 16)
    layer.register_forward_hook(lambda layer, _, out: out + layer.adapter(out))


def with_loss(model, term):
    sst = model.tasks["sst"]
    model.tasks["sst"] = dataclasses.replace(sst, loss=lambda logits,
                                             labels: sst.loss(logits, labels) + term(logits))


def detached(model):
    model.heads["sst"].register_forward_pre_hook(lambda head, given: (given[0].detach(),))


def of_two_layers_one(model):
    model.encoder.layers[0].output_dense = model.encoder.layers[1].output_dense


def factorised(model):
    """As ALBERT's: what follows the embeddings is in bf16 under autocast."""
    model.precision = "bf16"
    model.encoder.embeddings.dropout = torch.nn.Linear(16, 16)


# What a user may do to the model → whether tasks are still computed at once
LIBERTIES = {
    "a hook on a weight": (lambda model: model.encoder.layers[1].output_dense.weight.register_hook(lambda g: 2 * g), 0),
    "an adapter behind a layer": (adapted, 0),
    "a part replaced": (lambda model: setattr(model.encoder.layers[0], "output_dense",
                                              torch.nn.Linear(32, 16)), 1),
    "a part taken away": (lambda model: setattr(model.encoder.layers[0], "output_layer_norm",
                                                torch.nn.Identity()), 0),
    "a forward of its own": (lambda model: setattr(model, "forward", lambda name,
                                                   batch: 2 * MultitaskBert.forward(
        model, name, batch)), 0),
    "a way to embed of its own": (lambda model: setattr(model, "embed",
                                                        lambda batch: 2 * MultitaskBert.embed(
        model, batch)), 0),
    "a hook on the pooler": (lambda model: model.encoder.pooler_dense.register_forward_hook(lambda *io: 2 * io[-1]), 1),
    "a frozen weight": (lambda model: model.encoder.layers[1].output_dense.requires_grad_(False),
                        1),
    "frozen embeddings": (lambda model: model.encoder.embeddings.requires_grad_(False), 1),
    "a frozen first half": (lambda model: [part.requires_grad_(False) for part in (
        model.encoder.embeddings, model.encoder.layers[0])], 1),
    "a weight of two layers": (of_two_layers_one, 1),
    "a loss that looks at weights": (lambda model: with_loss(
        model, lambda _: 0.1 * model.encoder.layers[0].output_dense.weight.square().sum()), 1),
    "a head that learns alone": (detached, 1),
    "factorised embeddings": (factorised, 1),
}


@pytest.mark.parametrize("liberty", LIBERTIES)
def test_what_was_changed_is_obeyed_as_it_is_task_by_task_in_the_plain_form(liberty, monkeypatch):
    change, expected = LIBERTIES[liberty]
    found = []
    for at_once in (True, False):
        model = without_head_dropout(build())
        torch.manual_seed(1)
        change(model)
        monkeypatch.setenv("MINBERT_PLAIN", str(int(not at_once)))
        found.append(gradients_of_a_step(model, at_once, monkeypatch))
    assert [int(one.pop("at once")) for one in found] == [expected, 0]
    for name, ours in found[0].items():
        for row, plain in zip(*map(torch.atleast_2d, (ours, found[1][name])), strict=True):
            # sums in another order: float32's rounding; in bf16, of 8 bits, at other places
            assert (row - plain).norm() <= (0.06 if liberty == "factorised embeddings"
                                            else 1e-5) * plain.norm(), name


def test_a_step_that_breaks_off_between_two_tasks_leaves_nothing_behind(monkeypatch):
    model, unbroken = (without_head_dropout(build()) for _ in range(2))
    trainers = [SurgeryTrainer(each, "pcgrad", lr=1e-3) for each in (model, unbroken)]

    def broken(_, labels):
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setitem(model.tasks, "para", dataclasses.replace(PARA, loss=broken))
        with pytest.raises(RuntimeError, match="on purpose"):
            trainers[0].step(batches(model))
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert current_buffers() == GradBuffers()
    for trainer in trainers:
        trainer.step(batches(trainer.model))
    assert torch.equal(trainers[0].flat.vector, trainers[1].flat.vector)


def test_a_step_of_too_many_tokens_or_of_a_part_of_a_batch_goes_task_by_task(monkeypatch):
    model = without_head_dropout(build())
    each = batches(model)
    tokens = sum(len(batch.input_ids) for batch in each.values())
    monkeypatch.setattr(together, "MOST_TOKENS", tokens)
    assert together.applies(model, each)
    monkeypatch.setattr(together, "MOST_TOKENS", tokens - 1)
    assert not together.applies(model, each)
    monkeypatch.setattr(together, "MOST_TOKENS", tokens)
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    whole = torch.stack(trainer._backward([MicroBatches([batch], len(batch.labels))
                                           for batch in each.values()]))
    half = torch.stack(trainer._backward([MicroBatches([batch], 2 * len(batch.labels))
                                          for batch in each.values()]))
    # float32 rounding
    torch.testing.assert_close(whole, 2 * half, atol=0, rtol=1e-6)


@pytest.mark.parametrize("surgery", ["pcgrad", "paper", "sum"])
def test_a_handful_of_examples_is_learnt_by_heart(surgery):
    model = without_head_dropout(build())
    trainer = SurgeryTrainer(model, surgery, lr=3e-3)
    first = trainer.step(batches(model)).losses
    for _ in range(150):
        last = trainer.step(batches(model)).losses
    # its unconditional projection can point uphill for a task; it must still run
    if surgery == "paper":
        assert all(math.isfinite(loss) for loss in last.values())
    else:
        assert all(last[name] < first[name] / 4 for name in TASKS), (first, last)


def test_the_plain_sum_is_the_gradient_of_eq_1():
    """Eq. 1: L = L_sst + L_para + L_sts."""
    model = without_head_dropout(build())
    trainer = SurgeryTrainer(model, "sum", lr=0.0)
    trainer.step(batches(model))
    total = sum(TASKS[name].loss(model(name, batch), batch.labels)
                for name, batch in batches(model).items())
    gradient = torch.cat([g.flatten()
                          for g in torch.autograd.grad(total,
                                                       list(trainer.flat.parameters.values()))])
    combined = torch.cat([vector.grad.to_dense().flatten() for vector in trainer.vectors])
    torch.testing.assert_close(combined, gradient, atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_before_anything_is_updated():
    model = build()
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    spoilt = batches(model)
    spoilt["sts"].labels[1] = float("inf")
    before = trainer.flat.vector.clone()
    with pytest.raises(FloatingPointError, match="loss of sts is inf"):
        trainer.step(spoilt)
    assert torch.equal(trainer.flat.vector, before)


def test_state_saved_and_loaded_gives_the_same_next_steps_bit_for_bit():
    straight = build(dropout=0.1)
    trainer = SurgeryTrainer(straight, "pcgrad", lr=1e-3, weight_decay=0.1, seed=1)
    for _ in range(2):
        trainer.step(batches(straight))
    state = {name: value.clone() for name, value in trainer.state_dict().items()}
    weights = {name: value.clone() for name, value in straight.state_dict().items()}
    rng = torch.get_rng_state()
    expected = [trainer.step(batches(straight)).losses for _ in range(2)]
    other = build(dropout=0.1, seed=9)
    resumed = SurgeryTrainer(other, "pcgrad", lr=1e-3, weight_decay=0.1, seed=77)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    torch.set_rng_state(rng)
    assert [resumed.step(batches(other)).losses for _ in range(2)] == expected
    assert torch.equal(resumed.flat.vector, trainer.flat.vector)


def test_moments_of_another_model_are_refused():
    trainer = SurgeryTrainer(build(), "pcgrad", lr=1e-3)
    trainer.step(batches(trainer.model))
    state = trainer.state_dict()
    state["optimizer.0.exp_avg"] = state["optimizer.0.exp_avg"].flatten()
    with pytest.raises(ValueError,
                       match=r"optimizer\.0\.exp_avg has shape \(\d+,\), expected \(\d+, 16\)"):
        trainer.load_state_dict(state)


def test_bf16_matrix_products_leave_weights_and_gradients_in_fp32_and_near():
    model = without_head_dropout(build())
    gradients = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        trainer = SurgeryTrainer(model, "sum", lr=0.0)
        trainer.step(batches(model))
        assert trainer.flat.vector.dtype == trainer.gradients.matrix.dtype == torch.float32
        gradients[precision] = torch.cat([vector.grad.to_dense().flatten()
                                          for vector in trainer.vectors])
    # bf16 has 8 bits: a relative error of 2^-8 a product, a few per cent through two layers
    assert F.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0) > 0.99
    assert not torch.equal(gradients["fp32"], gradients["bf16"])


# --------------------------------------------------------------------------------------- prediction


def test_predictions_come_in_input_order_whatever_the_batches():
    model = build()
    texts = [" ".join(SENTENCES[:n % 5 + 1]) for n in range(150)]
    together = model.predict("sst", [(text,) for text in texts])
    alone = torch.cat([model.predict("sst", [(text,)]) for text in texts[:20]])
    # float32 rounding: batches are padded to another length
    torch.testing.assert_close(together[:20], alone, atol=1e-5, rtol=0)
    assert model.training  # the mode is kept


def test_predictions_are_classes_probabilities_and_clipped_scores():
    model = build().eval()
    pairs = [example.sentences for example in EXAMPLES["para"]]
    assert set(model.predict_sentiment(SENTENCES).tolist()) <= {0, 1, 2, 3, 4}
    probabilities = model.predict_paraphrase(pairs)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    with torch.no_grad():
        model.heads["sts"][1].bias.fill_(9.0)
    assert model.predict_similarity(pairs).tolist() == [5.0] * 4
    assert len(model.predict_sentiment([])) == 0


def test_a_saved_model_predicts_the_same_bit_for_bit(tmp_path):
    model = build("concatB_al").eval()
    model.save_pretrained(tmp_path / "model")
    again = MultitaskBert.from_pretrained(tmp_path)
    assert again.arch == "concatB_al"
    for name, examples in EXAMPLES.items():
        items = [example.sentences for example in examples]
        assert torch.equal(again.predict(name, items), model.predict(name, items))


def test_unusable_inputs_are_refused(tmp_path):
    model = build()
    with pytest.raises(ValueError, match="put it in a list"):
        model.predict_sentiment("a good film")
    with pytest.raises(ValueError, match=r"para takes 2 sentences.*item 1 is"):
        model.predict_paraphrase([("a", "b"), ("c",)])
    with pytest.raises(ValueError, match="item 0 is 'ab'"):
        model.predict_similarity(["ab"])
    with pytest.raises(ValueError, match="choose from concatA, concatB, concatB_al"):
        MultitaskBert(model.encoder, model.tokenizer, "concatC")
    one_type = BertModel(dataclasses.replace(model.encoder.config, type_vocab_size=1))
    with pytest.raises(ValueError, match="type_vocab_size 1; take --arch concatA"):
        MultitaskBert(one_type, model.tokenizer, "concatB")
    with pytest.raises(FileNotFoundError, match=r"heads\.safetensors"):
        MultitaskBert.from_pretrained(tmp_path)
