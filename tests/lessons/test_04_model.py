"""Lesson 4: the whole encoder, compared with an independent one.

transformers' BertModel is the oracle. With the same weights and inputs, outputs and gradients must
agree, with padding and without. The tests use a real checkpoint, and small random shapes in double
precision.

Write it yourself: minbert study, ex07_pooler.py; minbert study, ex08_bert.py.
"""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import gradients_by_their_name, reference
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from minbert import BertConfig, BertModel, BertTokenizer

SENTENCES = ["A gorgeous, witty, seductive movie.", "No.",
             "It is , by conventional measures , rather less than that ."]
SECONDS = ["Worth it?", "Why would anyone sit through all two hours of it a second time?", "Yes."]


def largest(difference: torch.Tensor) -> torch.Tensor:
    return difference.abs().max()


def scalar_loss(out, mask: torch.Tensor) -> torch.Tensor:
    """A loss that looks at every real position and at the pooler, with uneven weights."""
    hidden = out["last_hidden_state"] * mask[..., None]
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    return (hidden * weights).sum() + out["pooler_output"].square().sum()


@pytest.fixture
def their_model(real_checkpoint):
    return transformers.BertModel.from_pretrained(real_checkpoint,
                                                  attn_implementation="eager").eval()


@pytest.mark.parametrize("seconds", [None, SECONDS], ids=["sentences", "pairs"])
def test_checkpoint_outputs(real_model, their_model, real_tokenizer, seconds):
    """A real checkpoint gives the same outputs as in transformers."""
    batch = real_tokenizer(SENTENCES, seconds)
    mask = batch["attention_mask"].bool()

    with torch.no_grad():
        ours, theirs = real_model(**batch), their_model(**batch)

    # float32 through six layers of numbers near 1; 2e-6 was measured
    assert largest((ours.last_hidden_state - theirs.last_hidden_state)[mask]) < 1e-5
    assert largest(ours.pooler_output - theirs.pooler_output) < 1e-5


def test_checkpoint_gradients(real_checkpoint, their_model, real_tokenizer):
    """A real checkpoint gives the same gradients as in transformers."""
    ours = BertModel.from_pretrained(real_checkpoint)
    batch = real_tokenizer(SENTENCES, SECONDS)

    for model in (ours, their_model):
        scalar_loss(model(**batch), batch["attention_mask"]).backward()

    found = gradients_by_their_name(ours)
    for name, value in their_model.named_parameters():
        error = (found[name] - value.grad).norm()
        # A constant added to all scores cancels in softmax, so the gradient of a key's bias is zero
        # in exact arithmetic. Its error cannot be relative.
        if not name.endswith("key.bias"):
            error /= value.grad.norm().clamp(min=1e-12)
        assert error < 1e-4, name


@st.composite
def configurations(draw):
    heads = draw(st.integers(1, 4))
    return BertConfig(
        vocab_size=draw(st.integers(5, 60)),
        hidden_size=heads * draw(st.sampled_from([2, 4, 6])),
        num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 33)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        max_position_embeddings=draw(st.integers(8, 24)),
        type_vocab_size=draw(st.integers(1, 3)),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-5])),
        initializer_range=0.2)


