"""Lesson 5: from files to a model and back.

A checkpoint is a folder with named tensors and their configuration. Loading is strict both ways.
Every tensor in the file is used or known to be unnecessary, and every parameter is filled exactly
once. The one exception is a pooler that is missing as a whole. You learn how the file's names map
to ours, and that a tokenizer is part of a checkpoint.

Write it yourself: minbert study, ex09_wordpiece.py.
"""

import json
import random
import shutil
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import stored_reference
from programs import edit_json
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.files import write_tensors
from minbert_study.exercises.wordpiece import wordpiece


@pytest.fixture
def folder(tiny_model, tmp_path):
    """No bias is 0, so that a lost bias shows."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    tiny_model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder, change):
    """Applies `change` to the dictionary of tensors in the folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_save_and_load(tiny_model, folder):
    """A model that is saved and loaded has the same configuration and the same weights."""
    again = BertModel.from_pretrained(folder)
    assert again.config == tiny_model.config
    assert not again.training
    for (name, ours), theirs in zip(tiny_model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_inside_autocast():
    """Weights are read in full, whatever the caller's autocast would cast."""
    expected = BertModel.from_pretrained("minbert-mini").embeddings.layer_norm.weight
    with torch.autocast("cpu", torch.bfloat16):
        found = BertModel.from_pretrained("minbert-mini").embeddings.layer_norm.weight
    assert torch.equal(found, expected)


def test_transposed_weights(tiny_model, tmp_path):
    """A weight may lie in memory column by column."""
    weight = tiny_model.pooler_dense.weight
    weight.data = weight.data.T.contiguous().T
    tiny_model.save_pretrained(tmp_path)
    assert torch.equal(BertModel.from_pretrained(tmp_path).pooler_dense.weight, weight)


def test_parameters_of_ones_own(folder, tmp_path):
    """One that is added to the encoder keeps its name; a checkpoint without it fills the rest."""
    class Added(BertModel):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.classifier = torch.nn.Linear(config.hidden_size, 2)
            self.temperature = torch.nn.Parameter(torch.tensor(4.0))
            self.register_buffer("angles", torch.arange(3.0), persistent=False)
            self.register_buffer("seen", torch.tensor(0))

    told = r"does not have temperature, seen, classifier\.weight, .*bias"
    with pytest.warns(UserWarning, match=told):
        model = Added.from_pretrained(folder)
    assert model.temperature == 4
    assert torch.equal(model.angles, torch.arange(3.0))
    assert torch.equal(model.layers[0].output_dense.weight,
                       BertModel.from_pretrained(folder).layers[0].output_dense.weight)

    model.temperature.data.fill_(5)
    model.seen.fill_(7)
    model.save_pretrained(tmp_path)
    again = Added.from_pretrained(tmp_path)
    assert (again.temperature, again.seen) == (5, 7)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    with pytest.raises(ValueError, match=r"among them seen: .* take parameters"):
        BertModel.from_pretrained(tmp_path)


def test_a_parametrized_weight(tiny_model, tmp_path):
    torch.nn.utils.parametrizations.weight_norm(tiny_model.layers[0].output_dense)
    with pytest.raises(ValueError, match=r"original0 is a part of a weight, .* remove_parametriza"):
        tiny_model.save_pretrained(tmp_path)


def test_a_layer_used_twice(tiny_model, tmp_path):
    """A layer that is used at two depths can be saved and loaded."""
    tiny_model.layers[0] = tiny_model.layers[1]
    write_tensors(tmp_path / "state", tiny_model.state_dict())  # as a run's checkpoint does
    saved = load_file(tmp_path / "state")
    assert torch.equal(saved["layers.0.output_dense.weight"], saved["layers.1.output_dense.weight"])
    tiny_model.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 3]])
    assert torch.equal(BertModel.from_pretrained(tmp_path)(ids)[0], tiny_model(ids)[0])


