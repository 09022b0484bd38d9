"""Lesson 4: the whole encoder, held against an independent one.

transformers' BertModel is the oracle: same weights, same inputs, outputs and gradients must agree,
with padding and without, on a real checkpoint and on random small shapes in double precision.
"""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import gradients_by_their_name, reference, stored_reference

from minbert import BertConfig, BertModel

SENTENCES = ["A gorgeous, witty, seductive movie.", "No.",
             "It is , by conventional measures , rather less than that ."]
SECONDS = ["Worth it?", "Why would anyone sit through all two hours of it a second time?", "Yes."]


def scalar_loss(out, mask: torch.Tensor) -> torch.Tensor:
    """A loss that looks at every real position and at the pooler, with uneven weights."""
    hidden = out["last_hidden_state"] * mask[..., None]
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    return (hidden * weights).sum() + out["pooler_output"].square().sum()


@pytest.mark.parametrize("seconds", [None, SECONDS], ids=["sentences", "pairs"])
def test_the_real_checkpoint_gives_the_references_outputs(real_model, real_checkpoint,
                                                          real_tokenizer, seconds):
    theirs = transformers.BertModel.from_pretrained(real_checkpoint,
                                                    attn_implementation="eager").eval()
    batch = real_tokenizer(SENTENCES, seconds)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, reference_out = real_model(**batch), theirs(**batch)
    # float32 through six layers of numbers near 1; 2e-6 was measured
    assert (ours.last_hidden_state - reference_out.last_hidden_state)[mask].abs().max() < 1e-5
    assert (ours.pooler_output - reference_out.pooler_output).abs().max() < 1e-5


def test_the_real_checkpoint_gives_the_references_gradients(real_checkpoint, real_tokenizer):
    ours = BertModel.from_pretrained(real_checkpoint)
    theirs = transformers.BertModel.from_pretrained(real_checkpoint,
                                                    attn_implementation="eager").eval()
    batch = real_tokenizer(SENTENCES, SECONDS)
    for model in (ours, theirs):
        scalar_loss(model(**batch), batch["attention_mask"]).backward()
    found = gradients_by_their_name(ours)
    for name, value in theirs.named_parameters():
        error = (found[name] - value.grad).norm() / value.grad.norm().clamp(min=1e-12)
        # zero in exact arithmetic: a constant added to all scores cancels in softmax
        if name.endswith("key.bias"):
            error = (found[name] - value.grad).norm()
        assert error < 1e-4, name


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_shapes_agree_in_double_precision(data):
    """Outputs and gradients to 1e-11: rounding of float64 through up to four layers."""
    heads = data.draw(st.integers(1, 4))
    config = BertConfig(
        vocab_size=data.draw(st.integers(5, 60)),
        hidden_size=heads * data.draw(st.sampled_from([2, 4, 6])),
        num_hidden_layers=data.draw(st.integers(1, 4)), num_attention_heads=heads,
        intermediate_size=data.draw(st.integers(1, 33)),
        hidden_act=data.draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        max_position_embeddings=data.draw(st.integers(8, 24)),
        type_vocab_size=data.draw(st.integers(1, 3)),
        layer_norm_eps=data.draw(st.sampled_from([1e-12, 1e-5])), initializer_range=0.2)
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    batch, seq = data.draw(st.integers(1, 4)), data.draw(st.integers(1,
                                                                     config.max_position_embeddings))
    lengths = torch.tensor([data.draw(st.integers(1, seq)) for _ in range(batch)])
    # ids from 1: transformers blocks the gradient of [PAD], id 0, which never is a real token
    inputs = {"input_ids": torch.randint(1, config.vocab_size, (batch, seq)),
              "attention_mask": (torch.arange(seq) < lengths[:, None]).long(),
              "token_type_ids": torch.randint(config.type_vocab_size, (batch, seq))}
    ours = BertModel(config).double().eval()
    theirs = reference(ours)
    mask = inputs["attention_mask"]
    out, expected = ours(**inputs), theirs(**inputs)
    assert (out.last_hidden_state - expected.last_hidden_state)[mask.bool()].abs().max() < 1e-11
    assert (out.pooler_output - expected.pooler_output).abs().max() < 1e-11
    scalar_loss(out, mask).backward()
    scalar_loss(expected, mask).backward()
    found = gradients_by_their_name(ours)
    for name, value in theirs.named_parameters():
        assert (found[name] - value.grad).abs().max() < 1e-9 * (1 + value.grad.abs().max()), name