@settings(max_examples=25, deadline=None)
@given(configurations(), st.data())
def test_random_shapes(config, data):
    """Models of random shapes agree with transformers in double precision, outputs to 1e-11."""
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    batch = data.draw(st.integers(1, 4))
    seq = data.draw(st.integers(1, config.max_position_embeddings))
    lengths = torch.tensor([data.draw(st.integers(1, seq)) for _ in range(batch)])
    mask = (torch.arange(seq) < lengths[:, None]).long()
    # ids from 1: transformers blocks the gradient of [PAD], id 0, which is never a real token
    inputs = {"input_ids": torch.randint(1, config.vocab_size, (batch, seq)),
              "attention_mask": mask,
              "token_type_ids": torch.randint(config.type_vocab_size, (batch, seq))}
    ours = BertModel(config).double().eval()
    theirs = reference(ours)

    out, expected = ours(**inputs), theirs(**inputs)
    scalar_loss(out, mask).backward()
    scalar_loss(expected, mask).backward()

    # rounding of float64 through up to four layers
    assert largest((out.last_hidden_state - expected.last_hidden_state)[mask.bool()]) < 1e-11
    assert largest(out.pooler_output - expected.pooler_output) < 1e-11
    found = gradients_by_their_name(ours)
    for name, value in theirs.named_parameters():
        assert largest(found[name] - value.grad) < 1e-9 * (1 + largest(value.grad)), name


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_encode(real_model, real_tokenizer, pooling):
    """encode gives one vector per sentence, in input order."""
    sentences = [*SENTENCES, "", *SECONDS]

    vectors = real_model.encode(sentences, real_tokenizer, pooling, batch_size=2)

    assert vectors.shape == (7, 384)
    for sentence, vector in zip(sentences, vectors, strict=True):
        with torch.no_grad():
            out = real_model(**real_tokenizer([sentence]))
        by_hand = {"mean": out.last_hidden_state[0].mean(0), "cls": out.last_hidden_state[0, 0],
                   "pooler": out.pooler_output[0]}[pooling]
        # float32 rounding; no padding can have entered the mean
        assert_close(vector, by_hand, atol=1e-5, rtol=0)


def test_encode_in_parts(real_model, real_tokenizer, monkeypatch):
    """Some sentences at a time are tokenized; an error counts them from the first."""
    expected = real_model.encode(SENTENCES, real_tokenizer)
    monkeypatch.setattr("minbert.sentences.TOKENIZE_AT_ONCE", 2)
    assert torch.equal(real_model.encode(SENTENCES, real_tokenizer), expected)
    with pytest.raises(ValueError, match="item 3 is None"):
        real_model.encode(["a", "b", "c", None], real_tokenizer)


def encoder(**changes) -> BertModel:
    return BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
                                intermediate_size=8, max_position_embeddings=20, **changes))


def test_encode_keeps_the_mode(real_tokenizer):
    """encode applies no dropout and leaves the model in training mode."""
    model = encoder().train()

    first = model.encode(["a good film", "x " * 40], real_tokenizer)
    second = model.encode(["a good film", "x " * 40], real_tokenizer)

    assert torch.equal(first, second)
    assert model.training
    assert not first.requires_grad
    assert model.encode([], real_tokenizer).shape == (0, 24)
    with pytest.raises(ValueError, match="max_length is 0"):
        model.encode(["a"], real_tokenizer, max_length=0)


def test_encode_without_a_pooler(tiny_checkpoint):
    """As after dynamic quantization, the pooler has no weight to ask for its device."""
    model = BertModel.from_pretrained(tiny_checkpoint)
    tokenizer = BertTokenizer.from_pretrained(tiny_checkpoint)
    before = model.encode(["a film"], tokenizer)
    model.pooler_dense = torch.nn.Identity()
    assert torch.equal(model.encode(["a film"], tokenizer), before)


@pytest.mark.parametrize(("sentences", "pooling", "changes", "message"), [
    (["a"], "max", {}, "choose from mean, cls, pooler"),
    ("a", "mean", {}, "put it in a list"),
    (["a"], "mean", {"vocab_size": 50}, "has 30522 pieces, the model 50"),
])
def test_encode_refusals(real_tokenizer, sentences, pooling, changes, message):
    """encode refuses an unknown pooling, a bare string, and another model's tokenizer."""
    with pytest.raises(ValueError, match=message):
        encoder(**changes).encode(sentences, real_tokenizer, pooling)


def test_pooler_by_hand():
    """With W = [[1, 2], [0, 1]], b = [0.5, −0.5], the pooler maps [1, −1] to tanh([−0.5, −1.5])."""
    model = BertModel(BertConfig(vocab_size=3, hidden_size=2, num_hidden_layers=1,
                                 num_attention_heads=1))
    with torch.no_grad():
        model.pooler_dense.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        model.pooler_dense.bias.copy_(torch.tensor([0.5, -0.5]))

    expected = torch.tensor([[math.tanh(-0.5), math.tanh(-1.5)]])
    assert_close(model.pool(torch.tensor([[1.0, -1.0]])), expected, atol=1e-6, rtol=0)