def test_stored_checkpoint():
    """A checkpoint stored once gives the outputs that transformers stored with it.

    references/make.py wrote both, so neither side can drift.
    """
    _, inputs, stored = stored_reference()
    folder = Path(__file__).parents[1] / "references" / "checkpoint"
    out = BertModel.from_pretrained(folder)(**inputs)
    # the stored weights are float32
    expected = stored["pooler_output"].float()
    torch.testing.assert_close(out.pooler_output, expected, atol=1e-5, rtol=0)


def test_transformers_opens_ours(tiny_model, folder):
    """transformers opens our folder, and its model gives our outputs."""
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    ids, mask = torch.randint(5, 50, (2, 6)), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    # float32 rounding
    expected = theirs(ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(tiny_model(ids, mask).pooler_output, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"),
     r"lacks 1 tensors.*encoder\.layer\.1\.output\.dense\.bias"),
    (lambda tensors: tensors.pop("pooler.dense.bias"),  # half a pooler: not drawn at random
     r"lacks 1 tensors.*pooler\.dense\.bias"),
    (lambda tensors: tensors.update({"encoder.layer.2.output.dense.bias": torch.zeros(24)}),
     r"does not know.*encoder\.layer\.2\.output\.dense\.bias"),
    (lambda tensors: tensors.update({"pooler.dense.bias": torch.zeros(7)}),
     r"pooler\.dense\.bias has shape \(7,\).*\(24,\)"),
    (lambda tensors: tensors.update({"bert.pooler.dense.bias": torch.zeros(24)}),
     r"pooler\.dense\.bias twice"),
    (lambda tensors: tensors.update({"pooler.dense.bias": torch.zeros(24, dtype=torch.int64)}),
     r"pooler\.dense\.bias holds torch\.int64"),
], ids=["missing", "half a pooler", "unknown", "shape", "twice", "integers"])
def test_strict_loading(folder, change, message):
    """A tensor that is missing, unknown or unusable is named together with its file."""
    rewrite(folder, change)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
        BertModel.from_pretrained(folder)


def test_ignored_tensors(folder):
    """Tensors that are known to be unnecessary are ignored."""
    useless = {"embeddings.position_ids": torch.arange(20)[None],
               "cls.predictions.bias": torch.zeros(50)}
    rewrite(folder, lambda tensors: tensors.update(useless))
    BertModel.from_pretrained(folder)


def test_no_safetensors(folder):
    """A file that is not in safetensors format is refused by name."""
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors file"):
        BertModel.from_pretrained(folder)


# --------------------------------------------------------------------------- forms of weights


def as_pickle(folder, tensors):
    torch.save(tensors, folder / "pytorch_model.bin")


