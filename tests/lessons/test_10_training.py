"""Lesson 10: training, where everything meets.

Sentences go into the shared encoder, and heads turn its embeddings into outputs. Each task's
gradient fills its own row, surgery combines the rows into one vector, and AdamW takes a step. You
learn how a pair enters under each architecture, who owns which gradient, and what a loss must be.

Write it yourself: minbert study, ex16_heads.py; minbert study, ex17_losses.py; minbert study,
ex18_training_step.py; minbert study, ex19_final_layers.py.
"""

import copy
import dataclasses
import itertools
import math
import weakref
from contextlib import contextmanager

import pytest
import torch
from oracle import reference, with_loss
from plain_step import plain_step
from torch.nn import functional as F

from heads import ARCHITECTURES, TwoLayerHead
from minbert import BertConfig, BertModel, BertTokenizer
from minbert.embeddings import BertEmbeddings
from minbert.fast.gradients import current_buffers
from multitask import MultitaskBert
from multitask.data import batching
from multitask.data.batching import MicroBatches
from multitask.data.examples import Example
from multitask.tasks import PARA, SST, STS, TASKS
from multitask.training import all_at_once as together
from multitask.training.step import SurgeryTrainer
from optim import AdamW, gram_matrix, split_decayed
from optim.surgery import random_order

SENTENCES = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice",
             "is it any good"]
NEIGHBOURS = list(itertools.pairwise(SENTENCES))
EXAMPLES = {
    "sst": [Example(str(i), (text,), float(i)) for i, text in enumerate(SENTENCES)],
    "para": [Example(str(i), pair, float(i % 2)) for i, pair in enumerate(NEIGHBOURS)],
    "sts": [Example(str(i), (SENTENCES[i], SENTENCES[i + 2]), 1.3 * i) for i in range(3)],
}


def build(arch="concatB", dropout=0.0, seed=0, positions=32) -> MultitaskBert:
    torch.manual_seed(seed)
    tokenizer = BertTokenizer.train(SENTENCES, 80)
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=positions, initializer_range=0.2,
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


def flat(tensors) -> torch.Tensor:
    """One vector of all of them."""
    return torch.cat([one.flatten() for one in tensors])


def test_a_callers_autocast():
    """A step has the model's own precision, also inside a loop in autocast."""
    losses = []
    for enabled in (False, True):
        model = without_head_dropout(build())
        trainer = SurgeryTrainer(model, "sum", lr=1e-2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append([trainer.step(batches(model)).losses for _ in range(3)])
    assert losses[0] == losses[1]


# ------------------------------------------------------------------------------- how a pair goes in


@pytest.mark.parametrize(("arch", "joined", "apart"), [
    ("concatA", 0, 2), ("concatB", 1, 0), ("concatB_al", 1, 0)])
def test_how_a_pair_enters(arch, joined, apart):
    """concatA reads a pair as two sequences, the others as one sequence of two segments."""
    model = build(arch)
    first, second = EXAMPLES["para"][1].sentences
    encode = model.tokenizer.encode
    encodings = [*encode([first], [second])[:joined], *encode([first, second])[:apart]]

    batch = model.tokenize(EXAMPLES["para"][:2]).batch([1])

    found = batch.input_ids.tolist()
    assert found == [number for encoding in encodings for number in encoding.ids]
    assert model.tokenizer.pad_token_id not in found  # no padding inside a pair
    assert batch.packing.batch == joined + apart
    assert batch.token_type_ids.max() == joined


def test_batches_of_any_place():
    """A negative index counts from the end, and a batch moves to any device, named by a string."""
    tokens = build("concatA").tokenize(EXAMPLES["para"])
    last, same = tokens.batch([-1]), tokens.batch([len(tokens) - 1])
    assert torch.equal(last.input_ids, same.input_ids)
    assert torch.equal(last.labels, same.labels)
    with pytest.raises(IndexError):
        tokens.batch([len(tokens)])

    assert last.to("cpu") is last
    elsewhere = last.to("meta")
    assert elsewhere.input_ids.device.type == elsewhere.packing.mask.device.type == "meta"
    with pytest.raises(NotImplementedError):  # torch's: a meta tensor has no numbers to copy
        elsewhere.to(torch.device("cpu"))


def test_concat_b_mean():
    """With concatB_mean, a head reads the mean of all last states, [CLS] and [SEP] included."""
    class Other(torch.nn.Module):  # an encoder that is not minbert's own
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, **inputs):
            return self.encoder(**inputs)

    model = build("concatB_mean").eval()
    batch = model.tokenize(EXAMPLES["sts"]).batch(range(3))
    padded = batch.padded()
    states = model.encoder(**padded).last_hidden_state
    means = [row[mask.bool()].mean(0)
             for row, mask in zip(states, padded["attention_mask"], strict=True)]

    # float32 rounding; a row is filled up with a dummy sequence, whose output is discarded
    torch.testing.assert_close(model.embed(batch), torch.stack(means), atol=1e-5, rtol=0)
    filled = batch.filled(len(batch.input_ids) + 4, batch.packing.seq, 1)
    torch.testing.assert_close(model.embed(filled), torch.stack(means), atol=1e-5, rtol=0)

    model.encoder = Other(model.encoder)
    torch.testing.assert_close(model.embed(batch), torch.stack(means), atol=1e-5, rtol=0)


