"""Lesson 20: nothing let in.

Every file from outside is somebody else's claim: about its encoding, its columns, its sizes, about being harmless. You
learn what is checked before it is believed: a wrong line is named with its number, a size is compared with the bytes
that are there before memory is taken for it, a pickle never runs, a sentence never becomes markup, and what is left out
or cut off is counted and said. fuzz.py makes a hundred thousand wrong files; a few hundred of them are made here.
"""

import hashlib
import io
import json
import os
import re
import threading
import tracemalloc
import types
import zipfile

import fuzz
import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from test_report import METRICS, SETTINGS, Reader, small_analysis, written

import train_multitask
from minbert import BertConfig, BertModel, BertTokenizer
from minbert import files as untrusted
from multitask import MultitaskBert, predict
from multitask.data import multinli
from multitask.data.batching import TokenizedExamples
from multitask.data.course import Example, read_examples, read_rows
from multitask.data.sample import write_sample
from multitask.pretraining.corpus import Corpus
from multitask.runs.run import describe_truncated
from multitask.runs.settings import Settings
from multitask.system import checkpoint
from multitask.tasks import PARA, SST, STS
from multitask.training.final_layers import Embeddings

# one step may predict one value for all
pytestmark = pytest.mark.filterwarnings("ignore:Pearson's correlation is undefined")


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_mutated_file_is_read_right_or_refused_in_one_line_that_names_it(name, tmp_path):
    """The same few inputs every time; python tests/fuzz.py makes more, in processes of limited memory."""
    result = fuzz.fuzz(name, 25, tmp_path / "case")
    assert result["findings"] == {}
    assert result["inputs"] == result["accepted"] + result["refused"] >= 25


# ------------------------------------------------------------------------------------------------ the course's files


def sst(*rows: bytes, header: bytes = b"id\tsentence\tsentiment") -> bytes:
    return b"\n".join([header, *rows]) + b"\n"


READ_RIGHT = {
    "byte order mark, Windows line ends": (b"\xef\xbb\xbfid\tsentence\tsentiment\r\nx\tgood\t4\r\n",
                                           [("x", "good", 4)]),
    "no line end at the end": (b"id\tsentence\tsentiment\nx\tgood\t4", [("x", "good", 4)]),
    "blank lines": (sst(b"x\tgood\t4", b"", b"y\tbad\t0", b""), [("x", "good", 4), ("y", "bad", 0)]),
    "labels with spaces and points": (sst(b"x\tgood\t 1", b"y\tbad\t1.0", b"z\tso\t1 "),
                                      [("x", "good", 1), ("y", "bad", 1), ("z", "so", 1)]),
    "an empty sentence": (sst(b"x\t\t4"), [("x", "", 4)]),
    "a sentence of 10,000 words": (sst(b"x\t" + b"word " * 10_000 + b"\t4"), [("x", "word " * 10_000, 4)]),
    "doubled quotation marks": (sst(b'x\t"""Good"", he said"\t4'), [("x", '"Good", he said', 4)]),
    "a quotation mark inside": (sst(b'x\tgood 7" disc\t4'), [("x", 'good 7" disc', 4)]),
    "a quoted tab": (sst(b'x\t"a\tb"\t4'), [("x", "a\tb", 4)]),
    "a quoted line end": (sst(b'x\t"a\nb"\t4', b"y\tc\t3"), [("x", "a\nb", 4), ("y", "c", 3)]),
    "columns in another order": (sst(b"4\t0\tgood\tx", header=b"sentiment\t\tsentence\tid"), [("x", "good", 4)]),
}


@pytest.mark.parametrize("case", READ_RIGHT)
def test_what_looks_odd_but_is_sound_is_read_right(case, tmp_path):
    content, expected = READ_RIGHT[case]
    (tmp_path / "x.csv").write_bytes(content)
    found = read_examples(tmp_path / "x.csv", SST)
    assert [(example.id, *example.sentences, example.label) for example in found] == expected


