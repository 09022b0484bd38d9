"""Why a model answers: words, attention and gradients, against arithmetic by other means."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minbert import BertModel, BertTokenizer
from multitask import MultitaskBert, explanations
from multitask.explanations import WORDS, attention, wishes, words_by_gradient, words_by_occlusion
from optim import SURGERY, project_conflicting

SINGLE = ["The ending is unbelievably dull, though."]
PAIR = ["A dog runs unbelievably fast.", "Dogs ran."]
CASES = [("concatA", "sst", SINGLE, 1), ("concatA", "para", PAIR, 1), ("concatB", "para", PAIR, 1),
         ("concatB_al", "sts", PAIR, None)]


@pytest.fixture(scope="module")
def encoder() -> tuple[BertModel, BertTokenizer]:
    return (BertModel.from_pretrained("minbert-mini"),
            BertTokenizer.from_pretrained("minbert-mini"))


def model_of(encoder, arch: str) -> MultitaskBert:
    torch.manual_seed(3)
    return MultitaskBert(copy.deepcopy(encoder[0]), encoder[1], arch).eval()


def value_of(model: MultitaskBert, task: str, texts, label) -> float:
    """What is explained, by predict alone."""
    logits = model.logits(task, [tuple(texts)])
    if task == "sts":
        return float(logits[0, 0])
    return float(model.tasks[task].probabilities(logits)[0, int(label)].log())


@pytest.mark.parametrize(("arch", "task", "texts", "label"), CASES)
def test_occlusion(encoder, arch, task, texts, label):
    """The weight of a word is what is lost when [MASK] pieces are typed in its place."""
    model = model_of(encoder, arch)
    whole = value_of(model, task, texts, label)
    words = words_by_occlusion(model, task, texts, label)
    assert " ".join(word.text for word in words if word.sentence == len(texts) - 1) in (
        "The ending is unbelievably dull , though .", "Dogs ran .")

    start = [0] * len(texts)
    for word in words:
        where = texts[word.sentence].index(word.text, start[word.sentence])
        start[word.sentence] = where + len(word.text)
        pieces = len(model.tokenizer.encode([word.text])[0].ids) - 2
        masked = list(texts)
        masked[word.sentence] = (texts[word.sentence][:where] + " [MASK]" * pieces
                                 + texts[word.sentence][where + len(word.text):])
        assert word.weight == pytest.approx(whole - value_of(model, task, masked, label), abs=1e-5)


@pytest.mark.parametrize("plain", ["0", "1"])
@pytest.mark.parametrize(("arch", "task", "texts", "label"), CASES)
def test_gradient(encoder, arch, task, texts, label, plain, monkeypatch):
    """The weight of a word is the slope as its embeddings move towards [MASK]'s."""
    monkeypatch.setenv("MINBERT_PLAIN", plain)
    model = model_of(encoder, arch)
    words = words_by_gradient(model, task, texts, label)
    assert max(abs(word.weight) for word in words) > 1e-3

    table = model.encoder.embeddings.word_embeddings
    mask = table.weight[model.tokenizer.vocabulary["[MASK]"]].detach()
    word = next(word for word in words if word.text == "unbelievably")
    ids = model.tokenizer.encode(["unbelievably"])[0].ids[1:-1]
    assert len(ids) > 1
    values = []
    for share in (1e-2, -1e-2):  # of the way; these pieces stand nowhere else in the input
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for piece in ids:
                row = moved.encoder.embeddings.word_embeddings.weight[piece]
                row += share * (mask - row)
        values.append(value_of(moved, task, texts, label))
    # float32 leaves three digits of such a difference
    assert word.weight == pytest.approx((values[1] - values[0]) / 2e-2, rel=1e-2, abs=1e-4)

    model.encoder.requires_grad_(False)
    assert words_by_gradient(model, task, texts, label) == words


def test_sure_answers(encoder):
    """A probability that rounds to 1 has finite weights for either label."""
    model = model_of(encoder, "concatB")
    with torch.no_grad():
        model.heads["para"][1].bias.fill_(40.0)
    for label in (0.0, 1.0):
        for method in WORDS.values():
            assert np.isfinite([word.weight for word in method(model, "para", PAIR, label)]).all()