def test_head_depths():
    """A head has the layers that its architecture names."""
    shapes = {}
    for arch, architecture in ARCHITECTURES.items():
        head = architecture.build_head(16, 2, 1)
        shapes[arch] = [tuple(parameter.shape) for parameter in head.parameters()]
    assert shapes == {"concatA": [(1, 32), (1,)], "concatB": [(1, 16), (1,)],
                      "concatB_al": [(16, 16), (16,), (1, 16), (1,)],
                      "concatB_mean": [(1, 16), (1,)]}

    head = TwoLayerHead(4, 4, 2)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Dropout", "Linear", "LeakyReLU", "Dropout", "Linear"]
    assert (head[0].p, head[3].p) == (0.3, 0.45)


# ------------------------------------------------------------------------------------------- losses


def test_losses_by_hand():
    """The three losses are those worked out by hand."""
    logits = torch.tensor([[0.0, math.log(2.0), 0.0, 0.0, 0.0]])  # softmax: 1/6, 2/6, 1/6, 1/6, 1/6
    sst = SST.loss(logits, torch.tensor([1.0]))
    assert sst.item() == pytest.approx(math.log(3), rel=1e-6)

    # the sigmoid is applied once: at logit ln 3 the probability is 3/4
    para = PARA.loss(torch.tensor([[math.log(3.0)]]), torch.tensor([1.0]))
    assert para.item() == pytest.approx(math.log(4 / 3), rel=1e-6)

    sts = STS.loss(torch.tensor([[2.0], [3.0]]), torch.tensor([2.5, 5.0]))
    assert sts.item() == pytest.approx((0.25 + 4) / 2)


def test_decoded_outputs():
    """Outputs become the course's labels: a class, 0 or 1, and a score from 0 to 5."""
    assert SST.decode(torch.tensor([[0, 1, 9, 2, 3.0]])).tolist() == [2]
    assert PARA.decode(torch.tensor([[-0.1], [0.1]])).tolist() == [0.0, 1.0]
    assert STS.decode(torch.tensor([[-3.0], [2.5], [7.0]])).tolist() == [0.0, 2.5, 5.0]