REFUSED = {
    "latin-1": ("x\tcafé\t4".encode("latin-1"), r"line 2: not UTF-8 \(byte 0xe9 at 6 of the line\); save the file"),
    "late latin-1": (b"x\tgood\t4\n" * 3000 + b"y\t\xff\t4", r"line 3002: not UTF-8 \(byte 0xff at 3 of the "),
    "too few fields": (b"x\tgood", "line 2: no field for column 'sentiment', only 2 for 3; is a tab"),
    "too many fields": (b"x\tgood\t4\t5", "line 2: more fields than the header has, 4 for 3; is a tab"),
    "no closing mark": (b'w\tso\t1\nx\t"good\t4\ny\tbad\t3', "line 3: unexpected end of data; is a quotation mark"),
    "a mark that closes early": (b'x\t"good" film\t4', r"line 2: '\\t' expected after '\"'; is a quotation mark amiss"),
    "a mark that closes two rows on": (b'x\t"good\t4\ny\tbad"\t3', "line 2: sentence goes on over tabs and lines, '"),
    "a field without end": (b"x\t" + b"x" * 140_000 + b"\t4", r"line 2: field larger than field limit \(131072\)"),
    "an id of two lines": (b'"x\ny"\tgood\t4', r"line 2: id is 'x\\ny', expected one line"),
    "an id with a line separator": ("x\u2028y\tgood\t4".encode(), r"line 2: id is .*, expected one line"),
    **{f"label {label!r}": (f"w\tso\t1\nx\tgood\t{label}".encode(), rf"line 3: sentiment is '{label}', expected a ")
       for label in ("nan", "5", "-1", "2.5", "four", "inf", "1_0", "0x1")},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_row_is_named_by_file_line_and_column_with_what_to_do(case, tmp_path):
    content, message = REFUSED[case]
    (tmp_path / "x.csv").write_bytes(sst(content))
    with pytest.raises(ValueError, match=rf"x\.csv, {message}") as caught:
        read_examples(tmp_path / "x.csv", SST)
    assert str(caught.value).isprintable()


WRONG_HEADERS = {
    "commas": (b"id,sentence,sentiment\nx,good,4\n", "line 1: no column 'id'; expected tab-separated columns id, "),
    "a test file as train": (b"\tid\tsentence\n0\tx\tgood\n", "line 1: no column 'sentiment'.*is it a test file"),
    "a column twice": (sst(b"x\tgood\tbad\t4", header=b"id\tsentence\tsentence\tsentiment"),
                       "line 1: 'sentence' names 2 columns"),
    "a header alone": (sst(), "holds no usable rows"),
    "nothing": (b"", "is empty: expected a header"),
    "another encoding": (sst(b"x\tgood\t4").decode().encode("utf-16"), r"line 1: not UTF-8 \(byte 0xff at 1"),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_another_kind_of_file_is_named(case, tmp_path):
    content, message = WRONG_HEADERS[case]
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.csv.*{message}") as caught:
        read_examples(tmp_path / "x.csv", SST)
    assert str(caught.value).isprintable()


def test_ids_that_stand_twice_are_counted_and_their_rows_kept(tmp_path):
    (tmp_path / "x.csv").write_bytes(sst(b"x\tgood\t4", b"y\tbad\t0", b"x\tso\t2", b"x\tso so\t2"))
    with pytest.warns(UserWarning, match=r"x\.csv: 1 ids stand more than once, among them 'x' in lines 2 and 4; all"):
        assert len(read_examples(tmp_path / "x.csv", SST)) == 4


def test_a_file_is_read_line_by_line_whatever_its_length(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(sst(*[b"x%d\ta sentence of some length, the same in every row\t4" % k for k in range(20_000)]))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path, ["id", "sentence"])) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 < path.stat().st_size / 5  # bytes: some buffers, not the file


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "LINE_CHARACTERS", 1000)
    (tmp_path / "x.csv").write_bytes(sst(b"x\tgood\t4", b"y" * 5000))
    with pytest.raises(ValueError, match=r"x\.csv, line 3: more than 1,000 characters in one line"):
        read_examples(tmp_path / "x.csv", SST)


# ------------------------------------------------------------------------------------------------ MultiNLI

PAIR = {"gold_label": "neutral", "pairID": "p", "sentence1": "A dog runs.", "sentence2": "A dog is tired."}
GOOD = json.dumps(PAIR).encode()


def read_multinli(folder, *lines: bytes):
    path = folder / multinli.FOLDER / "x.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n".join(lines))
    return multinli.read_multinli(folder, "x.jsonl")


