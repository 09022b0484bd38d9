"""Lesson 5: from files to a model and back.

A checkpoint is a folder of named tensors. Loading is strict both ways: every tensor of the file is used or known to be
useless, every parameter is filled exactly once. You learn how the file's names map to ours, and that a tokenizer is
part of a checkpoint.
"""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.pretrained import RENAMES, file_names


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder, change):
    """Applies `change` to the dictionary of tensors in the folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_the_rename_table_names_every_parameter_once(tiny_model):
    names = [name for name, _ in tiny_model.named_parameters()]
    files = [file for name in names for file in file_names(name)]
    assert len(files) == len(set(files))
    assert {name.replace(".0.", ".{}.").replace(".1.", ".{}.") for name in names} == set(RENAMES)


def test_a_saved_model_comes_back_bit_for_bit_in_eval_mode(tiny_model, folder):
    again = BertModel.from_pretrained(folder)
    assert again.config == tiny_model.config
    assert not again.training
    for (name, ours), theirs in zip(tiny_model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_transformers_opens_what_we_save(tiny_model, folder):
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    ids, mask = torch.randint(5, 50, (2, 6)), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    # float32 rounding
    torch.testing.assert_close(tiny_model(ids, mask).pooler_output, theirs(ids, attention_mask=mask).pooler_output,
                               atol=1e-6, rtol=0)


def test_queries_keys_and_values_land_in_their_own_rows(real_checkpoint, real_model):
    tensors = load_file(real_checkpoint / "model.safetensors")
    rows = real_model.layers[4].self_attention.query_key_value.weight.chunk(3)
    for part, row in zip(("query", "key", "value"), rows, strict=True):
        assert torch.equal(row, tensors[f"encoder.layer.4.attention.self.{part}.weight"])


def test_a_missing_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"))
    with pytest.raises(ValueError, match=r"model\.safetensors lacks 1 tensors.*encoder\.layer\.1\.output\.dense\.bias"):
        BertModel.from_pretrained(folder)


def test_a_tensor_that_nobody_knows_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"encoder.layer.2.output.dense.bias": torch.zeros(24)}))
    with pytest.raises(ValueError, match=r"does not know.*encoder\.layer\.2\.output\.dense\.bias"):
        BertModel.from_pretrained(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    rewrite(folder, lambda tensors: tensors.update({"pooler.dense.bias": torch.zeros(7)}))
    with pytest.raises(ValueError, match=r"pooler\.dense\.bias has shape \(7,\).*\(24,\)"):
        BertModel.from_pretrained(folder)


def test_what_is_known_to_be_useless_is_ignored(folder):
    useless = {"embeddings.position_ids": torch.arange(20)[None], "cls.predictions.bias": torch.zeros(50)}
    rewrite(folder, lambda tensors: tensors.update(useless))
    BertModel.from_pretrained(folder)


def test_a_file_that_is_no_safetensors_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors file"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_checkpoint_says_what_it_lacks(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "roberta"}, "model_type is 'roberta'.*'bert'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder"),
    ({"hidden_act": "silu"}, "hidden_act 'silu'"),
    ({"hidden_size": 25}, "not divisible"),
])
def test_a_configuration_of_another_model_is_refused_with_the_files_name(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        BertModel.from_pretrained(folder)


def test_a_misspelt_key_is_not_silently_replaced_by_a_default():
    with pytest.raises(ValueError, match="'hidden_sizes': did you mean 'hidden_size'"):
        BertConfig.from_dict({"hidden_sizes": 384})
    assert BertConfig.from_dict({"hidden_size": 384, "_name_or_path": "x", "use_cache": True}).hidden_size == 384


def test_broken_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        BertModel.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------ the tokenizer


def test_pairs_have_token_types_and_padding_stands_at_the_end(real_tokenizer):
    batch = real_tokenizer(["a film", "no"], ["good", "why not"])
    assert batch["input_ids"].tolist() == [[101, 1037, 2143, 102, 2204, 102], [101, 2053, 102, 2339, 2025, 102]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    single = real_tokenizer(["a film", "no"])
    assert single["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert single["input_ids"][1, 3] == 0


def test_the_files_own_truncation_and_padding_are_switched_off(real_checkpoint, real_tokenizer):
    assert '"max_length":128' in (real_checkpoint / "tokenizer.json").read_text()
    assert real_tokenizer(["film " * 300])["input_ids"].shape == (1, 302)


@pytest.mark.parametrize(("first", "second", "lengths"), [(9, 2, (3, 2)), (2, 9, (2, 3)), (9, 9, None), (1, 1, (1, 1))])
def test_pairs_are_truncated_longest_first_as_the_reference_does(real_checkpoint, real_tokenizer, first, second,
                                                                  lengths):
    theirs = transformers.BertTokenizerFast.from_pretrained(real_checkpoint)
    a, b = "one " * first, "two " * second
    ours = real_tokenizer([a], [b], max_length=8)
    expected = theirs([a], [b], truncation="longest_first", max_length=8)
    assert ours["input_ids"].tolist() == expected["input_ids"]
    assert ours["token_type_ids"].tolist() == expected["token_type_ids"]
    if lengths:
        ids = ours["input_ids"][0].tolist()
        assert (ids.count(2028), ids.count(2048)) == lengths


def test_vocab_txt_and_tokenizer_json_give_the_same_ids(real_checkpoint, real_tokenizer, tmp_path):
    shutil.copy(real_checkpoint / "vocab.txt", tmp_path)
    again = BertTokenizer.from_pretrained(tmp_path)
    texts = ["Crème brûlée costs $3.50!", "日本 語", "a\u0301 \ufffd\u200b", "x" * 101, "", "[SEP] [MASK]"]
    assert torch.equal(again(texts)["input_ids"], real_tokenizer(texts)["input_ids"])


def test_a_cased_vocabulary_keeps_case_and_accents(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Été", "ete", "é"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert BertTokenizer.from_pretrained(tmp_path)(["Été ete É"])["input_ids"].tolist() == [[2, 5, 6, 1, 3]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert BertTokenizer.from_pretrained(tmp_path)(["Été ete É"])["input_ids"].tolist() == [[2, 6, 6, 1, 3]]


def test_a_saved_tokenizer_opens_here_and_in_transformers(real_tokenizer, tmp_path):
    real_tokenizer.save_pretrained(tmp_path)
    texts = ["A gorgeous, witty film.", "Crème brûlée?"]
    expected = real_tokenizer(texts)["input_ids"]
    assert torch.equal(BertTokenizer.from_pretrained(tmp_path)(texts)["input_ids"], expected)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(theirs(texts, return_tensors="pt", padding=True)["input_ids"], expected)


def test_a_vocabulary_is_learnt_the_same_every_time():
    """Few words, many ties: left to itself, the trainer breaks them differently from call to call."""
    texts = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice", "is it any good"]
    tokenizers = [BertTokenizer.train(texts, 80) for _ in range(5)]
    vocabularies = [[tokenizer.encode([piece])[0].ids for piece in "abcdefghilmnostuvwy"] +
                    [tokenizer.encode(texts)[row].ids for row in range(5)] for tokenizer in tokenizers]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    assert tokenizers[0].vocab_size <= 80
    assert (tokenizers[0](texts)["input_ids"] == 1).sum() == 0  # no [UNK] on its own texts


def test_unusable_tokenizer_input_is_refused(real_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="list of sentences"):
        real_tokenizer("a film")
    with pytest.raises(ValueError, match="1 sentences, but 2 pair sentences"):
        real_tokenizer(["a"], ["b", "c"])
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json or vocab\.txt"):
        BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary lacks \[PAD\]"):
        BertTokenizer.from_pretrained(tmp_path)


def test_every_sentence_of_the_course_files_gets_the_references_ids(course_data, real_checkpoint, real_tokenizer):
    """SST, Quora and STS, all splits: ids and token types, pairs as pairs."""
    from multitask.data import load_dataset

    theirs = transformers.BertTokenizerFast.from_pretrained(real_checkpoint)
    with pytest.warns(UserWarning, match="left out 2 rows"):
        dataset = load_dataset(course_data)
    compared = 0
    for splits in dataset.values():
        for examples in splits.values():
            texts = list(zip(*(example.sentences for example in examples), strict=True))
            expected = theirs(*map(list, texts))
            ours = real_tokenizer.encode(*texts)
            assert [encoding.ids for encoding in ours] == expected["input_ids"]
            assert [encoding.type_ids for encoding in ours] == expected["token_type_ids"]
            compared += len(ours)
    assert compared > 80_000