def as_old_pickle(folder, tensors):
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def as_shards(folder, tensors, ending=".safetensors", write=save_file):
    names = sorted(tensors)
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-0000{number}-of-00002{ending}"
        write({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}{ending}.index.json").write_text(json.dumps(index))


def as_pickled_shards(folder, tensors):
    as_shards(folder, tensors, ".bin", torch.save)


def with_prefix(folder, tensors):
    prefixed = {f"bert.{name}": value for name, value in tensors.items()}
    prefixed["cls.predictions.bias"] = torch.zeros(50)
    save_file(prefixed, folder / "model.safetensors")


def with_gamma_and_beta(folder, tensors):
    old = {}
    for name, value in tensors.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    save_file(old, folder / "model.safetensors")


@pytest.mark.parametrize("form", [as_pickle, as_old_pickle, as_shards, as_pickled_shards,
                                  with_prefix, with_gamma_and_beta])
def test_forms_of_weights(tiny_model, folder, form):
    """Pickles, shards, a prefix, and gamma and beta all give the same weights."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    form(folder, tensors)
    model = BertModel.from_pretrained(folder)
    for ours, theirs in zip(model.parameters(), tiny_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tiny_model, folder, dtype):
    """Half-precision weights are loaded as float32, with the values they have in the file."""
    tensors = load_file(folder / "model.safetensors")
    halved = {name: value.to(dtype) for name, value in tensors.items()}
    save_file(halved, folder / "model.safetensors")
    model = BertModel.from_pretrained(folder)
    for ours, theirs in zip(model.parameters(), tiny_model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.to(dtype).float())


@pytest.mark.parametrize(("kind", "options"), [
    (transformers.BertForMaskedLM, {"tie_word_embeddings": True}),
    (transformers.BertForMaskedLM, {"tie_word_embeddings": False}),
    (transformers.BertForSequenceClassification, {}),
    (transformers.BertForPreTraining, {}),
    (transformers.BertForQuestionAnswering, {}),
])
def test_models_with_a_head(tiny_config, tmp_path, kind, options):
    """A checkpoint's task head is left out. A missing pooler is drawn at random, with a warning."""
    theirs = kind(transformers.BertConfig(**tiny_config.to_dict(), **options)).eval()
    theirs.save_pretrained(tmp_path)
    has_pooler = theirs.bert.pooler is not None
    expected = "has no pooler: pooler_output comes from fresh random weights"
    with nullcontext() if has_pooler else pytest.warns(UserWarning, match=expected):
        ours = BertModel.from_pretrained(tmp_path)
    ids = torch.randint(5, 50, (2, 6))
    # float32 rounding
    expected = theirs.bert(ids).last_hidden_state
    torch.testing.assert_close(ours(ids).last_hidden_state, expected, atol=2e-6, rtol=0)
    assert ours.pooler_dense.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_training_checkpoint(tiny_model, folder):
    """A training checkpoint is refused, and the error says what it is."""
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": tiny_model.state_dict(), "epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"'state_dict' is a.*training checkpoint"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("content", "error", "message"), [
    ("{", ValueError, "not an index of weights"),
    ('{"weight_map": {"a": "../evil.safetensors"}}', ValueError, "is not a file's name"),
    ('{"weight_map": {"a": "gone.safetensors"}}', FileNotFoundError,
     r"names gone\.safetensors, but it is not there"),
    ('{"weight_map": {}}', ValueError, "names no file"),
])
def test_broken_index(folder, content, error, message):
    """A broken index of shards is refused, and the error says what is wrong with it."""
    (folder / "model.safetensors").rename(folder / "elsewhere")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(error, match=rf"index\.json.*{message}"):
        BertModel.from_pretrained(folder)


def test_incomplete_shard(folder):
    """A shard that lacks a tensor is refused, and the error names both."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    as_shards(folder, tensors)
    shard = folder / "model-00002-of-00002.safetensors"
    part = load_file(shard)
    name = sorted(part)[0]
    del part[name]
    save_file(part, shard)
    with pytest.raises(ValueError, match=rf"00002-of-00002\.safetensors lacks 1 tensors.*{name}"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("file", "renamed", "message"), [
    ("config.json", "elsewhere", r"config\.json"),
    ("model.safetensors", "elsewhere", r"model\.safetensors"),
    ("model.safetensors", "tf_model.h5", r"tf_model\.h5 only, weights of another framework"),
])
def test_incomplete_folder(folder, file, renamed, message):
    """A folder that lacks a file, or has another framework's, is refused by that file's name."""
    (folder / file).rename(folder / renamed)
    with pytest.raises(FileNotFoundError, match=message):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "roberta"}, "model_type is 'roberta'.*'bert'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder"),
    ({"hidden_act": "silu"}, "hidden_act 'silu'"),
])
def test_foreign_config(folder, change, message):
    """A configuration that is not of a BERT encoder is refused by key."""
    edit_json(folder / "config.json", lambda config: config.update(change))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        BertModel.from_pretrained(folder)


def test_misspelt_key():
    """A misspelt key is refused with the right spelling; known other keys are ignored."""
    with pytest.raises(ValueError, match="'hidden_sizes': did you mean 'hidden_size'"):
        BertConfig.from_dict({"hidden_sizes": 384})
    values = {"hidden_size": 384, "_name_or_path": "x", "use_cache": True}
    assert BertConfig.from_dict(values).hidden_size == 384


# ------------------------------------------------------------------------------ the tokenizer


def test_pairs_and_padding(real_tokenizer):
    """A pair is one sequence with two token types, and shorter sequences are padded with 0."""
    batch = real_tokenizer(["a film", "no"], ["good", "why not"])
    assert batch["input_ids"].tolist() == [[101, 1037, 2143, 102, 2204, 102],
                                           [101, 2053, 102, 2339, 2025, 102]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    single = real_tokenizer(["a film", "no"])
    assert single["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert single["input_ids"][1, 3] == 0


def test_own_truncation_is_off(real_checkpoint, real_tokenizer):
    """The truncation length in a checkpoint's tokenizer.json is not applied."""
    assert '"max_length":128' in (real_checkpoint / "tokenizer.json").read_text()
    assert real_tokenizer(["film " * 300])["input_ids"].shape == (1, 302)