def test_labels_that_are_blank_are_counted_and_what_is_sound_is_read(tmp_path):
    blank, none = (json.dumps({**PAIR, "gold_label": label}).encode() for label in (" ", "-"))
    with pytest.warns(UserWarning, match=r"x\.jsonl: left out 1 pairs with a blank gold_label"):
        found = read_multinli(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r", b"", blank, none, GOOD)
    assert [example.label for example in found] == [1, 1]


@pytest.mark.parametrize(("line", "message"), [
    (b'{"gold_label": ' + b"9" * 5000 + b"}", "not one JSON object a line, it is not valid JSON .*digits"),
    (b"[" * 100_000, "is not valid JSON .nested too deeply"),
    (b"[1]", "expected a JSON object with a string 'gold_label'"),
    (GOOD.replace(b'"A dog runs."', b"3"), "expected a JSON object with a string 'sentence1'"),
    (GOOD.replace(b"dog runs", b"dog \\ud800 runs"), "sentence1 holds half a character"),
    (GOOD.replace(b"neutral", b"Neutral"), "gold_label is 'Neutral', expected one of entailment, neutral"),
    (GOOD.replace(b"dog", b"\xff"), r"not UTF-8"),
    (GOOD[:-5], "not valid JSON"),
])
def test_a_wrong_line_of_multinli_is_named(line, message, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.jsonl, (after )?line \d+: .*{message}") as caught:
        read_multinli(tmp_path, GOOD, line)
    assert str(caught.value).isprintable()


def test_a_zip_that_would_unpack_to_more_than_multinli_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(multinli, "MEMBER_LIMIT", 1000)
    with zipfile.ZipFile(tmp_path / multinli.ZIP_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("multinli_1.0/x.jsonl", (GOOD + b"\n") * 1000)
    with pytest.raises(ValueError, match=r"multinli_1\.0\.zip: x\.jsonl would unpack to .* where at most 1,000"):
        multinli.read_multinli(tmp_path, "x.jsonl")


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tiny")
    BertTokenizer.train(fuzz.SENTENCES, 50).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def pickled(folder, change, **options):
    """The weights as a pickle, one tensor changed."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "encoder.layer.0.output.dense.weight"
    torch.save({**tensors, name: change(tensors[name])}, folder / "pytorch_model.bin", **options)
    return name


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensor: tensor.to("meta"), r"output\.dense\.weight is torch\.strided on meta, expected plain numbers"),
    (lambda tensor: tensor.to_sparse(), r"output\.dense\.weight is torch\.sparse_coo on cpu, expected plain numbers"),
    (lambda tensor: tensor.to(torch.complex64), r"output\.dense\.weight holds torch\.complex64"),
    (lambda tensor: fuzz.Hostile(), "is refused: it is damaged or wants to run code"),
])
def test_a_pickled_tensor_is_plain_numbers_or_refused(folder, change, message):
    pickled(folder, change)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin.*{message}"):
        BertModel.from_pretrained(folder)
    assert not fuzz.OUTSIDE.exists()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "older"])
def test_one_number_shown_as_many_is_no_weight(folder, new):
    """A billion numbers by the claim of a file of 100 KB; the shapes agree with a config.json that claims so too."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name in ("encoder.layer.0.intermediate.dense", "encoder.layer.1.intermediate.dense"):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (torch.zeros(1).expand(*shape) for shape in
                                                              ((10_000_000, 24), (10_000_000,)))
        output = name.replace("intermediate", "output")
        tensors[f"{output}.weight"] = torch.zeros(1).expand(24, 10_000_000)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 10_000_000}))
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    assert (folder / "pytorch_model.bin").stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused: its tensors claim 3,[\d,]+ bytes, but only"):
        BertModel.from_pretrained(folder)


def test_a_packed_pickle_is_refused_unpacked(folder):
    """A thousand zeros pack into a few bytes: a bomb. torch.save packs nothing."""
    pickled(folder, lambda tensor: tensor)
    path, buffer = folder / "pytorch_model.bin", io.BytesIO()
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused: it would unpack to"):
        BertModel.from_pretrained(folder)