def test_hidden_states_and_attentions_are_the_references(tiny_model):
    theirs = reference(tiny_model)
    ids, mask = torch.randint(5, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    out = tiny_model(ids, mask, output_hidden_states=True, output_attentions=True)
    expected = theirs(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3
    assert len(out.attentions) == 2
    real = mask.bool()
    for ours, other in zip(out.hidden_states, expected.hidden_states, strict=True):
        # float32 rounding of numbers near 1
        torch.testing.assert_close(ours[real], other[real], atol=2e-6, rtol=0)
    for ours, other in zip(out.attentions, expected.attentions, strict=True):
        rows = real[:, None, :, None].expand_as(ours)  # what padding looks at is unspecified
        torch.testing.assert_close(ours[rows], other[rows], atol=2e-6, rtol=0)
    assert out.keys() == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert tiny_model(ids, mask).keys() == ["last_hidden_state", "pooler_output"]


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_encode_gives_one_vector_a_sentence_in_input_order(real_model, real_tokenizer, pooling):
    sentences = [*SENTENCES, "", *SECONDS]
    vectors = real_model.encode(sentences, real_tokenizer, pooling, batch_size=2)
    assert vectors.shape == (7, 384)
    for sentence, vector in zip(sentences, vectors, strict=True):
        with torch.no_grad():
            out = real_model(**real_tokenizer([sentence]))
        by_hand = {"mean": out.last_hidden_state[0].mean(0), "cls": out.last_hidden_state[0, 0],
                   "pooler": out.pooler_output[0]}[pooling]
        # float32 rounding; no padding can have entered the mean
        torch.testing.assert_close(vector, by_hand, atol=1e-5, rtol=0)


def test_encode_keeps_the_mode_and_draws_no_dropout(tiny_config, real_tokenizer):
    model = BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
                                 intermediate_size=8,
                                 max_position_embeddings=20)).train()
    first, second = (model.encode(["a good film", "x " * 40], real_tokenizer) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert not first.requires_grad
    assert model.encode([], real_tokenizer).shape == (0, 24)
    with pytest.raises(ValueError, match="choose from mean, cls, pooler"):
        model.encode(["a"], real_tokenizer, pooling="max")
    with pytest.raises(ValueError, match="put it in a list"):
        model.encode("a", real_tokenizer)
    small = BertModel(BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1,
                                 num_attention_heads=3))
    with pytest.raises(ValueError, match="has 30522 pieces, the model 50"):
        small.encode(["a"], real_tokenizer)


def test_the_pooler_output_is_that_of_the_stored_reference():
    model, inputs, stored = stored_reference()
    torch.testing.assert_close(model(**inputs).pooler_output, stored["pooler_output"], atol=1e-12,
                               rtol=0)


def test_two_tokens_through_a_tiny_pooler_by_hand():
    """W = [[1, 2], [0, 1]], b = [0.5, −0.5], h = [1, −1]: tanh([−0.5, −1.5])."""
    model = BertModel(BertConfig(vocab_size=3, hidden_size=2, num_hidden_layers=1,
                                 num_attention_heads=1))
    with torch.no_grad():
        model.pooler_dense.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        model.pooler_dense.bias.copy_(torch.tensor([0.5, -0.5]))
    expected = torch.tensor([[math.tanh(-0.5), math.tanh(-1.5)]])
    torch.testing.assert_close(model.pool(torch.tensor([[1.0, -1.0]])), expected, atol=1e-6, rtol=0)