def test_tokenizer_options(tmp_path):
    """tokenizer_config.json decides about case, accents and Chinese characters."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "schön", "schon", "日本", "日", "本"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    options = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False,
               "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer(["Schön 日本"])["input_ids"].tolist() == [[2, 5, 7, 3]]
    tokenizer.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert options.items() <= saved.items()

    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer(["Schön 日本"])["input_ids"].tolist() == [[2, 6, 8, 9, 3]]


def test_saved_tokenizer(real_tokenizer, tmp_path):
    """A saved tokenizer gives the same ids, here and in transformers."""
    real_tokenizer.save_pretrained(tmp_path)
    texts = ["A gorgeous, witty film.", "Crème brûlée?"]
    expected = real_tokenizer(texts)["input_ids"]
    assert torch.equal(BertTokenizer.from_pretrained(tmp_path)(texts)["input_ids"], expected)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(theirs(texts, return_tensors="pt", padding=True)["input_ids"], expected)


def test_saved_with_numbers_left_out(tmp_path):
    """A vocabulary that skips a number is saved in tokenizer.json; vocab.txt cannot hold it."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n\nfilm\n")
    BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "vocab.txt").exists()
    again = BertTokenizer.from_pretrained(tmp_path / "again")
    assert again(["film"])["input_ids"].tolist() == [[2, 5, 3]]


def test_training_is_repeatable():
    """Training a tokenizer on the same texts gives the same vocabulary every time.

    A few words make many ties. Left to itself, the trainer breaks them differently in each call.
    """
    texts = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice",
             "is it any good"]
    tokenizers = [BertTokenizer.train(texts, 80) for _ in range(5)]
    assert all(tokenizer.vocabulary == tokenizers[0].vocabulary for tokenizer in tokenizers)
    assert tokenizers[0].vocab_size <= 80
    assert (tokenizers[0](texts)["input_ids"] == 1).sum() == 0  # no [UNK] on its own texts


def test_unusable_input(real_tokenizer, tmp_path):
    """Unusable input to a tokenizer is refused, and the error says what is wrong."""
    with pytest.raises(ValueError, match="list of sentences"):
        real_tokenizer("a film")
    with pytest.raises(ValueError, match="1 sentences, but 2 pair sentences"):
        real_tokenizer(["a"], ["b", "c"])
    for pairs, least in ((None, 2), (["b"], 3)):
        assert real_tokenizer(["a"], pairs, max_length=least)["input_ids"].shape == (1, least)
        with pytest.raises(ValueError, match=rf"max_length is {least - 1}.*alone take {least}"):
            real_tokenizer(["a"], pairs, max_length=least - 1)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json or vocab\.txt"):
        BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary lacks \[PAD\]"):
        BertTokenizer.from_pretrained(tmp_path)


MIXED_CASE = ["The Café in Zürich sells Brûlée", "Étienne SAID: nothing, NOTHING at all!",
              "McDonald's iPhone costs $3", "ÅNGSTRÖM İstanbul naïve 東京 Tokyo",
              "e\u0301tude ÉTUDE etude Etude"]
WILD = st.text(max_size=40) | st.text("aé漢😀\u0301\u200d\x00\x07\ufffd [SEP]#'-\n", max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(WILD, WILD), min_size=1, max_size=4), st.booleans(),
       st.sampled_from([None, 3, 8, 13]))