def test_a_name_that_is_no_name_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({1: torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must hold named tensors only, but 1 is"):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    ('"vocab_size": 1000000000000000000', "vocab_size must be at most 10000000, got 1000000000000000000"),
    ('"num_hidden_layers": 1000000000', "num_hidden_layers must be at most 500"),
    ('"num_hidden_layers": ' + "9" * 5000, "is not valid JSON .*digits"),
    ('"layer_norm_eps": NaN', "layer_norm_eps must be finite, got nan"),
    ('"layer_norm_eps": 1e999', "layer_norm_eps must be finite, got inf"),
    ('"layer_norm_eps": 1' + "0" * 400, "layer_norm_eps must be finite"),
    ('"initializer_range": -1', "initializer_range must be 0 or more"),
    ('"pad_token_id": 50', r"pad_token_id must be in \[0, 50\)"),
    ('"hidden_act": "' + "x" * 10_000 + '"', "hidden_act 'xxxx"),
    ('"x": ' + "[" * 100_000 + "]" * 100_000, "is not valid JSON .nested too deeply"),
])
def test_sizes_that_a_config_claims_are_bounded_before_anything_is_built(tmp_path, change, message):
    (tmp_path / "config.json").write_text('{"vocab_size": 50, ' + change + "}")
    with pytest.raises(ValueError, match=rf"config\.json.*{message}") as caught:
        BertConfig.from_file(tmp_path / "config.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_json_file_of_an_unlikely_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "JSON_BYTES", 10)
    (tmp_path / "config.json").write_text(" " * 11)
    with pytest.raises(ValueError, match=r"config\.json has 11 bytes, where at most 10"):
        BertConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize(("value", "message"), [
    ({"epochs": 1.5}, "--epochs 1.5: expected int"), ({"lr": "x"}, "--lr 'x': expected float"),
    ({"nli": 1}, "--nli 1: expected bool"), ({"batch_sizes": [1]}, r"--batch-sizes \[1\]: expected dict"),
    ({"batch_sizes": {"sst": 1, "para": True, "sts": 1}}, "--batch-sizes"),
    ({"lr": 1e308}, r"--lr 1e\+308: must be 0 or more, and at most 1e\+15"),  # torch: a traceback at the first step
    ({"seed": None}, "--seed None: expected int"), ({"clip": 10**400}, "--clip 1000.*: must be 0 or more"),
])
def test_a_runs_settings_are_of_the_types_that_flags_give(tmp_path, value, message):
    (tmp_path / "config.json").write_text(json.dumps({"arch": "concatB", "gs": "wrap", **value}))
    with pytest.raises(ValueError, match=rf"config\.json is not the config\.json of a run \({message}"):
        Settings.load(tmp_path / "config.json")


# ------------------------------------------------------------------------------------------------ checkpoints


def changed_checkpoint(folder, name, change, run=fuzz.with_one_checkpoint):
    """A run with one checkpoint; its file `name` is changed, and its checksum made anew to agree."""
    fuzz.lay_out(folder, run())
    path = folder / fuzz.CHECKPOINT / name
    if name == "state.json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        save_file(change(load_file(path)), path)
    fuzz.sum_anew(folder)
    return pytest.raises(ValueError, match=rf"checkpoint/2/{name}")


@pytest.mark.parametrize(("change", "message"), [
    ({"stage": "x"}, r"is of stage 'x' after \[\], but the run has gs"),
    ({"stage": "fl"}, "is of stage 'fl'"),
    ({"finished": {"gs": {"dev": {"average": 0.5}, "best_epoch": 1, "steps": 2}}}, r"after \['gs'\], but the run has"),
    ({"finished": {"gs": 1}}, "finished is .*, expected the results of the stages before"),
    ({"steps": "2"}, "steps is '2', expected a count"),
    ({"steps": 3}, "is of epoch 1, 1 evaluated, step 3, but an epoch has 2 steps and all have 3"),
    ({"epoch": 10**400}, "epoch is 1000.*, expected a count"),
    ({"evaluated": 0}, "says of the best epoch what cannot be"),
    ({"seconds": float("nan")}, "seconds is nan"),
    ({"log": -1}, "log is -1"),
    ({"best": {"stage": "gs", "epoch": 1, "step": 2, "dev": {"average": None}}}, "best is .*, expected an epoch"),
])
def test_a_checkpoint_changed_on_purpose_checksum_and_all_is_refused_by_its_file(change, message, tmp_path):
    with changed_checkpoint(tmp_path, "state.json", lambda values: {**values, **change}) as caught:
        fuzz.use_run(tmp_path)
    assert re.search(message, str(caught.value))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("name", "change", "message"), [
    ("trainer.optimizer.0.exp_avg_sq", None, "lacks optimizer.0.exp_avg_sq"),
    ("trainer.optimizer.0.step", lambda value: -value, "optimizer.0.step is -2, expected at least 1"),
    ("trainer.optimizer.99.step", lambda value: torch.tensor(1), "optimizer.99.step belongs to no parameter"),
    ("trainer.surgery.generator", torch.zeros_like, "random state is none"),
    ("random.cpu", lambda value: value[:-1], "random state has shape"),
    ("model.heads.sst.1.bias", lambda value: value.long(), r"holds torch\.int64, expected torch\.float32"),
    ("model.heads.sst.1.bias", lambda value: value / 0, "all of it finite"),
    ("sampler.order.sst", torch.zeros_like, "order of sst does not hold each of its 6 examples once"),
    ("sampler.position.sst", lambda value: value + 7, "position of sst is .*, expected 0 to 6"),
    ("logits.sts", None, "lacks sts"),
])
def test_its_tensors_are_those_of_this_run_or_refused(name, change, message, tmp_path):
    def of(tensors):
        value = tensors.pop(name, torch.tensor(0))
        return tensors if change is None else {**tensors, name: change(value)}

    with changed_checkpoint(tmp_path, "state.safetensors", of) as caught:
        fuzz.use_run(tmp_path)
    assert re.search(message, str(caught.value))