def test_padding_changes_nothing(tiny_model):
    """Neither padding nor a longer neighbour changes a sentence's vectors."""
    ids = torch.randint(5, 50, (1, 6))
    padded = torch.cat([ids, torch.randint(5, 50, (1, 4))], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 4, [1] * 10])

    alone = tiny_model(ids).last_hidden_state
    beside = tiny_model(padded.repeat(2, 1), mask).last_hidden_state

    # float32 rounding: a longer row may be summed in another order
    assert_close(beside[0, :6], alone[0], atol=2e-6, rtol=0)


def test_padding_anywhere(tiny_model):
    """Padding may stand anywhere, and a row may be all padding."""
    ids = torch.randint(5, 50, (3, 7))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1, 1], [0] * 7])

    out = tiny_model(ids, mask)
    expected = reference(tiny_model)(ids, attention_mask=mask)

    assert largest((out.last_hidden_state - expected.last_hidden_state)[mask.bool()]) < 2e-6
    assert torch.isfinite(out.last_hidden_state).all()
    assert torch.isfinite(out.pooler_output).all()


def test_layers_without_biases(tiny_config):
    class Unbiased(BertModel):
        def init_weights(self, part: torch.nn.Module) -> None:
            for module in part.modules():
                if isinstance(module, torch.nn.Linear):
                    module.bias = None
            super().init_weights(part)

    assert Unbiased(tiny_config).pooler_dense.bias is None


def test_output_keys(tiny_model):
    """The output is read by key or attribute, is written by key, and holds more on request."""
    ids = torch.randint(5, 50, (2, 3))
    out = tiny_model(ids)
    assert out.keys() == ["last_hidden_state", "pooler_output"]
    assert out["pooler_output"] is out.pooler_output
    more = tiny_model(ids, output_hidden_states=True, output_attentions=True)
    assert more.keys() == [*out.keys(), "hidden_states", "attentions"]
    assert "attentions" in more
    assert "attentions" not in out
    assert all(map(torch.is_tensor, tree_leaves(more)))  # as DistributedDataParallel looks for them

    # the course's sanity_check.py assigns by key
    out["last_hidden_state"] = out["last_hidden_state"] * 0
    assert out.last_hidden_state.abs().max() == 0

    with pytest.raises(KeyError, match="logits"):
        out["logits"]
    with pytest.raises(KeyError, match="pooled"):
        out["pooled"] = out.pooler_output


def grid(*shape, value=0) -> torch.Tensor:
    return torch.full(shape, value)


@pytest.mark.parametrize(("arguments", "message"), [
    ((grid(3),), r"\(batch, seq\)"),
    ((grid(0, 0),), "at least one sentence"),
    ((grid(1, 3), torch.ones(1, 2)), "attention_mask"),
    ((grid(1, 3, value=50),), r"input_ids must lie in \[0, 50\), found 50 to 50"),
    ((grid(1, 3), None, grid(1, 3, value=2)), "token_type_ids must lie"),
    ((grid(1, 21),), "21 tokens.*20.*max_length"),
])
def test_bad_inputs(tiny_model, arguments, message):
    """Unusable inputs are refused, and the error names what was expected."""
    with pytest.raises(ValueError, match=message):
        tiny_model(*arguments)


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_size": 10, "num_attention_heads": 3}, "not divisible"),
    ({"hidden_act": "swish"}, "choose from gelu, gelu_new, relu"),
    ({"num_hidden_layers": 0}, "from 1 to"),
    ({"hidden_dropout_prob": 1.0}, r"\[0, 1\)"),
    ({"vocab_size": "30522"}, "must be int"),
    ({"layer_norm_eps": 0.0}, "above 0"),
])
def test_bad_configurations(changes, message):
    """A configuration that does not describe a BERT is refused."""
    with pytest.raises(ValueError, match=message):
        BertConfig(**changes)


def test_initializer_range():
    """Random weights have the standard deviation initializer_range."""
    model = BertModel(BertConfig(vocab_size=2000, hidden_size=64, num_hidden_layers=1,
                                 num_attention_heads=2, intermediate_size=64,
                                 initializer_range=0.05))
    assert abs(model.embeddings.word_embeddings.weight.std().item() - 0.05) < 1e-3
    assert model.pooler_dense.bias.abs().max() == 0
    assert torch.equal(model.embeddings.layer_norm.weight, torch.ones(64))
