"""Lesson 17: where pretrained weights come from.

Hide some words of a text, let the model guess them, and it learns the language from the text alone (Devlin et al. 2018,
section 3.1). You learn what is hidden and what stands in its place, why the guesses are scored at hidden places only,
how running text becomes sequences, of one segment or two, what text that comes twice teaches, and that a run goes on
after an interruption as if nothing had happened.
"""

import copy
import dataclasses
import gzip
import io
import json
import lzma
import math
import random
import re
import shutil
import signal
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minbert
from minbert import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel, BertTokenizer, Masked, Masking, Packing
from minbert.checkpoints.hub import resolve
from minbert.checkpoints.pretrained import file_names
from minbert.mlm import HEAD_NAMES, NO_LABEL
from multitask import pretrain
from multitask.data.course import read_examples
from multitask.data.multinli import FILES, read_multinli
from multitask.pretraining import run as pretraining
from multitask.pretraining.corpus import Corpus, read_passages, split_passages
from multitask.pretraining.segments import SegmentPairs, TextTwice
from multitask.pretraining.step import Batch, MaskedTrainer, Segments, draw_attentive, losses_of, set_dropout
from multitask.reports.figures import pretraining_curves
from multitask.runs.run import build_model
from multitask.runs.settings import Settings
from multitask.tasks import STS, TASKS

# ---------------------------------------------------------------------------------------------------------- the model


@pytest.fixture
def model(tiny_config) -> BertForMaskedLM:
    """In eval mode, all biases away from 0, so that none can be forgotten unseen."""
    model = BertForMaskedLM(tiny_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.fixture
def padded() -> dict[str, torch.Tensor]:
    """Two sentences of 9 and 6 tokens, with token types, and labels at a few places."""
    labels = torch.full((2, 9), NO_LABEL)
    labels[0, [1, 4]], labels[1, 2] = torch.tensor([7, 8]), 9
    return {"input_ids": torch.randint(5, 50, (2, 9)), "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3]),
            "token_type_ids": torch.tensor([[0] * 5 + [1] * 4] * 2), "labels": labels}


def running(masked: Masked, packing: Packing) -> Batch:
    """All of token type 0."""
    return Batch(masked, packing, Segments(torch.zeros_like(masked.input_ids), None))


def opened_by_transformers(model: BertForMaskedLM, folder) -> transformers.BertForMaskedLM:
    model.save_pretrained(folder)
    return transformers.BertForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()


def test_logits_loss_and_gradients_are_those_of_transformers(model, padded, tmp_path):
    theirs = opened_by_transformers(model, tmp_path)
    ours, reference = model(**padded), theirs(**padded)
    real = padded["attention_mask"].bool()
    # float32 rounding through two layers
    torch.testing.assert_close(ours.logits[real], reference.logits[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["loss"], reference.loss, atol=1e-5, rtol=0)
    ours.loss.backward()
    reference.loss.backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters()}
    for name, value in model.named_parameters():
        if "pooler" in name:
            assert value.grad is None
            continue
        names = ([HEAD_NAMES[name]] if name in HEAD_NAMES else
                 [f"bert.{theirs_name}" for theirs_name in file_names(name.removeprefix("encoder."))])
        for their_name, rows in zip(names, value.grad.chunk(len(names)), strict=True):
            torch.testing.assert_close(rows, gradients[their_name], atol=1e-5, rtol=0, msg=their_name)


def test_what_transformers_saves_we_open_with_the_same_logits(model, padded, tmp_path):
    theirs = opened_by_transformers(model, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = BertForMaskedLM.from_pretrained(tmp_path / "theirs")
    assert not again.training
    assert torch.equal(again(**padded).logits, model(**padded).logits)


def test_the_same_folder_opens_as_an_encoder_with_its_pooler(model, padded, tmp_path):
    model.save_pretrained(tmp_path)
    del padded["labels"]
    encoder = BertModel.from_pretrained(tmp_path)  # a missing pooler would warn, and warnings are errors here
    assert torch.equal(encoder(**padded).pooler_output, model.encoder(**padded).pooler_output)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    # float32 rounding
    torch.testing.assert_close(theirs(**padded).pooler_output, encoder(**padded).pooler_output, atol=1e-5, rtol=0)


def test_a_checkpoint_without_the_head_starts_from_a_random_one_and_says_so(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no masked-language-model head"):
        model = BertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(model.encoder.pooler_dense.weight, tiny_model.pooler_dense.weight)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("cls.predictions.transform.dense.bias", None, "lacks 1 tensors of the masked-language-model head"),
    ("cls.predictions.bias", torch.zeros(3), r"cls\.predictions\.bias has shape \(3,\).*\(50,\)"),
    ("cls.predictions.decoder.weight", torch.zeros(50, 24), r"decoder\.weight differs.*only a tied head"),
])
def test_a_head_that_does_not_fit_is_named(model, tmp_path, name, value, message):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        BertForMaskedLM.from_pretrained(tmp_path)


def test_half_precision_halves_the_file_and_rounds_each_weight_once(model, tmp_path):
    model.save_pretrained(tmp_path / "fp32")
    model.save_pretrained(tmp_path / "fp16", torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("fp32", "fp16")]
    weights = 4 * sum(value.numel() for value in model.parameters())
    assert sizes[0] - sizes[1] == pytest.approx(weights / 2, abs=8)  # the header is filled up to 8 bytes
    again = BertForMaskedLM.from_pretrained(tmp_path / "fp16")
    assert torch.equal(again.decoder_bias, model.decoder_bias.half().float())


def test_masks_are_filled_with_what_the_logits_say():
    """Each [MASK] of each sentence, padded or not, in the order of probability."""
    tokenizer = BertTokenizer.train(["a dog runs and two cats sleep"], 60)
    model = BertForMaskedLM(BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=1,
                                       num_attention_heads=3, intermediate_size=40, initializer_range=0.3)).eval()
    sentences = ["a [MASK] runs", "two [MASK] and a [MASK] sleep"]
    filled = model.fill_masks(sentences, tokenizer, count=2)
    assert [len(of_sentence) for of_sentence in filled] == [1, 2]
    alone = model(**tokenizer(sentences[:1])).logits[0, 2].detach().softmax(0)
    piece, share = filled[0][0][0]
    assert tokenizer.vocabulary[piece] == int(alone.argmax())
    assert share == pytest.approx(float(alone.max()), abs=1e-6)  # padding changes sums only by rounding
    assert filled[0][0][0][1] >= filled[0][0][1][1]
    with pytest.raises(ValueError, match=r"nothing to guess in 'a dog'"):
        model.fill_masks(["a dog"], tokenizer)