def test_no_encoding_is_repeated_two_thousand_million_times():
    """What a checkpoint claims of a frozen encoder's outputs is at most one call an example."""
    model = MultitaskBert(BertModel(fuzz.config()), fuzz.tokenizer(), "concatB")
    embeddings = Embeddings(model, model.tokenize([Example("1", ("a",), 1.0)]), "sst train")
    with pytest.raises(ValueError, match="are said to be 2147483647 to 2147483647, expected 0 to 1 at most"):
        embeddings.restore(torch.tensor([2**31 - 1], dtype=torch.int32))


def test_a_list_of_checksums_leads_nowhere_else_and_covers_what_is_read(tmp_path):
    fuzz.lay_out(tmp_path, fuzz.with_one_checkpoint())
    sound = json.loads((tmp_path / fuzz.CHECKPOINT / "sha256.json").read_text())
    outside = {"../../config.json": hashlib.sha256((tmp_path / "config.json").read_bytes()).hexdigest()}
    for sums in ({**sound, **outside}, {"state.json": "0"}, {"state.safetensors": "0"}):
        (tmp_path / fuzz.CHECKPOINT / "sha256.json").write_text(json.dumps(sums))
        with pytest.raises(ValueError, match=r"2/sha256\.json is damaged .*no file's name or lacks a checksum"):
            checkpoint.load(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"batch_size": 2.0}, "--batch-size 2.0: expected int"), ({"steps": "6"}, "--steps '6': expected int | None"),
    ({"epochs": 10**400}, "--epochs 1000.*: must be at least 1, and below"),
    ({"batch_size": 0}, "--batch-size 0: must be at least 1"),
    ({"clip": 10**400}, "--clip 1000.*at most"),
    ({"lr": 1e308}, r"--lr 1e\+308: must be 0 or more, and at most 1e\+15"),
    ({"length": 17}, "says --length 17, but the model in .*checkpoint/2 takes sequences of up to 16 tokens"),
    ({"text": "a\nb", "held_out": 0.001, "x": 1}, "unexpected keyword argument 'x'"),
])
def test_the_settings_of_a_pretraining_are_those_that_flags_give_and_fit_its_model(change, message, tmp_path):
    fuzz.lay_out(tmp_path, fuzz.pretraining_run())
    path = tmp_path / "pretraining.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rf"pretraining\.json .*{message}") as caught:
        fuzz.use_pretraining(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("change", "message"), [
    ({"step": 7, "evaluated": 7}, "is of step 7, evaluated at 7, of 6 steps"),
    ({"evaluated": 3}, "is of step 2, evaluated at 3, of 6 steps"),
    ({"log": 1}, "no line that ends at 1 bytes, as the checkpoint says"),
    ({"corpus": "of another text"}, r"corpus\.safetensors is not the text that .*checkpoint/2 was made with"),
])
def test_the_place_of_a_pretraining_is_one_of_this_run_and_its_text_the_runs_own(change, message, tmp_path):
    changed_checkpoint(tmp_path, "state.json", lambda values: {**values, **change}, fuzz.pretraining_run)
    with pytest.raises(ValueError, match=message):
        fuzz.use_pretraining(tmp_path)