@example([("", "")], True, None)
@example([("x" * 101, "ﬁ Ⅷ İ ß \U0001f468\u200d\U0001f469")], False, 8)
# longer than max_length, both or one: who gets the odd token?
@example([("0:0:0:0:0", "0:0:0:0:")], False, 8)
@example([("0:0:0:0:", "0:0:0:0:0")], False, 8)
@example([("0:0:0:0:0", "1:1:1:1:1")], False, 8)
@example([("0 " * 30, "0 " * 7 + "étude" * 9 + " 0")], False, 8)
@example([("0 " * 7 + "étude" * 9 + " 0", "0 " * 30)], False, 8)
def test_any_unicode(word_pieces, pairs, lowercase, max_length):
    """Any Unicode text gets the same ids, token types and offsets as in transformers.

    The texts are cased and uncased, single sentences and pairs, truncated or not. Today's
    transformers uses the same `tokenizers` package, so this compares our settings with theirs;
    test_word_piece_by_hand below is the independent implementation.
    """
    ours, theirs = word_pieces[lowercase]
    firsts, seconds = map(list, zip(*pairs, strict=True))
    options = {}
    if max_length is not None:
        options = {"truncation": "longest_first", "max_length": max_length}
    for arguments in ((firsts,), (firsts, seconds)):
        expected = theirs(*arguments, return_offsets_mapping=True, **options)
        found = ours.encode(*arguments, max_length=max_length)
        assert [encoding.ids for encoding in found] == expected["input_ids"]
        assert [encoding.type_ids for encoding in found] == expected["token_type_ids"]
        offsets = [list(map(tuple, offset)) for offset in expected["offset_mapping"]]
        assert [encoding.offsets for encoding in found] == offsets


def basic_words(text: str, lowercase: bool) -> list[str]:
    """Devlin et al.'s BasicTokenizer: cleans, splits at spaces, punctuation and Chinese characters.

    With `lowercase`, words become lower case without accents.
    """
    spaced = ""
    for character in text:
        kind, code = unicodedata.category(character), ord(character)
        chinese = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF
        if character in "\t\n\r" or kind == "Zs":
            spaced += " "
        elif kind[0] != "C" and code != 0xFFFD:
            spaced += f" {character} " if chinese else character
    if lowercase:
        decomposed = unicodedata.normalize("NFD", spaced)
        spaced = "".join(c for c in decomposed if unicodedata.category(c) != "Mn").lower()

    punctuated = ""
    for c in spaced:
        is_punctuation = unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~"
        punctuated += f" {c} " if is_punctuation else c
    return punctuated.split()


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_piece_by_hand(word_pieces, lowercase):
    """A second implementation of WordPiece gives the same pieces, on random strings too."""
    ours, _ = word_pieces[lowercase]
    vocabulary = set(ours._tokenizer.get_vocab())
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzABCÉéüßñ漢字かな😀\u0301\u200d\x07\ufffd .,-'!?$+~0123\t\n"
    wild = ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(300)]
    for text in [*MIXED_CASE, *wild, "x" * 100, "x" * 101]:
        by_hand = []
        for word in basic_words(text, lowercase):
            by_hand += wordpiece(word, vocabulary)
        assert ours.encode([text])[0].tokens == ["[CLS]", *by_hand, "[SEP]"], text


@pytest.fixture(scope="module")
def word_pieces(real_checkpoint, tmp_path_factory):
    """lowercase → our tokenizer and transformers', both from vocab.txt."""
    tokenizers = {}
    for lowercase in (True, False):
        folder = tmp_path_factory.mktemp("vocabulary")
        if lowercase:
            shutil.copy(real_checkpoint / "vocab.txt", folder)
        else:
            BertTokenizer.train(MIXED_CASE, 300, lowercase=False).save_pretrained(folder)
            (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}))
        tokenizers[lowercase] = (BertTokenizer.from_pretrained(folder),
                                 transformers.BertTokenizerFast.from_pretrained(folder))
    return tokenizers