def test_scores_at_masked_places_alone_give_the_loss_and_gradients_of_scoring_everything(model):
    """The fast way: sentences of 7, 12 and 7 tokens in a row, 5 of the 26 hidden."""
    lengths = [7, 12, 7]
    row, positions = torch.randint(5, 50, (26,)), torch.tensor([1, 8, 9, 15, 20])
    names = [name for name, _ in model.named_parameters() if "pooler" not in name]
    masked, packing = Masked(row, positions, torch.tensor([6, 7, 8, 9, 10])), Packing.from_lengths(lengths)
    labels = torch.full((26,), NO_LABEL).index_copy(0, positions, masked.labels)
    types = torch.randint(0, 2, (26,))
    every = model(packing.pad(row), packing.mask, packing.pad(types), packing.pad(labels + 100) - 100).loss
    expected = torch.autograd.grad(every, [model.get_parameter(name) for name in names])
    batch = Batch(masked, packing, Segments(types, None))
    loss = losses_of(model, batch)["loss"]
    # float32 rounding
    torch.testing.assert_close(loss, every, atol=1e-6, rtol=0)
    set_dropout(model, 0.0)  # as pretraining does, and a step is in training mode
    trainer = MaskedTrainer(model, lr=0.0, weight_decay=0.0, clip=0.0, precision="fp32")
    trainer.step(batch)
    gradients = dict(zip(trainer.flat.parameters, trainer.flat.views(trainer.gradients.matrix[0]), strict=True))
    assert set(names) == set(gradients)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def loss_on_doubled_tokens(model: BertForMaskedLM, steps: int) -> float:
    """Of the last 20 steps, on rows x x y y z z …: a hidden token is known to whoever looks at its neighbour."""
    set_dropout(model, 0.0)
    trainer = MaskedTrainer(model, lr=1e-3, weight_decay=0.01, clip=1.0, precision="fp32")
    masking, generator, found = dataclasses.replace(PLAIN, vocab_size=50), torch.Generator().manual_seed(1), []
    for step in range(steps):
        row = torch.randint(5, 50, (16, 8), generator=generator).repeat_interleave(2, 1).flatten()
        masked = masking(row, generator)
        batch = running(masked, Packing.from_lengths([16] * 16))
        found.append(trainer.step(batch, min(1, (step + 1) / 20))["loss"])
    return sum(found[-20:]) / 20


def test_a_model_drawn_attentive_learns_at_once_to_look_at_its_neighbours():
    """Guessing without looking costs a little less than ln 45 = 3.81, for a tenth is not hidden. Weights of N(0, 0.02²)
    stay there."""
    config = BertConfig(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=128, max_position_embeddings=16)
    torch.manual_seed(0)
    as_devlin, attentive = BertForMaskedLM(config), BertForMaskedLM(config)
    draw_attentive(attentive)
    assert loss_on_doubled_tokens(as_devlin, 140) > 3.6
    assert loss_on_doubled_tokens(attentive, 140) < 3.2


def test_heads_of_the_first_layer_drawn_attentive_look_at_a_neighbour_each_masked_tokens_too():
    """At the tokens 1 before, 1 after, 2 before, 2 after, and not at themselves; a third of the row is [MASK]."""
    length, drawn = 64, torch.Generator().manual_seed(0)
    config = BertConfig(vocab_size=500, hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=128, max_position_embeddings=length)
    torch.manual_seed(0)
    model = BertForMaskedLM(config).eval()
    draw_attentive(model)
    row = torch.randint(5, 500, (1, length), generator=drawn)
    row[torch.rand(1, length, generator=drawn) < 1 / 3] = 4
    weights = model.encoder(row, output_attentions=True).attentions[0][0].detach()
    inner = torch.arange(4, length - 4)
    for head, shift in enumerate([-1, 1, -2, 2]):
        assert float(weights[head, inner, inner + shift].mean()) > 0.9
        assert float(weights[head, inner, inner].mean()) < 0.1


@pytest.mark.parametrize(("hidden", "heads"), [(1, 1), (3, 1), (6, 2), (30, 3), (10, 10)])
def test_any_shape_can_be_drawn_attentive(hidden, heads):
    config = BertConfig(vocab_size=50, hidden_size=hidden, num_hidden_layers=1, num_attention_heads=heads,
                        intermediate_size=8, max_position_embeddings=8)
    model = BertForMaskedLM(config)
    draw_attentive(model)
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def test_both_tasks_logits_loss_and_gradients_are_those_of_transformers(tiny_config, padded, tmp_path):
    model = BertForPreTraining(tiny_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(tmp_path)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path, attn_implementation="eager").eval()
    padded["next_sentence_label"] = torch.tensor([1, 0])
    ours, reference = model(**padded), theirs(**padded)
    real = padded["attention_mask"].bool()
    # float32 rounding through two layers
    torch.testing.assert_close(ours.prediction_logits[real], reference.prediction_logits[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.seq_relationship_logits, reference.seq_relationship_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.loss, reference.loss, atol=1e-5, rtol=0)
    ours.loss.backward()
    reference.loss.backward()
    torch.testing.assert_close(model.seq_relationship.weight.grad, theirs.cls.seq_relationship.weight.grad, atol=1e-5,
                               rtol=0)
    torch.testing.assert_close(model.encoder.pooler_dense.weight.grad, theirs.bert.pooler.dense.weight.grad, atol=1e-5,
                               rtol=0)
    again = BertForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(again(**padded).seq_relationship_logits, ours.seq_relationship_logits)
    del padded["next_sentence_label"]
    assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path)(**padded).logits, ours.prediction_logits)