def test_too_many_words(encoder, monkeypatch):
    monkeypatch.setattr(explanations, "MOST_WORDS", 8)
    model = model_of(encoder, "concatB")
    assert len(words_by_occlusion(model, "sst", ["a " * 8])) == 8
    with pytest.raises(ValueError, match="9 words; occlusion takes 8 at most: use gradients"):
        words_by_occlusion(model, "para", ["a " * 4, "b " * 5])


@pytest.mark.parametrize("method", WORDS)
def test_default_label(encoder, method):
    """Without a label, the predicted one is explained; no part keeps a hook or another mode."""
    model = model_of(encoder, "concatB").train()
    predicted = model.predict("sst", SINGLE).probabilities.argmax()
    assert WORDS[method](model, "sst", SINGLE) == WORDS[method](model, "sst", SINGLE, predicted)
    assert model.training
    assert model.encoder.embeddings.dropout.training
    assert not model.encoder.embeddings.word_embeddings._forward_hooks


def test_attention(encoder):
    """The pieces of each sequence, and the encoder's own weights."""
    model = model_of(encoder, "concatA")
    found = attention(model, "para", PAIR, 1, 2)
    inputs = [model.tokenizer([text]) for text in PAIR]
    assert [pieces for pieces, _ in found] == [model.tokenizer.encode([text])[0].tokens
                                               for text in PAIR]
    for (_, weights), each in zip(found, inputs, strict=True):
        out = model.encoder(**each, output_attentions=True)
        torch.testing.assert_close(weights, out.attentions[1][0, 2].float())
    [(pieces, _)] = attention(model_of(encoder, "concatB"), "para", PAIR, 0, 0)
    assert pieces.count("[SEP]") == 2
    for layer, head, message in ((9, 0, "layer is 9; the encoder's are 0 to 3"),
                                 (0, -1, "head is -1")):
        with pytest.raises(ValueError, match=message):
            attention(model, "sst", SINGLE, layer, head)


def test_wishes(encoder, monkeypatch):
    """Gradients as loss.backward() leaves them; PCGrad on the vectors; losses move as foretold."""
    model = model_of(encoder, "concatB")
    answers = {"sst": 3.0, "para": 1.0, "sts": 4.5}
    monkeypatch.setitem(SURGERY, "broken", lambda gram: gram[0] * torch.nan)
    found = wishes(model, PAIR, answers)
    # one has no weights here, one needs an option
    assert SURGERY.keys() - found.surgery.keys() == {"broken", "constant"}

    def losses(model) -> list[torch.Tensor]:
        some = []
        for name, answer in answers.items():
            task = model.tasks[name]
            tokens = model.tokenize(model.examples_of(name, [tuple(PAIR[:len(task.text)])]))
            some.append(task.loss(model(name, tokens.batch([0])), torch.tensor([answer])))
        return some

    rows = []
    for loss in losses(model):
        model.zero_grad()
        loss.backward()
        rows.append(torch.cat([value.grad.flatten() for value in model.encoder.parameters()]))
    rows = torch.stack(rows).double()
    np.testing.assert_allclose(found.losses, [loss.item() for loss in losses(model)], rtol=1e-6)
    np.testing.assert_allclose(found.norms, rows.norm(dim=1), rtol=1e-5)
    cosines = F.cosine_similarity(rows[:, None], rows[None], dim=2)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-5)

    combined = project_conflicting(rows, generator=torch.Generator().manual_seed(0))
    assert found.surgery["pcgrad"].norm == pytest.approx(float(combined.norm()), rel=1e-5)

    def losses_at(step: float) -> np.ndarray:
        vector = start - step * combined.float()
        nn.utils.vector_to_parameters(vector, model.encoder.parameters())
        return np.array([loss.item() for loss in losses(model)])

    start, step = nn.utils.parameters_to_vector(model.encoder.parameters()).detach(), 1e-5
    moved = (losses_at(step) - losses_at(-step)) / (2 * step)
    np.testing.assert_allclose(found.surgery["pcgrad"].changes, moved, rtol=2e-3)

    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="the encoder is frozen, so it has no gradients"):
        wishes(model, PAIR, answers)