def test_padding_never_changes_real_tokens(tiny_model):
    ids = torch.randint(5, 50, (1, 6))
    alone = tiny_model(ids).last_hidden_state
    padded_ids = torch.cat([ids, torch.randint(5, 50, (1, 4))], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    beside = tiny_model(padded_ids.repeat(2, 1),
                        torch.cat([mask, torch.ones_like(mask)])).last_hidden_state
    # float32 rounding: a longer row may be summed in another order
    torch.testing.assert_close(beside[0, :6], alone[0], atol=2e-6, rtol=0)


def test_padding_may_stand_anywhere_and_a_row_may_be_all_padding(tiny_model):
    theirs = reference(tiny_model)
    ids = torch.randint(5, 50, (3, 7))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 1], [0] * 7])
    out = tiny_model(ids, mask)
    expected = theirs(ids, attention_mask=mask)
    assert (out.last_hidden_state - expected.last_hidden_state)[mask.bool()].abs().max() < 2e-6
    assert torch.isfinite(out.last_hidden_state).all()
    assert torch.isfinite(out.pooler_output).all()


def test_the_plain_forms_give_the_same_model(tiny_model, monkeypatch):
    ids, mask = torch.randint(5, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    fused = tiny_model(ids, mask)
    monkeypatch.setenv("MINBERT_PLAIN", "1")
    plain = tiny_model(ids, mask)
    torch.testing.assert_close(plain.pooler_output, fused.pooler_output, atol=1e-6, rtol=0)


def test_the_output_is_read_and_written_by_key_and_by_attribute(tiny_model):
    out = tiny_model(torch.randint(5, 50, (2, 3)))
    assert out["pooler_output"] is out.pooler_output
    # the course's sanity_check.py assigns by key
    out["last_hidden_state"] = out["last_hidden_state"] * 0
    assert out.last_hidden_state.abs().max() == 0
    with pytest.raises(KeyError, match="logits"):
        out["logits"]
    with pytest.raises(KeyError, match="pooled"):
        out["pooled"] = out.pooler_output


@pytest.mark.parametrize(("arguments", "message"), [
    ((torch.zeros(3, dtype=torch.long),), r"\(batch, seq\)"),
    ((torch.zeros(0, 0, dtype=torch.long),), "at least one sentence"),
    ((torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2)), "attention_mask"),
    ((torch.full((1, 3), 50),), r"input_ids must lie in \[0, 50\), found 50 to 50"),
    ((torch.zeros(1, 3, dtype=torch.long), None, torch.full((1, 3), 2)), "token_type_ids must lie"),
    ((torch.zeros(1, 21, dtype=torch.long),), "21 tokens.*20.*max_length"),
])
def test_unusable_inputs_are_refused_with_what_was_expected(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(*arguments)


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_size": 10, "num_attention_heads": 3}, "not divisible"),
    ({"hidden_act": "swish"}, "choose from gelu, gelu_new, relu"),
    ({"num_hidden_layers": 0}, "at least 1"),
    ({"hidden_dropout_prob": 1.0}, r"\[0, 1\)"),
    ({"vocab_size": "30522"}, "must be int"),
    ({"layer_norm_eps": 0.0}, "above 0"),
])
def test_a_configuration_that_describes_no_bert_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BertConfig(**changes)


def test_random_weights_follow_the_initializer_range():
    model = BertModel(BertConfig(vocab_size=2000, hidden_size=64, num_hidden_layers=1,
                                 num_attention_heads=2,
                                 intermediate_size=64, initializer_range=0.05))
    assert abs(model.embeddings.word_embeddings.weight.std().item() - 0.05) < 1e-3
    assert model.pooler_dense.bias.abs().max() == 0
    assert torch.equal(model.embeddings.layer_norm.weight, torch.ones(64))