def test_both_tasks_in_a_packed_row_are_those_of_the_padded_grid(tiny_config, padded):
    model = BertForPreTraining(tiny_config).eval()
    ids, types, mask = (padded[name] for name in ("input_ids", "token_type_ids", "attention_mask"))
    packing = Packing.from_mask(mask)
    out = model(ids, mask, types)
    masked = Masked(packing.unpad(ids), torch.tensor([1, 4, 11]), torch.tensor([7, 8, 9]))
    logits, relationship = model.packed_logits(masked, packing, packing.unpad(types))
    # float32 rounding
    torch.testing.assert_close(logits, packing.unpad(out.prediction_logits)[masked.positions], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(relationship, out.seq_relationship_logits, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_without_the_second_tasks_head_or_pooler_starts_from_random_ones_and_says_so(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no next-sentence head") as warned:
        BertForPreTraining.from_pretrained(tmp_path)
    assert len(warned) == 1
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "pooler" not in name}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="has no pooler"), pytest.warns(UserWarning, match="no next-sentence head"):
        BertForPreTraining.from_pretrained(tmp_path)
    BertForMaskedLM.from_pretrained(tmp_path)  # which never looks at it


# ------------------------------------------------------------------------------------------------------------ masking

VOCABULARY = 1000
SPECIALS = torch.arange(VOCABULARY) < 5  # [PAD] [UNK] [CLS] [SEP] [MASK]
PLAIN = Masking(SPECIALS, torch.zeros(VOCABULARY, dtype=torch.bool), mask_id=4, vocab_size=VOCABULARY)
# pieces from 500 on go on with the word before them
WORDS = dataclasses.replace(PLAIN, continues=torch.arange(VOCABULARY) >= 500)


def test_of_all_tokens_15_percent_are_chosen_and_of_these_80_10_10_hidden_replaced_kept():
    row = torch.randint(5, VOCABULARY, (100_000,))
    masked = PLAIN(row, torch.Generator().manual_seed(1))
    assert len(masked.positions) == 15_000
    assert torch.equal(masked.labels, row[masked.positions])
    shown = masked.input_ids[masked.positions]
    hidden, kept = (shown == 4), (shown == masked.labels)
    # Four standard deviations of a binomial share of 15,000: 0.0131 and 0.0098. By chance a random piece is the old
    # one or [MASK] once in a thousand times.
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.0131)
    assert float(kept.float().mean()) == pytest.approx(0.1, abs=0.0098)
    drawn = shown[~hidden & ~kept]
    assert len(drawn) / 15_000 == pytest.approx(0.1, abs=0.0098)
    # uniform over the vocabulary: the mean of n draws has standard deviation 289/√n
    assert float(drawn.float().mean()) == pytest.approx(499.5, abs=4 * 289 / math.sqrt(len(drawn)))


def test_all_that_is_not_chosen_stays_as_it_is_and_so_does_the_input():
    row = torch.randint(5, VOCABULARY, (400,))
    before = row.clone()
    masked = PLAIN(row, torch.Generator().manual_seed(1))
    untouched = torch.ones(400, dtype=torch.bool).index_fill(0, masked.positions, False)
    assert torch.equal(masked.input_ids[untouched], row[untouched])
    assert torch.equal(row, before)


def test_masks_are_new_at_every_call_and_the_same_for_the_same_seed():
    row, generator = torch.randint(5, VOCABULARY, (400,)), torch.Generator().manual_seed(1)
    first, second = PLAIN(row, generator), PLAIN(row, generator)
    again = PLAIN(row, torch.Generator().manual_seed(1))
    assert not torch.equal(first.positions, second.positions)
    assert torch.equal(first.input_ids, again.input_ids)


@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=60), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_special_tokens_are_never_chosen_and_words_whole_or_not_at_all(ids, seed, whole_words):
    row = torch.tensor(ids)
    chosen = (WORDS if whole_words else PLAIN)(row, torch.Generator().manual_seed(seed)).positions.tolist()
    assert chosen == sorted(set(chosen))
    free = [place for place, piece in enumerate(ids) if piece >= 5]
    assert set(chosen) <= set(free)
    assert bool(chosen) == bool(free)
    if not whole_words:
        assert len(chosen) == (max(1, round(0.15 * len(free))) if free else 0)
    else:
        for place in free:
            if ids[place] >= 500 and place - 1 in free:
                assert (place in chosen) == (place - 1 in chosen)


def test_a_word_of_three_pieces_is_chosen_with_all_of_them():
    """[CLS] ##a b ##c ##d e [SEP]: words ##a (its beginning was cut off), b ##c ##d, e; 0.15 · 5 tokens rounds to 1."""
    row = torch.tensor([2, 501, 10, 502, 503, 11, 3])
    seen = {tuple(WORDS.choose(row, torch.Generator().manual_seed(seed)).tolist()) for seed in range(50)}
    assert seen == {(1,), (2, 3, 4), (5,)}


def test_every_token_is_as_likely_as_any_other():
    row, generator = torch.randint(5, VOCABULARY, (20,)), torch.Generator().manual_seed(2)
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[PLAIN.choose(row, generator)] += 1
    assert int(counts.sum()) == 3 * 2000  # 15 % of 20 tokens
    # 4.5 standard deviations of a binomial with 2,000 trials of 0.15: 16 each
    assert float((counts - 300).abs().max()) < 72


def test_the_tokenizers_own_vocabulary_says_what_is_special_and_what_goes_on():
    tokenizer = BertTokenizer.train(["abab ab b a"], vocab_size=12)
    masking = Masking.of(tokenizer, whole_words=True)
    pieces = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    assert [piece for piece, is_special in zip(pieces, masking.special, strict=True) if is_special] == pieces[:5]
    assert [piece.startswith("##") for piece in pieces] == masking.continues.tolist()
    assert not Masking.of(tokenizer).continues.any()
    assert pieces[masking.mask_id] == "[MASK]"


# ------------------------------------------------------------------------------------------------------------- corpus




def test_plain_gz_and_xz_give_the_same_passages(tmp_path):
    text = "\n\nDer erste Satz.\nEin zweiter: çà et là.\n \n\nAnother passage.\n\n"
    expected = [["Der erste Satz.", "Ein zweiter: çà et là."], ["Another passage."]]
    for ending in (".txt", ".gz", ".xz"):
        path = tmp_path / f"text{ending}"
        opener = {".gz": gzip.open, ".xz": lzma.open}.get(ending, open)
        with opener(path, "wt", encoding="utf-8") as file:
            file.write(text)
        assert read_passages(path) == expected


def test_a_folder_of_the_courses_data_is_its_training_sentences_each_once(small_data, tmp_path):
    """An example's are a passage; MultiNLI's too where it is there; of dev and test files none."""
    passages = read_passages(small_data)
    examples = [example for task in TASKS.values()
                for example in read_examples(small_data / f"{task.file}-train.csv", task)]
    of_nli = read_multinli(small_data, FILES["train"])
    every = [sentence for passage in passages for sentence in passage]
    assert set(every) == {sentence for example in [*examples, *of_nli] for sentence in example.sentences}
    assert len(every) == len(set(every))  # what is held out is not trained on in another example
    assert list(examples[-1].sentences) in passages
    assert set(every).isdisjoint(example.sentences[0] for example in read_examples(small_data / "sts-dev.csv", STS))
    without = shutil.copytree(small_data, tmp_path / "data")
    shutil.rmtree(without / "multinli")
    assert {sentence for passage in read_passages(without) for sentence in passage} == {
        sentence for example in examples for sentence in example.sentences}
    (without / "sts-train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"sts-train\.csv is missing; name a text, or a folder"):
        read_passages(without)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(8, 20), st.floats(0.01, 0.9))