@pytest.mark.parametrize(("name", "message"), [
    ("random.cpu", "is damaged: it lacks 'cpu'"),
    ("optimizer.0.step", "does not fit this run: it lacks optimizer.0.step"),
    ("model.decoder_bias", "does not fit this run: it lacks model.decoder_bias"),
])
def test_a_tensor_that_a_pretrainings_checkpoint_lacks_is_named(name, message, tmp_path):
    def without(tensors):
        return {key: value for key, value in tensors.items() if key != name}

    with changed_checkpoint(tmp_path, "state.safetensors", without, fuzz.pretraining_run) as caught:
        fuzz.use_pretraining(tmp_path)
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(("change", "message"), [
    (lambda ids, ends: (ids.astype(np.float32), ends), "ids are float32 of shape .*, expected a row of uint16"),
    (lambda ids, ends: (ids[None], ends), r"ids are uint16 of shape \(1, "),
    (lambda ids, ends: (ids, ends.astype(np.float64)), "and ends float64 of shape"),
    (lambda ids, ends: (ids, ends[:, None]), r"and ends int64 of shape \(8, 1\)"),
    (lambda ids, ends: (ids, ends[::-1]), "the ends of its 8 passages are not 2 or more places in order"),
    (lambda ids, ends: (ids, ends[-1:]), "the ends of its 1 passages"),
    (lambda ids, ends: (ids[:-1], ends), "places in order, the last at"),
    # whose differences, in int64, are none of them below 0
    (lambda ids, ends: (ids, np.array([2**63 - 1, -2**63, len(ids)])), "the ends of its 3 passages"),
    (lambda ids, ends: (ids, np.array([-5, len(ids)])), "the ends of its 2 passages"),
    (lambda ids, ends: (-ids.astype(np.int32), ends), "pieces are -[0-9]+ to .*, but the vocabulary has 80"),
    (lambda ids, ends: (np.full_like(ids, 80), ends), "pieces are 80 to 80, but the vocabulary has 80"),
    (lambda ids, ends: (ids[:0], ends * 0), "make up no run .*nothing is left to train on"),
])
def test_a_corpus_is_passages_of_the_vocabularys_pieces_or_refused(change, message, tmp_path):
    """With checkpoint and checksums made to agree with it, as by somebody who knows how."""
    fuzz.lay_out(tmp_path, fuzz.pretraining_run())
    path = tmp_path / "corpus.safetensors"
    sound = load_arrays(path.read_bytes())
    ids, ends = change(sound["ids"], sound["ends"])
    save_arrays({"ids": np.ascontiguousarray(ids), "ends": np.ascontiguousarray(ends)}, path)
    fuzz.as_if_its_text(tmp_path)
    with pytest.raises(ValueError, match=rf"corpus\.safetensors .*{message}") as caught:
        fuzz.use_pretraining(tmp_path)
    assert str(caught.value).isprintable()