# ----------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("plain", ["0", "1"])
def test_the_plain_step(arch, clip, plain, monkeypatch):
    """The library's step, with or without its fast forms, does what examples/plain_step.py does."""
    monkeypatch.setenv("MINBERT_PLAIN", plain)
    ours, theirs = without_head_dropout(build(arch)), without_head_dropout(build(arch))
    trainer = SurgeryTrainer(ours, "pcgrad", lr=1e-3, weight_decay=0.1, clip=clip, seed=5)
    result = trainer.step(batches(ours))

    def clip_gradients(*_):
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)

    decayed, undecayed = split_decayed(theirs)
    optimizer = AdamW([{"params": decayed.values(), "weight_decay": 0.1},
                       {"params": undecayed.values()}], lr=1e-3)
    if clip:
        optimizer.register_step_pre_hook(clip_gradients)
    order = random_order(3, torch.Generator().manual_seed(5))
    losses = plain_step(theirs, batches(theirs), optimizer, order)

    assert result.losses == pytest.approx(losses, rel=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # The first step is about lr · sign(g). Where |g| is near eps/√0.001 = 3e-5, float32 noise
        # shows in it.
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0,
                                   msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("arch", ["concatA", "concatB"])
def test_ten_steps_of_transformers(arch):
    """Ten steps give the losses of transformers' encoder, trained by one backward of Eq. 1.

    That encoder gets padded batches.

    The two sides share nothing but the heads and AdamW.
    """
    ours = without_head_dropout(build(arch))
    theirs = reference(ours.encoder)
    heads = copy.deepcopy(ours.heads)
    optimizer = AdamW([*theirs.parameters(), *heads.parameters()], lr=1e-3)
    trainer = SurgeryTrainer(ours, "sum", lr=1e-3)

    def padded_loss(name):
        columns = list(zip(*(example.sentences for example in EXAMPLES[name]), strict=True))
        labels = torch.tensor([example.label for example in EXAMPLES[name]])
        if arch == "concatA":
            pooled = torch.cat([theirs(**ours.tokenizer(column)).pooler_output
                                for column in columns], dim=1)
        else:
            pooled = theirs(**ours.tokenizer(*columns)).pooler_output

        logits = heads[name](pooled)
        if name == "sst":
            return F.cross_entropy(logits, labels.long())
        if name == "para":
            return F.binary_cross_entropy(logits.sigmoid()[:, 0], labels)
        return F.mse_loss(logits[:, 0], labels)

    for step in range(10):
        losses = {name: padded_loss(name) for name in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

        expected = {name: loss.item() for name, loss in losses.items()}
        # float32 rounding, which ten steps of Adam amplify
        assert trainer.step(batches(ours)).losses == pytest.approx(expected, rel=1e-4 * (step + 1))


def test_who_owns_which_gradient():
    """Surgery compares only the encoder's gradients; a head keeps the gradient of its own task."""
    model = without_head_dropout(build())
    gram = SurgeryTrainer(model, "pcgrad", lr=0.0).step(batches(model)).gram
    found = flat(parameter.grad for parameter in model.heads.parameters())

    rows, own, encoder = [], [], list(model.encoder.parameters())
    for name, batch in batches(model).items():
        loss = TASKS[name].loss(model(name, batch), batch.labels)
        gradients = torch.autograd.grad(loss, [*encoder, *model.heads[name].parameters()])
        rows.append(flat(gradients[:len(encoder)]))
        own.append(flat(gradients[len(encoder):]))

    # float32 rounding in gradients of norms near 1
    torch.testing.assert_close(gram, gram_matrix(torch.stack(rows)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, torch.cat(own), atol=1e-6, rtol=1e-5)


@contextmanager
def counting_saved():
    """The set of tensors that autograd has saved for backward and not freed yet."""
    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    alive = weakref.WeakSet()
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        yield alive


# ---------------------------------------------------------------- all tasks at once, and one by one


def table_gradients(trainer):
    """(tasks, vocabulary, hidden), whether kept as rows or as a part of the matrix."""
    gradients = trainer.gradients
    if gradients.table is not None:
        return torch.stack([gradient.to_dense() for gradient in gradients._table_gradients])
    table = next(iter(trainer.flat.parameters.values()))
    return gradients.matrix[:, :table.numel()].reshape(-1, *table.shape)


def gradients_of_a_step(model, at_once: bool, monkeypatch) -> tuple[int, dict[str, torch.Tensor]]:
    """How often tasks were computed at once, and what a step leaves before its update.

    That is the losses, and each task's gradient of the encoder and of its head.
    """
    calls = []
    backward = together.backward
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    whole = {name: MicroBatches.of(batch) for name, batch in batches(model).items()}
    with monkeypatch.context() as patch:
        patch.setattr(together, "MOST_TOKENS", 1000 if at_once else 0)
        patch.setattr(together, "backward", lambda *given: calls.append(1) or backward(*given))
        losses = trainer._backward(whole)

    dense = trainer.flat.vector.numel() - next(iter(trainer.flat.parameters.values())).numel()
    return len(calls), {"losses": torch.stack(losses),
                        "rows": trainer.gradients.matrix[:, -dense:],
                        "table": table_gradients(trainer),
                        "heads": flat(parameter.grad for parameter in model.heads.parameters())}


def assert_near(found, expected, tolerance):
    """Row by row, the difference is short compared with the row itself."""
    for name, ours in found.items():
        pairs = zip(torch.atleast_2d(ours), torch.atleast_2d(expected[name]), strict=True)
        for row, other in pairs:
            assert (row - other).norm() <= tolerance * other.norm(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("positions", [32, 64])  # with 64, rows are filled up
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_tasks_at_once(arch, positions, precision, monkeypatch):
    """Tasks computed all at once have the same gradients as tasks computed one by one."""
    counts, found = [], []
    for at_once in (True, False):
        model = without_head_dropout(build(arch, positions=positions))
        model.precision = precision
        count, gradients = gradients_of_a_step(model, at_once, monkeypatch)
        counts.append(count)
        found.append(gradients)

    assert counts == [1, 0]
    # float32 sums in another order; bf16 has 8 bits and meets blocks of other sentences
    assert_near(*found, 1e-5 if precision == "fp32" else 0.02)
    assert all(row.any() for row in found[0]["rows"])


def adapted(model):
    layer = model.encoder.layers[0]
    layer.adapter = torch.nn.Linear(16, 16)
    layer.register_forward_hook(lambda layer, _, out: out + layer.adapter(out))


def doubled(module, method):
    """A method of the user's own: twice what ours returns."""
    ours = getattr(module, method)
    setattr(module, method, lambda *given: 2 * ours(*given))


def penalised(model):
    """A loss that looks at weights."""
    sst, dense = model.tasks["sst"], model.encoder.layers[0].output_dense
    model.tasks["sst"] = with_loss(sst, lambda logits, labels: (
        sst.loss(logits, labels) + 0.1 * dense.weight.square().sum()))


def detached(model):
    model.heads["sst"].register_forward_pre_hook(lambda head, given: (given[0].detach(),))


def half_frozen(model):
    model.encoder.embeddings.requires_grad_(False)
    model.encoder.layers[0].requires_grad_(False)


def factorised(model):
    """As in ALBERT: a linear layer follows the embeddings, and autocast runs it in bf16."""
    model.precision = "bf16"
    model.encoder.embeddings.dropout = torch.nn.Linear(16, 16)


class OwnLayer(torch.nn.Linear):
    """Not built like a BertLayer."""

    def forward(self, hidden_states, mask):
        return super().forward(hidden_states)


def with_layer(number, layer):
    """The change that puts `layer(model)` at this depth."""
    return lambda model: model.encoder.layers.__setitem__(number, layer(model))


def louder(encoder, given, out):
    out.last_hidden_state = 2 * out.last_hidden_state


def centred(part, given, out):
    """A hook that looks along the sequence, so a packed row would mislead it."""
    return out - out[:, :1]


def centred_by_itself(part):
    ours = part.forward
    part.forward = lambda *given: centred(part, given, ours(*given))


class CentredEmbeddings(BertEmbeddings):
    def forward(self, *ids):
        return centred(self, ids, super().forward(*ids))


def few_learn(gradient):
    """A hook on the word embeddings: it takes a dense gradient."""
    gradient = gradient.clone()
    gradient[:9] = 0
    return gradient


class LouderTable(torch.nn.Embedding):
    def forward(self, ids):
        return 2 * F.embedding(ids, self.weight)


def tied(model):
    """Scores of word pieces, as in a masked language model."""
    table = model.encoder.embeddings.word_embeddings.weight
    model.heads["sst"].register_forward_hook(lambda head, given, out: out + given[0] @ table[:5].T)


def with_table(change):
    """The change that puts `change(table)` in place of the word embeddings."""
    return lambda model: setattr(model.encoder.embeddings, "word_embeddings",
                                 change(model.encoder.embeddings.word_embeddings))


def in_layer(number, name, part):
    """The change that puts `part(model)` into one of the layers."""
    return lambda model: setattr(model.encoder.layers[number], name, part(model))


# What a user may change in the model → how often tasks are then computed at once
LIBERTIES = {
    "a hook on a weight": (
        lambda model: model.encoder.layers[1].output_dense.weight.register_hook(lambda g: 2 * g),
        0),
    "an adapter behind a layer": (adapted, 0),
    "a part replaced": (in_layer(0, "output_dense", lambda _: torch.nn.Linear(32, 16)), 1),
    "a part taken away": (in_layer(0, "output_layer_norm", lambda _: torch.nn.Identity()), 0),
    "a layer of another kind": (with_layer(0, lambda model: OwnLayer(16, 16)), 0),
    "one layer at all depths": (with_layer(0, lambda model: model.encoder.layers[1]), 1),
    "a hook on the encoder": (lambda model: model.encoder.register_forward_hook(louder), 0),
    "a forward of its own": (lambda model: doubled(model, "forward"), 0),
    "a way to embed of its own": (lambda model: doubled(model, "embed"), 0),
    "a way to split heads of its own": (
        lambda model: doubled(model.encoder.layers[0].self_attention, "split_heads"), 0),
    "no pooler": (
        lambda model: setattr(model.encoder, "pooler_dense", torch.nn.Identity()), 1),
    "a hook on the pooler": (
        lambda model: model.encoder.pooler_dense.register_forward_hook(lambda *io: 2 * io[-1]), 0),
    "a hook on the embeddings": (
        lambda model: model.encoder.embeddings.register_forward_hook(centred), 0),
    "a hook on a part of the embeddings": (
        lambda model: model.encoder.embeddings.word_embeddings.register_forward_hook(centred), 0),
    "a hook on a part of a layer": (
        lambda model: model.encoder.layers[0].intermediate_dense.register_forward_hook(centred), 0),
    "a part with a forward of its own": (
        lambda model: centred_by_itself(model.encoder.layers[0].intermediate_dense), 0),
    "other embeddings": (
        lambda model: setattr(model.encoder.embeddings, "__class__", CentredEmbeddings), 0),
    "a frozen weight": (
        lambda model: model.encoder.layers[1].output_dense.requires_grad_(False), 1),
    "frozen embeddings": (lambda model: model.encoder.embeddings.requires_grad_(False), 1),
    "a frozen first half": (half_frozen, 1),
    "a weight of two layers": (
        in_layer(0, "output_dense", lambda model: model.encoder.layers[1].output_dense), 1),
    "a loss that looks at weights": (penalised, 1),
    "a head that learns alone": (detached, 1),
    "factorised embeddings": (factorised, 1),
    "a hook on the word embeddings' weight": (
        lambda model: model.encoder.embeddings.word_embeddings.weight.register_hook(few_learn), 1),
    "word embeddings of another class": (
        lambda model: setattr(model.encoder.embeddings.word_embeddings, "__class__", LouderTable),
        1),
    "an adapter behind the word embeddings": (
        with_table(lambda table: torch.nn.Sequential(table, torch.nn.Linear(16, 16))), 1),
    "word embeddings weighed by frequency": (
        lambda model: setattr(model.encoder.embeddings.word_embeddings, "scale_grad_by_freq", True),
        1),
    "a head that shares the word embeddings": (tied, 1),
    "a parameter before the word embeddings": (
        lambda model: model.encoder.register_parameter(
            "prompt", torch.nn.Parameter(torch.ones(2, 2))), 1),
}


@pytest.mark.parametrize("liberty", LIBERTIES)
def test_changed_models(liberty, monkeypatch):
    """A model that the user has changed gives the gradients of the plain form, task by task."""
    change, expected = LIBERTIES[liberty]
    counts, found = [], []
    for at_once in (True, False):
        model = without_head_dropout(build())
        torch.manual_seed(1)
        change(model)
        monkeypatch.setenv("MINBERT_PLAIN", "0" if at_once else "1")
        count, gradients = gradients_of_a_step(model, at_once, monkeypatch)
        counts.append(count)
        found.append(gradients)

    assert counts == [expected, 0]
    # float32 sums in another order; bf16 has 8 bits and rounds at other places
    assert_near(*found, 0.06 if liberty == "factorised embeddings" else 1e-5)


def test_a_broken_step(monkeypatch):
    """A step that fails between two tasks leaves nothing behind."""
    model, unbroken = (without_head_dropout(build()) for _ in range(2))
    trainers = [SurgeryTrainer(each, "pcgrad", lr=1e-3) for each in (model, unbroken)]

    def broken(_, labels):
        raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setitem(model.tasks, "para", with_loss(PARA, broken))
        with pytest.raises(RuntimeError, match="on purpose"):
            trainers[0].step(batches(model))
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert current_buffers.get() == (({},), None)

    for trainer in trainers:
        trainer.step(batches(trainer.model))
    assert torch.equal(trainers[0].flat.vector, trainers[1].flat.vector)


def test_when_task_by_task(monkeypatch):
    """A step is computed task by task if it has too many tokens, or only part of a batch."""
    model = without_head_dropout(build())
    each = batches(model)
    tokens = sum(len(batch.input_ids) for batch in each.values())
    monkeypatch.setattr(together, "MOST_TOKENS", tokens - 1)
    assert not together.applies(model, each)
    monkeypatch.setattr(together, "MOST_TOKENS", tokens)
    assert together.applies(model, each)

    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)

    def losses(times):
        """The losses of batches that are one of `times` equal parts of a step's batches."""
        pieces = {name: MicroBatches([batch], times * len(batch.labels))
                  for name, batch in each.items()}
        return torch.stack(trainer._backward(pieces))

    torch.testing.assert_close(losses(1), 2 * losses(2), atol=0, rtol=1e-6)  # float32 rounding


STALE = {
    "cast": lambda trainer: trainer.model.half().float(),
    "moved": lambda trainer: trainer.flat.release(),
    "loaded into other tensors": lambda trainer: trainer.model.load_state_dict(
        trainer.model.state_dict(), assign=True),
    "another head": lambda trainer: trainer.model.take_heads(build(seed=1)),
    "another encoder": lambda trainer: setattr(trainer.model, "encoder", build().encoder),
    "another layer": lambda trainer: trainer.model.encoder.layers.__setitem__(
        0, build().encoder.layers[0]),
    "a copy": copy.deepcopy,
}


@pytest.mark.parametrize("what", STALE)
def test_a_trainer_without_its_model(what):
    """A trainer that no longer holds the model's parameters says so instead of training nothing."""
    trainer = SurgeryTrainer(build(), "pcgrad", lr=1e-3)
    trainer.step(batches(trainer.model))
    changed = STALE[what](trainer)
    if what == "a copy":
        trainer = changed
    with pytest.raises(ValueError, match=r"since the trainer was made.*: make a new trainer"):
        trainer.step(batches(trainer.model))


def test_a_trainer_beside_other_parts():
    """Parts without parameters, and heads that it does not train, are not the trainer's."""
    trainer = SurgeryTrainer(build(), "pcgrad", lr=1e-3, tasks=["para", "sts"])
    trainer.model.encoder.layers[0].dropout = torch.nn.Dropout(0.3)
    del trainer.model.heads["sst"]
    given = batches(trainer.model)
    trainer.step({name: given[name] for name in trainer.tasks})


def test_learns_by_heart():
    """Training fits a handful of examples."""
    model = without_head_dropout(build())
    trainer = SurgeryTrainer(model, "pcgrad", lr=3e-3)

    first = trainer.step(batches(model)).losses
    for _ in range(150):
        last = trainer.step(batches(model)).losses

    assert all(last[name] < first[name] / 4 for name in TASKS), (first, last)


def test_moments_of_another_model():
    """Moments of another model are refused; the error gives the name and both shapes."""
    trainer = SurgeryTrainer(build(), "pcgrad", lr=1e-3)
    trainer.step(batches(trainer.model))
    state = trainer.state_dict()
    state["optimizer.0.exp_avg"] = state["optimizer.0.exp_avg"].flatten()

    message = r"optimizer\.0\.exp_avg has shape \(\d+,\), expected \(\d+, 16\)"
    with pytest.raises(ValueError, match=message):
        trainer.load_state_dict(state)


def test_bf16_keeps_fp32_weights():
    """With bf16, weights and gradients are kept in fp32, and gradients are close to fp32's."""
    model = without_head_dropout(build())
    gradients = {}
    for precision in ("fp32", "bf16"):
        model.precision = precision
        trainer = SurgeryTrainer(model, "sum", lr=0.0)
        trainer.step(batches(model))
        assert trainer.flat.vector.dtype == trainer.gradients.matrix.dtype == torch.float32
        gradients[precision] = flat(vector.grad.to_dense() for vector in trainer.vectors)

    # bf16 has 8 bits: a relative error of 2^-8 per product, a few per cent through two layers
    assert F.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0) > 0.99
    assert not torch.equal(gradients["fp32"], gradients["bf16"])


# --------------------------------------------------------------------------------------- prediction

ITEMS = [(" ".join(SENTENCES[:n % 5 + 1]),) for n in range(150)]


def test_prediction_order():
    """Predictions come in input order, whatever the batches."""
    model = build()

    found = model.logits("sst", ITEMS)
    alone = torch.cat([model.logits("sst", [item]) for item in ITEMS[:20]])

    # float32 rounding: batches are padded to another length
    torch.testing.assert_close(found[:20], alone, atol=1e-5, rtol=0)
    assert model.training  # the mode is kept


def test_prediction_batches(monkeypatch):
    """Long examples make small batches, so that memory suffices; the outputs are the same."""
    model = build()
    tokens = model.tokenize(model.examples_of("sst", ITEMS))
    expected = model.predict_logits("sst", tokens)
    assert [len(batch) for batch in tokens.by_length(64)] == [64, 64, 22]  # they are short

    longest = int(tokens.lengths.max())
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 3 * longest)
    batches = tokens.by_length(64)
    assert len(batches[0]) == 3
    assert max(int(tokens.lengths[batch].sum()) for batch in batches) <= 3 * longest
    assert len(batches[-1]) > 3
    torch.testing.assert_close(model.predict_logits("sst", tokens), expected, atol=1e-5, rtol=0)
    monkeypatch.setattr(batching, "TOKENS_AT_ONCE", 1)
    assert len(tokens.by_length(64)) == 150


def test_prediction_values():
    """Predictions are classes, probabilities and clipped scores."""
    model = build().eval()
    classes = model.logits("sst", SENTENCES).argmax(1)
    assert model.predict_sentiment(SENTENCES).tolist() == classes.tolist()
    assert len(model.predict_sentiment([])) == 0

    probabilities = model.logits("para", NEIGHBOURS)[:, 0].sigmoid()
    torch.testing.assert_close(torch.tensor(model.predict_paraphrase(NEIGHBOURS)), probabilities)

    with torch.no_grad():
        model.heads["sts"][1].bias.fill_(9.0)
    assert model.predict_similarity(NEIGHBOURS).tolist() == [5.0] * 4
    with torch.device("meta"):  # torch's default device: the answer is on the CPU
        assert model.predict_similarity(NEIGHBOURS).tolist() == [5.0] * 4


def test_a_saved_model(tmp_path, monkeypatch):
    """A saved model, loaded again, predicts the same, bit for bit."""
    model = build("concatB_al").eval()
    model.save_pretrained(tmp_path / "model")
    again = MultitaskBert.from_pretrained(tmp_path)
    kept = tmp_path / "model.old" / "kept"
    kept.parent.mkdir()
    kept.touch()
    model.save_pretrained(tmp_path / "model")  # again, in its place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.old"]
    assert kept.exists()
    with pytest.raises(ValueError, match="holds no model that may be replaced"):
        model.save_pretrained(tmp_path)  # as from_pretrained takes it
    monkeypatch.chdir(tmp_path / "model")
    for here in (".", tmp_path / "model"):
        with pytest.raises(ValueError, match="is the current folder: name"):
            model.save_pretrained(here)

    assert again.arch == "concatB_al"
    for name, examples in EXAMPLES.items():
        items = [example.sentences for example in examples]
        assert torch.equal(again.logits(name, items), model.logits(name, items))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("arch", ["concatB", "concatB_mean"])
def test_a_model_of_another_dtype(arch, dtype, tmp_path):
    """A model that was cast predicts, and saves what opens in float32."""
    model = build(arch).eval()
    expected = model.logits("sts", NEIGHBOURS)
    model.to(dtype).save_pretrained(tmp_path)
    again = MultitaskBert.from_pretrained(tmp_path)
    assert {value.dtype for value in again.parameters()} == {torch.float32}
    for cast in (model, again):
        # bfloat16 has 8 bits
        torch.testing.assert_close(cast.logits("sts", NEIGHBOURS), expected, atol=0.05, rtol=0)


def test_unusable_inputs(tmp_path):
    """Unusable inputs are refused, and the error names what is wrong."""
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