@settings(max_examples=60, deadline=None)
def test_packing_loses_no_token_and_mixes_no_passages(sizes, length, held_out):
    corpus = Corpus(np.arange(sum(sizes), dtype=np.uint16), np.cumsum(sizes))
    passages = split_passages(len(sizes), held_out)
    assert sorted(passages[0] + passages[1]) == list(range(len(sizes)))
    assert min(len(part) for part in passages) >= 1
    spans = np.concatenate([corpus.cut(part, length) for part in passages])
    assert sorted(token for start, end in spans for token in range(start, end)) == list(range(sum(sizes)))
    passage_of = np.repeat(np.arange(len(sizes)), sizes)
    for start, end in spans:
        assert 1 <= end - start <= length - 2
        assert len(set(passage_of[start:end])) == 1
    # full but for the last of each passage
    assert len(spans) == sum(math.ceil(size / (length - 2)) for size in sizes)


def test_a_batch_is_its_sequences_between_cls_and_sep():
    corpus = Corpus(np.array([10, 11, 12, 20, 21], dtype=np.uint16), np.array([3, 5]))
    assert corpus.cut([0, 1], 4).tolist() == [[0, 2], [2, 3], [3, 5]]
    row, packing = corpus.batch(np.array([[2, 3], [3, 5]]), cls_id=2, sep_id=3)
    assert row.tolist() == [2, 12, 3, 2, 20, 21, 3]
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3]


def test_tokenized_passages_are_the_tokenizers_own_and_come_back_from_the_disk(tmp_path):
    passages = [["the old dog", "a cat"], ["an old cat"]]
    tokenizer = BertTokenizer.train([line for passage in passages for line in passage], vocab_size=60)
    corpus = Corpus.tokenize(passages, tokenizer)
    corpus.save(tmp_path / "corpus.safetensors")
    again = Corpus.load(tmp_path / "corpus.safetensors", tokenizer.vocab_size)
    for found in (corpus, again):
        for number, passage in enumerate(passages):
            start = found.ends[number - 1] if number else 0
            inner = [piece for line in tokenizer.encode(passage) for piece in line.ids[1:-1]]
            assert found.ids[start:found.ends[number]].tolist() == inner


PIECES = BertTokenizer.train([". ! ? a"], 20)
FIRST = 100  # ids of the corpora below: a piece's place in the corpus and this, unless it is a full stop


def numbered_corpus(sizes: list[int], stops: list[int]) -> Corpus:
    ids = np.arange(sum(sizes)) + FIRST
    ids[[stop % len(ids) for stop in stops]] = PIECES.vocabulary["."]
    return Corpus(ids.astype(np.uint16), np.cumsum(sizes))


def place(corpus: Corpus, pieces: list[int]) -> tuple[int, int] | None:
    """From where to where a segment stands in the corpus; None if it is of full stops alone."""
    start = next((piece - FIRST - number for number, piece in enumerate(pieces) if piece >= FIRST), None)
    if start is None:
        return None
    assert corpus.ids[start:start + len(pieces)].tolist() == pieces
    return start, start + len(pieces)