def of_dtype(name: str, size: int) -> bytes:
    """A corpus of two pieces of this number format."""
    header = json.dumps({"ids": {"dtype": name, "shape": [2], "data_offsets": [0, size]},
                         "ends": {"dtype": "I64", "shape": [2], "data_offsets": [size, size + 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size + 16)


@pytest.mark.parametrize("content", [None, b"", of_dtype("U16", 4)[:-1], of_dtype("BF16", 4), of_dtype("F8_E8M0", 2),
                                     of_dtype("F4", 1), of_dtype("F31", 2)])
def test_a_corpus_that_is_gone_cut_or_of_numbers_that_numpy_lacks_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "corpus.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"corpus\.safetensors is missing or damaged .*start again with another --out"):
        Corpus.load(tmp_path / "corpus.safetensors", 80)


# ------------------------------------------------------------------------------------------------ tokenizers


def changed(folder, change):
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(("change", "message"), [
    (lambda value: value.update(model=fuzz.OTHER_MODELS[0]), "its model is BPE, but a BERT's is WordPiece"),
    (lambda value: value.update(model=fuzz.OTHER_MODELS[1]), "its model is WordLevel"),
    (lambda value: value.update(post_processor=None), r"it makes \['\[UNK\]'\]"),
    (lambda value: value["post_processor"]["pair"][3]["Sequence"].update(type_id=0), "with token types"),
    (lambda value: value["model"].update(unk_token="<unk>"), r"Missing \[UNK\]"),
])
def test_a_tokenizer_that_is_not_a_berts_is_refused(folder, change, message):
    changed(folder, change)
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}"):
        BertTokenizer.from_pretrained(folder)


def test_the_vocabularys_size_is_its_highest_id_not_its_count(folder):
    """A vocabulary with a hole has an id beyond its count, and the encoder no row for it."""
    changed(folder, lambda value: value["model"]["vocab"].update({"film": 4_000_000_000}))
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == 4_000_000_001
    with pytest.raises(ValueError, match="they do not belong together"):
        MultitaskBert(BertModel.from_pretrained(folder), tokenizer, "concatB")


def test_a_vocabulary_with_a_byte_order_mark_and_windows_line_ends_is_the_same(folder):
    expected = BertTokenizer.from_pretrained(folder).vocabulary
    (folder / "tokenizer.json").unlink()
    text = (folder / "vocab.txt").read_text(encoding="utf-8")
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert BertTokenizer.from_pretrained(folder).vocabulary == expected
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": "false"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: do_lower_case must be true or false, got 'false'"):
        BertTokenizer.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------ overlong input


def test_two_long_sentences_do_not_multiply():
    """The package keeps what it cuts off, each part of one sentence beside each of the other: 2,149 parts here."""
    tokenizer = BertTokenizer.train(fuzz.SENTENCES, 80)
    [encoding] = tokenizer.encode(["plot " * 300], ["plot " * 300], max_length=16)
    assert len(encoding) == 16
    assert len(encoding.overflowing) < 50
    assert encoding.tokens == ["[CLS]", *["plot"] * 6, "[SEP]", *["plot"] * 7, "[SEP]"]


def test_what_is_cut_off_is_counted_an_example_at_a_time():
    tokenizer, word = BertTokenizer.train(fuzz.SENTENCES, 80), "plot "
    joined = MultitaskBert(BertModel(fuzz.config()), tokenizer, "concatB")
    apart = types.SimpleNamespace(sequences=lambda sentences: 2)
    examples = [Example("1", (word * 6, word * 7), 1.0), Example("2", (word * 7, word * 7), 1.0),
                Example("3", ("", ""), 1.0), Example("4", (word * 10_000, word * 10_000), 1.0)]
    tokens = joined.tokenize(examples)  # [CLS] 6 [SEP] 7 [SEP] are the 16 that there are
    assert tokens.truncated == 2
    assert tokens.lengths.tolist() == [16, 16, 3, 16]
    assert TokenizedExamples(examples, tokenizer, apart, 9).truncated == 1  # [CLS] 7 [SEP] are 9
    run = types.SimpleNamespace(tokens={"sts": {"train": tokens, "dev": joined.tokenize(examples[:1])}}, model=joined)
    assert describe_truncated(run) == "2 examples are longer than 16 tokens and lose their end (sts train 2)"
    run.tokens["sts"].pop("train")
    assert describe_truncated(run) == ""


def test_a_run_says_and_keeps_how_many_it_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    monkeypatch.setattr("multitask.runs.run.write_report", lambda *_: None)  # the slowest part
    data = write_sample(tmp_path / "data")
    for path in data.glob("*.csv"):
        lines = path.read_text().splitlines()[:17]
        if path.name == "sts-train.csv":
            fields = lines[1].split("\t")
            lines[1] = "\t".join([*fields[:-3], "film " * 10_000, *fields[-2:]])
        path.write_text("\n".join(lines) + "\n")
    assert train_multitask.main(["--data", str(data), "--model", "scratch", "--max-steps", "1", "--out",
                                 str(tmp_path / "run")]) == 0
    assert "note:  1 examples are longer than 512 tokens and lose their end (sts train 1)\n" in capsys.readouterr().out
    truncated = json.loads((tmp_path / "run" / "metrics.json").read_text())["truncated"]
    assert truncated["sts"] == {"train": 1, "dev": 0, "test-student": 0}


@pytest.mark.filterwarnings("always")
def test_a_run_says_and_keeps_how_many_rows_had_no_label(tmp_path, monkeypatch, capsys):
    """Of the whole file, though --eval-limit takes a few of its rows; no consensus counts as no label."""
    monkeypatch.setattr("multitask.runs.run.write_report", lambda *_: None)
    data = write_sample(tmp_path / "data")
    for path in [*data.glob("*.csv"), *data.glob("multinli/*.jsonl")]:
        path.write_text("\n".join(path.read_text().splitlines()[:17]) + "\n")
    for name, lines in (("quora-dev.csv", (3, 9)), ("ids-sst-train.csv", (5,))):
        rows = (data / name).read_text().splitlines()
        for line in lines:
            rows[line] = rows[line].rsplit("\t", 1)[0] + "\t"
        (data / name).write_text("\n".join(rows) + "\n")
    path = data / "multinli" / "multinli_1.0_train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = sum(row["gold_label"] == "-" for row in rows)
    rows[0]["gold_label"], rows[1]["gold_label"] = "-", ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert train_multitask.main(["--data", str(data), "--model", "scratch", "--nli", "--max-steps", "1", "--eval-limit",
                                 "4", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    for words in ("quora-dev.csv: left out 2 rows", "ids-sst-train.csv: left out 1 rows", "left out 1 pairs"):
        assert words in told
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["examples"]["para"]["dev"] == 4
    assert metrics["left_out"] == {"sst": {"train": 1, "dev": 0, "test-student": 0},
                                   "para": {"train": 0, "dev": 2, "test-student": 0},
                                   "sts": {"train": 0, "dev": 0, "test-student": 0},
                                   "nli": {"train": 2 + before, "dev": metrics["left_out"]["nli"]["dev"]}}


# ------------------------------------------------------------------------------------------------ any number of answers


@pytest.fixture
def model(tmp_path):
    found = MultitaskBert(BertModel(fuzz.config()), BertTokenizer.train(fuzz.SENTENCES, 80), "concatB")
    found.save_pretrained(tmp_path / "model")
    return MultitaskBert.from_pretrained(tmp_path)


def pairs_file(path, count, wrong=None):
    rows = [f"{fuzz.SENTENCES[k % 6]} {'film ' * (k % 9)}\t{fuzz.SENTENCES[k % 5]} {k}" for k in range(count)]
    if wrong is not None:
        rows[wrong] += "\ttoo\tmany"
    path.write_text("\n".join(["sentence1\tsentence2", *rows]) + "\n", encoding="utf-8")
    return [tuple(row.split("\t")[:2]) for row in rows]


def test_answers_come_in_input_order_a_few_lines_at_a_time(model, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "AT_ONCE", 7)
    items = pairs_file(tmp_path / "in.tsv", 50)
    assert predict.main([str(tmp_path), "--task", "sts", "--input", str(tmp_path / "in.tsv"), "--output",
                         str(tmp_path / "out.tsv")]) == 0
    rows = [line.split("\t") for line in (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()]
    assert [tuple(row[:2]) for row in rows[1:]] == items
    # four digits; float32 rounding of other batches may turn the last one
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(model.predict_similarity(items).tolist(), abs=1.1e-4)

    read = 0

    def counted():
        nonlocal read
        for item in items:
            read += 1
            yield item

    answered = predict.answers(model, STS, counted(), len(items))
    assert next(answered)[0] == items[0]
    assert read == 7  # the rest of the file is still where it was


def test_a_wrong_line_is_found_before_the_first_is_answered(model, tmp_path, capsys):
    pairs_file(tmp_path / "in.tsv", 50, wrong=40)
    for more in ([], ["--output", str(tmp_path / "out.tsv")]):
        assert predict.main([str(tmp_path), "--task", "para", "--input", str(tmp_path / "in.tsv"), *more]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "in.tsv, line 42: more fields than the header has" in printed.err
    assert not list(tmp_path.glob("out.tsv*"))


def test_a_pipe_is_answered_too(model, tmp_path, capsys):
    items = pairs_file(tmp_path / "in.tsv", 5)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "in.tsv").read_bytes()))
    writer.start()
    assert predict.main([str(tmp_path), "--task", "para", "--input", str(tmp_path / "pipe")]) == 0
    writer.join(10)
    assert len(capsys.readouterr().out.splitlines()) == len(items)


# ------------------------------------------------------------------------------------------------ the report

HOSTILE = ('<script>alert(1)</script> </style></title></table> <img src=x onerror=alert(1)> "quoted" \'quoted\' '
           "<a href=\"javascript:alert(1)\">javascript:alert(1)</a> <!-- &lt;b&gt; ]]> \x00")


def test_nothing_in_data_or_names_becomes_markup(tmp_path):
    names = {**SETTINGS, "model": HOSTILE, "data": f"/data/{HOSTILE}", "precision": HOSTILE}
    page = written(tmp_path, names, {**METRICS, "environment": {"commit": HOSTILE}}, analysis=small_analysis(HOSTILE))
    plain = written(tmp_path, {**SETTINGS, "model": "m", "data": "/data", "precision": "fp32"},
                    {**METRICS, "environment": {"commit": "c"}}, analysis=small_analysis("a plain sentence"))
    reader, sound = Reader(page), Reader(plain)
    assert reader.open == []
    assert not {"script", "a"} & {tag for tag, _ in reader.elements}
    for tag in ("style", "title", "table", "img"):
        assert len(reader.all(tag)) == len(sound.all(tag)), tag
    assert not [value for _, attributes in reader.elements for value in attributes.values() if "alert" in (value or "")]
    assert reader.text.count("<script>alert(1)</script>") >= 3 * 5  # shown as it is written: worst errors, names
    assert page.count("javascript:") == reader.text.count("javascript:")


def test_warnings_of_the_reader_do_not_hide_an_error(tmp_path):
    """Blank labels and a wrong one in one file: the wrong one is what is told."""
    (tmp_path / "q.csv").write_text("id\tsentence1\tsentence2\tis_duplicate\n1\ta\tb\t\n2\ta\tb\t7\n")
    with pytest.raises(ValueError, match="line 3: is_duplicate is '7'"):
        read_examples(tmp_path / "q.csv", PARA)