@given(st.lists(st.integers(0, 60), max_size=8), st.lists(st.integers(0, 500), max_size=30),
       st.integers(8, 30), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_the_second_segment_follows_the_first_or_is_from_elsewhere_as_its_label_says(sizes, stops, length, seed):
    sizes = [7, 2, *sizes, 9]  # others may be empty
    corpus = numbered_corpus(sizes, stops)
    text = SegmentPairs(corpus, range(1, len(sizes)), length, PIECES)  # the first passage is not among them
    chosen, cls, sep = np.arange(len(text.sequences)), PIECES.vocabulary["[CLS]"], PIECES.vocabulary["[SEP]"]
    row, packing, (types, labels) = text.batch(chosen, np.random.default_rng(seed))
    passage_of = np.repeat(np.arange(len(sizes)), sizes)
    for sequence, sequence_types, label in zip(row.split(packing.lengths.tolist()), types.split(
            packing.lengths.tolist()), labels.tolist(), strict=True):
        pieces = sequence.tolist()
        assert len(pieces) <= length
        middle = pieces.index(sep)
        assert (pieces[0], pieces[-1], pieces.count(sep)) == (cls, sep, 2)
        assert sequence_types.tolist() == [0] * (middle + 1) + [1] * (len(pieces) - middle - 1)
        first, second = place(corpus, pieces[1:middle]), place(corpus, pieces[middle + 1:-1])
        assert min(middle - 1, len(pieces) - middle - 2) >= 1
        if first is None or second is None:
            continue
        for start, end in (first, second):
            assert len(set(passage_of[start:end])) == 1
            assert passage_of[start] > 0
        if label == 0:
            assert first[1] == second[0]
        else:
            assert passage_of[first[0]] != passage_of[second[0]]


def test_segments_begin_with_a_sentence_where_there_is_one_and_are_other_ones_each_time():
    """Sentences of 7 pieces, the last a full stop; sequences hold 57 pieces at most, so never less than one end."""
    corpus = numbered_corpus([700, 700], list(range(6, 1400, 7)))
    text = SegmentPairs(corpus, [0, 1], 60, PIECES)
    seen, labels, short = set(), [], 0
    for seed in range(40):
        row, packing, segments = text.batch(np.arange(24), np.random.default_rng(seed))
        labels += segments.labels.tolist()
        short += int((packing.lengths < 60).sum())
        for sequence in row.split(packing.lengths.tolist()):
            pieces = sequence.tolist()
            start, _ = place(corpus, pieces[pieces.index(PIECES.vocabulary["[SEP]"]) + 1:-1]) or (0, 0)
            seen.add(start)
            assert start % 7 == 0 or len(pieces) < 60  # a sequence cut short may hold no end of a sentence
    assert len(seen) > 150  # of 200 beginnings of sentences
    # four standard deviations of a binomial share of 960
    assert sum(labels) / len(labels) == pytest.approx(0.5, abs=0.065)
    assert 0.05 < short / len(labels) < 0.25  # a passage's last sequences and what ends with it are short too


def test_text_of_another_passage_needs_one():
    with pytest.raises(ValueError, match=r"from another passage, but all the text is of one"):
        SegmentPairs(numbered_corpus([40, 40], []), [1], 12, PIECES)


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(8, 30), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_a_sequence_is_running_text_or_two_windows_on_one_piece_of_it(sizes, length, seed):
    sizes = [7, 1, *sizes, 9]  # others may be empty
    text = TextTwice(numbered_corpus(sizes, []), range(1, len(sizes)), length, PIECES)
    row, packing, (types, labels) = text.batch(np.arange(len(text.sequences)), np.random.default_rng(seed))
    assert labels is None
    sep, lengths = PIECES.vocabulary["[SEP]"], packing.lengths.tolist()
    for sequence, its_types, span in zip(row.split(lengths), types.split(lengths), text.sequences.tolist(),
                                         strict=True):
        pieces, whole = sequence.tolist(), [FIRST + number for number in range(*span)]
        assert len(pieces) <= length
        assert (pieces[0], pieces[-1]) == (PIECES.vocabulary["[CLS]"], sep)
        middle = pieces.index(sep)
        assert its_types.tolist() == [0] * (middle + 1) + [1] * (len(pieces) - middle - 1)
        if middle == len(pieces) - 1:
            assert pieces[1:-1] == whole
            continue
        assert pieces.count(sep) == 2
        windows, widest = (pieces[1:middle], pieces[middle + 1:-1]), (length - 3) // 2
        for window in windows:
            assert window
            assert window == [piece for piece in whole if piece in window]  # in order, some left out
            assert window[-1] - window[0] < widest
        assert max(map(max, windows)) - min(map(min, windows)) < widest + widest // 2


def test_most_of_what_one_segment_says_stands_in_the_other_too():
    """Windows of w tokens, one w/4 later on average, each without a fifth of its tokens: .75 · .8 = .6 are in both."""
    text = TextTwice(numbered_corpus([25_000] * 2, []), range(2), 500, PIECES)
    both, tokens, first_begins, inside, left_out, pairs, count = 0, 0, [], 0, 0, 0, 0
    for seed in range(20):
        row, packing, _ = text.batch(np.arange(len(text.sequences)), np.random.default_rng(seed))
        for sequence in row.split(packing.lengths.tolist()):
            pieces = sequence.tolist()
            middle = pieces.index(PIECES.vocabulary["[SEP]"])
            first, second = pieces[1:middle], pieces[middle + 1:-1]
            count += 1
            if not second:
                continue
            pairs += 1
            both, tokens = both + len(set(first) & set(second)), tokens + len(first)
            if first[0] != second[0]:
                first_begins.append(first[0] < second[0])
            inside += first[-1] - first[0] - 1  # between its ends, which are there by definition
            left_out += first[-1] - first[0] + 1 - len(first)
    # four standard deviations, of 2,000 sequences and of 1,000 pairs, whose shares deviate by .15 and .12
    assert count > 2000
    assert pairs / count == pytest.approx(0.5, abs=0.045)
    assert statistics.mean(first_begins) == pytest.approx(0.5, abs=0.065)
    assert both / tokens == pytest.approx(0.6, abs=0.02)
    assert left_out / inside == pytest.approx(0.2, abs=0.015)


# ------------------------------------------------------------------------------------------------------------ the run

TINY = ["--layers", "1", "--hidden", "32", "--heads", "2", "--vocab-size", "200", "--length", "24",
        "--batch-size", "16", "--lr", "1e-2", "--held-out", "0.1", "--dropout", "0.05", "--steps", "60",
        "--checkpoint-every", "30"]
SOUNDS = {"cat": "meows", "dog": "barks", "bird": "sings", "cow": "moos"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """40 passages of 12 sentences of 11 words: two of these to a sequence; the seventh follows from the fifth."""
    choose = random.Random(0).choice
    passages = ["\n".join(f"in the garden a {animal} always {SOUNDS[animal]} before it falls asleep"
                          for animal in (choose(list(SOUNDS)) for _ in range(12))) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text("\n\n".join(passages))
    return path


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run of 60 steps with dropout, evaluated and saved every 30."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    assert pretrain.main(["--text", str(text), "--out", str(folder), *TINY]) == 0
    return folder


def events(folder, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_tiny_model_learns_a_repetitive_text(finished):
    """Uniform guessing costs ln 92 = 4.5. Of 11 words 9 are always the same: who knows these and draws the animal and
    its sound by lot pays 2/11 · ln 4 = 0.25."""
    scores = events(finished, "evaluation")
    assert [score["step"] for score in scores] == [0, 30, 60]
    assert math.log(scores[0]["perplexity"]) > 4
    assert math.log(scores[-1]["perplexity"]) < 0.5
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["masked_accuracy"] == scores[-1]["masked_accuracy"] > 3 * metrics["trivial_accuracy"]
    losses = [step["loss"] for step in events(finished, "step")]
    assert len(losses) == metrics["steps"] == 60
    assert max(losses[-10:]) < 0.25 * losses[0]


def test_guesses_of_held_out_text_are_printed_and_shown_in_the_report(finished, text, tmp_path, capsys):
    """What was hidden is a word of the text, and what is guessed there for the most part the right one."""
    assert pretrain.main(["--text", str(text), "--out", str(tmp_path / "again"), *TINY]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "guesses:" in line]
    assert len(printed) == 3
    page = (finished / "report.html").read_text()
    right = 0
    for line in printed:
        hidden, likeliest = re.search(r"<(\w+)> .*guesses: (\w+) ", line).groups()
        assert hidden in text.read_text()
        assert f"<td>{hidden}</td>" in page
        right += hidden == likeliest
    assert right >= 2
    assert page.count("<img") == 1
    assert "On text that was held out, perplexity 1." in page


def test_the_curve_stands_where_steps_were_skipped_and_where_the_loss_went_astray():
    """Of 4 steps the last was left out; the perplexity of the third is what evaluation reports at most."""
    steps = [{"step": step, "loss": 800.0, "tokens": 100} for step in (1, 2, 3)]
    evaluations = [{"step": 0, "perplexity": 50.0}, {"step": 3, "perplexity": math.exp(700)},
                   {"step": 4, "perplexity": 60.0}]
    figure = pretraining_curves(steps, evaluations)
    figure.savefig(io.BytesIO(), format="svg")
    training, held_out = figure.axes[0].lines
    assert held_out.get_xdata().tolist() == pytest.approx([0, 3e-4, 3e-4])  # millions of tokens
    assert held_out.get_ydata().tolist() == pytest.approx([50, math.exp(50), 60])
    assert training.get_xdata().tolist() == pytest.approx([1e-4, 2e-4, 3e-4])


def test_always_guessing_the_most_frequent_piece_is_right_as_often_as_it_stands_there(finished, text):
    """Each of the 11 words of a sentence is a piece, and of all pieces only the constant ones stand in all of them."""
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["most_frequent_piece"] in ("in", "the", "garden", "a", "always", "before", "it", "falls", "asleep")
    # a share of some 80 masked tokens that is 1/11 on average; 4 standard deviations of it
    assert metrics["trivial_accuracy"] == pytest.approx(1 / 11, abs=4 * math.sqrt(1 / 11 * 10 / 11 / 79))
    assert metrics["held_out_tokens_masked"] == round(0.15 * 4 * 12 * 11)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_the_last_step(finished):
    rates = [step["lr"] for step in events(finished, "step")]
    assert rates[:3] == pytest.approx([1e-2 * k / 3 for k in range(1, 4)])  # 5 % of 60
    assert rates[3:] == pytest.approx([1e-2 * (60 - step) / 57 for step in range(3, 60)])


def test_an_interrupted_run_goes_on_to_the_same_bytes(finished, text, tmp_path, interrupted_in_step_40):
    """Stopped in step 40, resumed from step 30: weights and losses are those of the straight run."""
    flags = ["--text", str(text), "--out", str(tmp_path / "run"), *TINY]
    with interrupted_in_step_40():
        assert pretrain.main(flags) == 130
    assert pretrain.main(flags) == 2  # what is there is not overwritten
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0
    for name in ("model.safetensors", "vocab.txt", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes(), name
    for kind, key in (("step", "loss"), ("evaluation", "perplexity")):
        assert [event[key] for event in events(tmp_path / "run", kind)] == [
            event[key] for event in events(finished, kind)]


@pytest.fixture(scope="module")
def pairs(text, tmp_path_factory):
    """A run on two segments, and its flags."""
    folder = tmp_path_factory.mktemp("pairs") / "run"
    flags = ["--text", str(text), *TINY, "--second-segment", "next"]
    assert pretrain.main([*flags, "--out", str(folder)]) == 0
    return folder, flags


def test_both_tasks_are_logged_and_scored(pairs):
    """At first by lot: a loss of ln 2."""
    folder, _ = pairs
    losses = [step["segment_loss"] for step in events(folder, "step")]
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    metrics, scores = json.loads((folder / "metrics.json").read_text()), events(folder, "evaluation")
    assert metrics["segment_accuracy"] == scores[-1]["segment_accuracy"]
    assert scores[-1]["perplexity"] < scores[0]["perplexity"] / 3  # sentences begin anywhere: places tell no words


def test_text_that_comes_twice_trains_both_token_types_and_no_pooler(text, tmp_path, interrupted_in_step_40):
    """And an interrupted run of it goes on to the same bytes."""
    flags = ["--text", str(text), *TINY, "--second-segment", "again"]
    straight, interrupted = tmp_path / "straight", tmp_path / "interrupted"
    assert pretrain.main([*flags, "--out", str(straight)]) == 0
    with interrupted_in_step_40():
        assert pretrain.main([*flags, "--out", str(interrupted)]) == 130
    assert pretrain.main(["--resume", str(interrupted)]) == 0
    assert (interrupted / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert "segment_loss" not in events(straight, "step")[-1]
    scores = events(straight, "evaluation")
    assert scores[-1]["perplexity"] < scores[0]["perplexity"] / 3
    model = BertForMaskedLM.from_pretrained(straight)
    types = model.encoder.embeddings.token_type_embeddings.weight
    assert not torch.equal(types[0], types[1])
    assert not model.encoder.pooler_dense.bias.any()  # as drawn
    assert not any("seq_relationship" in name for name in load_file(straight / "model.safetensors"))


def test_what_belongs_together_is_learnt_by_heart():
    """Twelve sequences, seen again and again."""
    tokenizer = BertTokenizer.train(["red sky. blue sea. a green leaf."], 60)
    words = [["red sky.", "blue sea."] * 20, ["a green leaf."] * 40]
    corpus = Corpus.tokenize(words, tokenizer)
    row, packing, segments = SegmentPairs(corpus, [0, 1], 16, tokenizer).batch(np.arange(12), np.random.default_rng(0))
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2,
                                          num_attention_heads=2, intermediate_size=64, max_position_embeddings=16))
    draw_attentive(model)
    set_dropout(model, 0.0)
    trainer = MaskedTrainer(model, lr=1e-2, weight_decay=0.0, clip=1.0, precision="fp32")
    batch = Batch(Masking.of(tokenizer)(row, torch.Generator().manual_seed(0)), packing, segments)
    found = [trainer.step(batch)["segment_loss"] for _ in range(60)]
    assert 0 < int(segments.labels.sum()) < 12
    assert found[0] > 0.5
    assert found[-1] < 0.1


def test_two_segments_train_the_pooler_and_both_token_types(pairs):
    folder, _ = pairs
    theirs = transformers.BertForPreTraining.from_pretrained(folder).eval()
    ours = BertForPreTraining.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("in the garden", "a cow always moos", return_tensors="pt")
    found = ours(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]).seq_relationship_logits
    # float32 rounding
    torch.testing.assert_close(found, theirs(**inputs).seq_relationship_logits, atol=1e-4, rtol=0)
    types = ours.encoder.embeddings.token_type_embeddings.weight
    assert not torch.equal(types[0], types[1])
    assert float(ours.encoder.pooler_dense.bias.detach().abs().max()) > 1e-3  # 0 when drawn


def test_a_run_on_two_segments_goes_on_to_the_same_bytes(pairs, tmp_path, interrupted_in_step_40):
    straight, flags = pairs
    with interrupted_in_step_40():
        assert pretrain.main([*flags, "--out", str(tmp_path / "run")]) == 130
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_a_run_interrupted_before_its_first_score_goes_on_too(text, tmp_path, monkeypatch):
    """The checkpoint of an interruption says that nothing has been evaluated yet."""
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "evaluate", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert pretrain.main(["--text", str(text), "--out", str(tmp_path / "run"), *TINY, "--steps", "1"]) == 130
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0
    assert [event["step"] for event in events(tmp_path / "run", "evaluation")] == [0, 1]


def test_a_finished_run_says_so(finished, capsys):
    assert pretrain.main(["--resume", str(finished)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_time_limit_stops_the_run_where_it_can_go_on(text, tmp_path, capsys):
    flags = ["--text", str(text), "--out", str(tmp_path / "run"), *TINY, "--steps", "3", "--max-minutes", "1e-9"]
    assert pretrain.main(flags) == 0
    assert "after step 1 of 3" in capsys.readouterr().out
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0
    assert pretrain.main(["--resume", str(tmp_path / "run")]) == 0
    assert len(events(tmp_path / "run", "step")) == 3
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_each_epoch_has_every_sequence_once_in_an_order_of_its_own_and_held_out_text_never(text, tmp_path):
    settings = pretrain.settings_of(pretrain.build_parser().parse_args(
        ["--text", str(text), "--out", str(tmp_path), *TINY]))
    run = pretraining.start(settings, tmp_path, say=lambda line: None)
    run.log.close()
    _, held_out = split_passages(40, 0.1)
    assert len(held_out) == 4
    trained = {tuple(span) for span in run.sequences.tolist()}
    assert not trained & {tuple(span) for span in run.corpus.cut(held_out, settings.length).tolist()}
    seen = []
    for epoch in range(2):
        tokens = []
        for step in range(run.steps_each_epoch):
            masked = run.batch(epoch * run.steps_each_epoch + step).masked
            whole = masked.input_ids.index_copy(0, masked.positions, masked.labels)
            tokens.append(whole)
        seen.append(torch.cat(tokens))
    left_out = len(run.sequences) % settings.batch_size
    assert len(seen[0].eq(2).nonzero()) == len(run.sequences) - left_out  # [CLS] has id 2
    assert not torch.equal(seen[0][:200], seen[1][:200])


def test_a_batch_made_ahead_is_the_steps_own(text, tmp_path):
    """Over the border of an epoch; what goes wrong with it is told in its own step."""
    settings = pretrain.settings_of(pretrain.build_parser().parse_args(
        ["--text", str(text), "--out", str(tmp_path), *TINY, "--second-segment", "next"]))
    run = pretraining.start(settings, tmp_path, say=lambda line: None)
    run.log.close()
    assert 2 < run.steps_each_epoch < 20
    with ThreadPoolExecutor(1) as run._maker:
        for step in range(run.steps_each_epoch + 2):
            run.step = step
            made, own = run._next_batch(), run.batch(run.step)
            assert torch.equal(made.masked.input_ids, own.masked.input_ids)
            assert torch.equal(made.segments.labels, own.segments.labels)
            assert run._ahead[0] == step + 1
        run._ahead[1].result()  # made before what follows
        run._sequences_of = lambda step: 1 / 0
        run.step += 1
        run._next_batch()
        run.step += 1
        with pytest.raises(ZeroDivisionError):
            run._next_batch()


def test_the_folder_serves_as_model_of_the_main_job(finished):
    """Without a warning, which would be an error here: it has a pooler."""
    model = build_model(Settings(arch="concatB", gs="wrap", model=str(finished)), {})
    assert torch.equal(model.encoder.pooler_dense.weight, BertForMaskedLM.from_pretrained(
        finished).encoder.pooler_dense.weight)
    assert len(model.predict_similarity([("a cow", "a cat"), ("a dog", "it falls asleep")])) == 2


def test_the_folder_opens_in_transformers_with_the_same_guesses(finished):
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(finished).eval()
    inputs = tokenizer("in the [MASK] a cow always moos", return_tensors="pt")
    ours = BertForMaskedLM.from_pretrained(finished)(inputs["input_ids"], inputs["attention_mask"]).logits
    # float32 rounding
    torch.testing.assert_close(ours, theirs(**inputs).logits, atol=1e-4, rtol=0)
    assert tokenizer.convert_ids_to_tokens(int(ours[0, 3].argmax())) == "garden"


def test_a_token_type_that_pretraining_never_saw_equals_the_one_it_saw(finished):
    types = BertModel.from_pretrained(finished).embeddings.token_type_embeddings.weight
    assert torch.equal(types[0], types[1])
    assert BertConfig.from_file(finished / "config.json").hidden_dropout_prob == 0.1  # fine-tuning's own


def test_a_checkpoint_is_gone_on_from_with_its_own_shape_vocabulary_and_knowledge(finished, text, tmp_path):
    assert pretrain.main(["--text", str(text), "--out", str(tmp_path / "more"), "--from", str(finished), "--steps", "2",
                          "--length", "24", "--held-out", "0.1", "--save-dtype", "fp16"]) == 0
    assert (tmp_path / "more" / "vocab.txt").read_bytes() == (finished / "vocab.txt").read_bytes()
    assert load_file(tmp_path / "more" / "model.safetensors")["cls.predictions.bias"].dtype == torch.float16
    first, last = events(tmp_path / "more", "evaluation")[0], events(finished, "evaluation")[-1]
    assert first["perplexity"] == pytest.approx(last["perplexity"], rel=1e-5)  # float32 rounding; the masks are fixed
    before, after = (BertModel.from_pretrained(folder).pooler_dense.weight for folder in (finished, tmp_path / "more"))
    assert torch.equal(before.half(), after.half())  # neither trained nor decayed


def test_bf16_trains_to_nearly_the_same_loss(model):
    row, packing = torch.randint(5, 50, (40,)), Packing.from_lengths([20, 20])
    masked = Masked(row, torch.arange(1, 19, 3), row[torch.arange(1, 19, 3)])
    set_dropout(model, 0.0)
    found = [MaskedTrainer(model, 0.0, 0.0, 1.0, precision).step(running(masked, packing))["loss"]
             for precision in ("fp32", "bf16")]
    # bf16 keeps 8 bits: 0.4 % of numbers of size 1, and a loss of 4 is the difference of such
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_a_gradient_longer_than_the_clip_norm_is_shortened_to_it_and_a_shorter_one_stays(model):
    row, packing = torch.randint(5, 50, (20,)), Packing.from_lengths([20])
    masked = Masked(row, torch.tensor([3, 9]), row[[3, 9]])
    set_dropout(model, 0.0)
    norms = []
    for clip in (0.0, 1e-3, 1e3):
        trainer = MaskedTrainer(model, 0.0, 0.0, clip, "fp32")
        trainer.step(running(masked, packing))
        norms.append(float(trainer.gradients.matrix.norm()))
    assert norms[0] > 1e-2
    assert norms[1:] == pytest.approx([1e-3, norms[0]])  # relative 1e-6, float32 rounding of a norm


@pytest.mark.parametrize(("flags", "message"), [
    ([], "--text is missing"),
    (["--text", "no.txt"], "--text no.txt: no such file"),
    (["--text", "{one}"], "holds 1 passages, but at least 2"),
    (["--text", "{latin}"], "is not UTF-8"),
    (["--text", "{broken}"], "cannot be read"),
    (["--text", "{cut}"], "cannot be read"),
    (["--text", "{text}", "--heads", "3"], "--hidden 256 is not divisible by --heads 3"),
    (["--text", "{text}", "--from", "x", "--layers", "2"], "--layers is for a model from scratch"),
    (["--text", "{text}", "--steps", "2", "--epochs", "2"], "give one of them"),
    (["--text", "{text}", "--from", "{finished}"], "--length 128, but"),
    (["--text", "{text}", "--held-out", "1"], "--held-out 1.0: a share"),
    (["--text", "{text}", "--second-segment", "next"], "needs two to train on and two that are held out"),
])
def test_what_cannot_be_run_is_said_in_one_line_and_writes_nothing(text, finished, tmp_path, capsys, flags, message):
    files = {name: tmp_path / name for name in ("one", "latin", "broken.gz", "cut.xz")}
    files["one"].write_text("a single passage\nof two lines\n")
    files["latin"].write_bytes("ein Mädchen\n\nzwei".encode("latin-1"))
    files["broken.gz"].write_bytes(b"not compressed")
    files["cut.xz"].write_bytes(lzma.compress(b"a\n\nb" * 1000)[:-20])
    places = {"text": text, "finished": finished, **{name.split(".")[0]: path for name, path in files.items()}}
    out = tmp_path / "out"
    assert pretrain.main([flag.format(**places) for flag in flags] + ["--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_folder_with_anything_to_lose_is_refused(finished, text, tiny_model, tmp_path, capsys):
    tiny_model.save_pretrained(tmp_path)
    for folder, reason in ((finished, "holds a finished run"), (tmp_path, "holds a model"), (text, "is a file")):
        assert pretrain.main(["--text", str(text), "--out", str(folder)]) == 2
        assert reason in capsys.readouterr().err


def test_every_flag_tells_its_default_and_it_is_the_settings_own():
    defaults = {field.name: field.default for field in dataclasses.fields(pretraining.PretrainingSettings)}
    for action in pretrain.build_parser()._actions:
        value = defaults.get(action.dest, dataclasses.MISSING)
        if value not in (None, False, dataclasses.MISSING):
            said = action.help.rsplit("default: ", 1)[1].rstrip(")").split(";")[0]
            assert (float(said) == value) if isinstance(value, (int, float)) else (said == value), action.dest


# ------------------------------------------------------------------------------------------------ minbert-mini


@pytest.fixture(scope="module")
def mini():
    """With warnings as errors: none says that a head or a pooler is missing."""
    return BertForMaskedLM.from_pretrained("minbert-mini"), BertTokenizer.from_pretrained("minbert-mini")


def test_minbert_mini_comes_with_the_package_small_and_in_fp16(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = resolve("minbert-mini")
    assert folder.parent == Path(minbert.__file__).parent
    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}
    bert = BertModel.from_pretrained("minbert-mini")
    assert 5e6 < sum(value.numel() for value in bert.parameters()) < 6e6
    assert not bert.training


def test_transformers_opens_minbert_mini_with_the_same_vectors(mini):
    """To the last digits that float32 has: ours are as near to double precision as transformers' own."""
    _, tokenizer = mini
    folder, sentences = resolve("minbert-mini"), ["She went to the window.", "No."]
    theirs = transformers.AutoModel.from_pretrained(folder).float().eval()  # the file is fp16
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    ours = tokenizer(sentences)
    assert torch.equal(ours["input_ids"], inputs["input_ids"])
    real = inputs["attention_mask"] == 1
    found = BertModel.from_pretrained("minbert-mini")(**ours).last_hidden_state[real]
    expected, exact = (model(**inputs).last_hidden_state[real] for model in (theirs, copy.deepcopy(theirs).double()))
    ours_off, theirs_off = (float((vectors.detach() - exact.detach()).abs().max()) for vectors in (found, expected))
    assert max(ours_off, theirs_off) < 2e-5  # of numbers up to 10; 1.1e-5 and 0.9e-5 when this was written


def surprise(mini, texts: Sequence[str] | Sequence[tuple[str, str]], words: Sequence[str]) -> float:
    """The mean of -ln of the probability that the model gives a word where its text, or pair, has [MASK]."""
    model, tokenizer = mini
    batch = tokenizer(list(texts))
    likely = model(**batch).logits[batch["input_ids"] == tokenizer.vocabulary["[MASK]"]].log_softmax(-1)
    return -likely[range(len(words)), [tokenizer.vocabulary[word] for word in words]].mean().item()


def test_minbert_mini_uses_the_order_of_words(mini):
    """It is no bag of words: of the same words in another order it makes a worse guess, on average by far."""
    hidden = [("He shook his [MASK] and said nothing.", "head"), ("She opened the [MASK] and went out.", "door"),
              ("It was the first [MASK] I had ever seen him.", "time"), ("They sat down at the [MASK].", "table"),
              ("I do not know what you [MASK].", "mean"), ("He came back to the [MASK] of the house.", "door"),
              ("I am very glad to [MASK] you.", "see"), ("There was no one in the [MASK].", "room")]
    shuffled, order = [], random.Random(0)
    for sentence, _ in hidden:
        words = sentence.rstrip(".").split()
        order.shuffle(words)
        shuffled.append(" ".join(words) + ".")

    sentences, words = zip(*hidden, strict=True)
    in_order, out_of_order = surprise(mini, sentences, words), surprise(mini, shuffled, words)
    assert in_order < math.log(150)  # as unsure as between 150 pieces of 8,192
    assert out_of_order > in_order + 0.5


def test_minbert_mini_finds_a_hidden_word_in_a_sentence_that_says_nearly_the_same(mini):
    """That is what text that comes twice has taught it."""
    hidden = [("A [MASK] stood upon the table.", "lamp"), ("We heard a [MASK] in the forest.", "wolf"),
              ("He wrote a long [MASK] to his brother.", "letter"), ("The old man sold his [MASK].", "horse"),
              ("The [MASK] came to see her in the evening.", "doctor"), ("They lost a [MASK] in the storm.", "ship"),
              ("She gave the child an [MASK].", "apple"), ("The soldier drew his [MASK] at once.", "sword")]
    sentences, words = zip(*hidden, strict=True)
    retold = [sentence.split(" ", 1)[1].replace("[MASK]", word).replace(" the ", " ") for sentence, word in hidden]
    alone, again = surprise(mini, sentences, words), surprise(mini, list(zip(sentences, retold, strict=True)), words)
    assert alone > 3  # nats: with no other sentence, each has a probability of 5 % or less on average
    assert again < 0.1  # 0.03 when this was written; of the weights before, which had read running text alone, 0.25


def test_minbert_mini_is_gone_on_with(text, tmp_path):
    """On a text of one's own, from the name alone."""
    assert pretrain.main(["--text", str(text), "--out", str(tmp_path / "run"), "--from", "minbert-mini", "--length",
                          "32", "--batch-size", "4", "--steps", "2", "--precision", "fp32"]) == 0
    assert BertModel.from_pretrained(tmp_path / "run").config == BertModel.from_pretrained("minbert-mini").config
