"""Lesson 20: nothing let in.

Every file from outside makes claims: about its encoding, its columns, its sizes, about being
harmless. You learn what is checked before a claim is believed. A wrong line is named with its
number. A size is compared with the bytes in the file before memory is taken for it. A pickle never
runs, and rows that are left out are counted.
tools/fuzz.py makes a hundred thousand wrong files; a few hundred of them are made here.
"""

import io
import json
import os
import shutil
import sys
import threading
import tracemalloc
import zipfile
from pathlib import Path

import fuzz
import mutations
import pytest
import sound_files as sound
import torch
from programs import edit_json
from safetensors.torch import load_file

from heads import ARCHITECTURES
from minbert import BertConfig, BertModel, BertTokenizer, files
from multitask import MultitaskBert, predict
from multitask.data import multinli
from multitask.data.batching import TokenizedExamples
from multitask.data.examples import Example, read_examples, read_rows
from multitask.pretraining.corpus import Corpus
from multitask.pretraining.settings import PretrainingSettings
from multitask.runs.inputs import describe_truncated
from multitask.runs.settings import Settings
from multitask.tasks import SST, STS


def message_of(caught: pytest.ExceptionInfo) -> str:
    """The error's message, which must be one printable line."""
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_mutated_files(name, tmp_path):
    """A mutated file is read right, or refused in one line that names it."""
    result = fuzz.fuzz(name, 25, tmp_path / "case")

    assert result["findings"] == {}


# ------------------------------------------------------------------------------- the course's files

HEADER = b"id\tsentence\tsentiment\n"
READ_RIGHT = {
    "byte order mark, Windows line ends": (b"\xef\xbb\xbfid\tsentence\tsentiment\r\nx\tgood\t4\r\n",
                                           [("x", "good", 4)]),
    "no line end at the end": (HEADER + b"x\tgood\t4", [("x", "good", 4)]),
    "blank lines": (HEADER + b"x\tgood\t4\n\ny\tbad\t0\n\n", [("x", "good", 4), ("y", "bad", 0)]),
    "labels with spaces and points": (HEADER + b"x\tgood\t 1\ny\tbad\t1.0\nz\tso\t1 \n",
                                      [("x", "good", 1), ("y", "bad", 1), ("z", "so", 1)]),
    "an empty sentence": (HEADER + b"x\t\t4\n", [("x", "", 4)]),
    "10,000 words": (HEADER + b"x\t" + b"word " * 10_000 + b"\t4\n", [("x", "word " * 10_000, 4)]),
    "doubled quotation marks": (HEADER + b'x\t"""Good"", he said"\t4\n',
                                [("x", '"Good", he said', 4)]),
    "a quotation mark inside": (HEADER + b'x\tgood 7" disc\t4\n', [("x", 'good 7" disc', 4)]),
    "a quoted tab": (HEADER + b'x\t"a\tb"\t4\n', [("x", "a\tb", 4)]),
    "a quoted line end": (HEADER + b'x\t"a\nb"\t4\ny\tc\t3\n', [("x", "a\nb", 4), ("y", "c", 3)]),
    "both, between commas": (HEADER.replace(b"\t", b",") + b'x,"a\tb\nc",4\n',
                             [("x", "a\tb\nc", 4)]),
    "other column order": (b"sentiment\t\tsentence\tid\n4\t0\tgood\tx\n", [("x", "good", 4)]),
}


@pytest.mark.parametrize("case", READ_RIGHT)
def test_odd_but_sound(case, tmp_path):
    content, expected = READ_RIGHT[case]
    (tmp_path / "x.csv").write_bytes(content)

    found = read_examples(tmp_path / "x.csv", SST)
    assert [(example.id, *example.sentences, example.label) for example in found] == expected


# the file → the error, with its line and what to do
REFUSED = {
    "latin-1": (HEADER + "x\tcafé\t4".encode("latin-1"),
                r", line 2: not UTF-8 \(byte 0xe9 at 6 of the line, in latin-1 .é.\); save the file"),
    "late latin-1": (HEADER + b"x\tgood\t4\n" * 3000 + b"y\t\xff\t4",
                     r", line 3002: not UTF-8 \(byte 0xff at 3 of the "),
    "too few fields": (HEADER + b"x\tgood",
                       ", line 2: no field for column 'sentiment', only 2 for 3; is a delimiter"),
    "too many fields": (HEADER + b"x\tgood\t4\t5",
                        ", line 2: more fields than the header has, 4 for 3; is a delimiter"),
    "no closing mark": (HEADER + b'w\tso\t1\nx\t"good\t4\ny\tbad\t3',
                        ", line 3: unexpected end of data; is a quotation mark"),
    "a mark that closes early": (HEADER + b'x\t"good" film\t4',
                                 r", line 2: '\\t' expected after '\"'; is a quotation mark missing"),
    "a mark that closes two rows on": (HEADER + b'x\t"good\t4\ny\tbad"\t3',
                                       ", line 2: sentence contains both tabs"),
    "a field without end": (HEADER + b"x\t" + b"x" * 140_000 + b"\t4",
                            r", line 2: field larger than field limit \(131072\)"),
    "an id of two lines": (HEADER + b'"x\ny"\tgood\t4',
                           r", line 2: id is 'x\\ny', expected one line"),
    "an id with a line separator": (HEADER + "x\u2028y\tgood\t4".encode(),
                                    ", line 2: id is .*, expected one line"),
    "bars": (b"id|sentence|sentiment\nx|good|4\n",
             ", line 1: no column 'id'; expected columns id, .*separated by tabs, commas or"),
    "a test file as train": (b"\tid\tsentence\n0\tx\tgood\n",
                             ", line 1: no column 'sentiment'; expected .*'id', 'sentence'$"),
    "a column twice": (b"id\tsentence\tsentence\tsentiment\nx\tgood\tbad\t4",
                       ", line 1: 'sentence' names 2 columns"),
    "a header alone": (HEADER, ".* holds no usable rows: at least one is needed$"),
    "nothing": (b"", ".* is empty: expected a header"),
    "another encoding": ((HEADER + b"x\tgood\t4").decode().encode("utf-16"),
                         r", line 1: not UTF-8, it looks like UTF-16"),
    "a carriage return": (HEADER + b"x\tgo\rod\t4", ", line 2: a carriage return"),
    # no warning of the blank one, which would be an error here
    "a blank label and a wrong one": (HEADER + b"x\tgood\t\ny\tbad\t7",
                                      ", line 3: sentiment is '7'"),
    "zip": (b"PK\x03\x04\xff",
            " is an Excel workbook or another zip file: save the sheet as CSV, or unpack it"),
    "xls": (b"\xd0\xcf\x11\xe0", " is an Excel workbook: save the sheet as CSV"),
    "gzip": (b"\x1f\x8b\x08\xff", r" is compressed \(gzip\): unpack it"),
    **{f"label {label!r}": (HEADER + f"w\tso\t1\nx\tgood\t{label}".encode(),
                            f", line 3: sentiment is '{label}', expected .* whole number from 0 to 4")
       for label in ("nan", "5", "-1", "2.5", "four", "inf", "1_0", "0x1")},
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_course_file(case, tmp_path):
    content, message = REFUSED[case]
    (tmp_path / "x.csv").write_bytes(content)

    with pytest.raises(ValueError, match=rf"x\.csv{message}") as caught:
        read_examples(tmp_path / "x.csv", SST)
    message_of(caught)


def test_blank_lines_of_one_column(tmp_path):
    """Between rows one may be meant as an empty sentence, at the end it is not."""
    path = tmp_path / "x.csv"
    path.write_text("sentence\nA.\n\nB.\n")
    with pytest.raises(ValueError, match=r"x\.csv, line 3: a blank line"):
        list(read_rows(path, ["sentence"]))
    path.write_text('sentence\nA.\n""\nB.\n\n\n')
    assert [row["sentence"] for _, row in read_rows(path, ["sentence"])] == ["A.", "", "B."]


def test_not_utf8_from_a_pipe(monkeypatch):
    """The error is as exact as a file's, though a pipe cannot be read twice."""
    content = io.BytesIO(HEADER + "é\tcafé".encode() + b"\xe9\t4")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    message = r"^standard input, line 2: not UTF-8 \(byte 0xe9 at 9 of "
    with pytest.raises(ValueError, match=message):
        list(read_rows(Path("-"), ["sentence"]))


def test_memory_of_a_reader(tmp_path):
    """A file is read line by line, whatever its length."""
    path = tmp_path / "x.csv"
    row = b"x\ta sentence of some length, the same in every row\t4\n"
    path.write_bytes(HEADER + row * 20_000)

    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path, ["id", "sentence"])) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 < path.stat().st_size / 5  # bytes: some buffers, not the file


def test_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LINE_CHARACTERS", 1000)
    (tmp_path / "x.csv").write_bytes(HEADER + b"x\tgood\t4\n" + b"y" * 5000)
    with pytest.raises(ValueError, match=r"x\.csv, line 3: more than 1,000 characters in one line"):
        read_examples(tmp_path / "x.csv", SST)


# ------------------------------------------------------------------------------- MultiNLI

PAIR = {"gold_label": "neutral", "pairID": "p", "sentence1": "A dog runs.",
        "sentence2": "A dog is tired."}
GOOD = json.dumps(PAIR).encode()


def read_multinli(folder, *lines: bytes):
    path = folder / multinli.FOLDER / "x.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n".join(lines))
    return multinli.read_multinli(folder, "x.jsonl")


def test_multinli_labels(tmp_path):
    """0, 1, 2 are entailment, neutral, contradiction; pairs without a label are left out."""
    with pytest.raises(FileNotFoundError, match=r"train.jsonl is missing: put .*--download"):
        multinli.load_multinli(tmp_path)
    blank, none, *others = (json.dumps({**PAIR, "gold_label": label}).encode()
                            for label in (" ", "-", "entailment", "contradiction"))
    with pytest.warns(UserWarning, match=r"x\.jsonl: left out 1 pair with a blank gold_label"):
        found = read_multinli(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r", b"", blank, none, *others)
    assert [example.label for example in found] == [1, 0, 2]
    assert found[0] == Example("p", ("A dog runs.", "A dog is tired."), 1)
    with pytest.raises(ValueError, match="holds no pair with a label"):
        read_multinli(tmp_path, none)


@pytest.mark.parametrize(("line", "message"), [
    (b'{"gold_label": ' + b"9" * 5000 + b"}",
     "not one JSON object per line, it is not valid JSON .*digits"),
    (b"[" * 100_000, "is not valid JSON .nested too deeply"),
    (b"[1]", "expected a JSON object with a string 'gold_label'"),
    (GOOD.replace(b'"A dog runs."', b"3"), "'sentence1' is 3; expected a string, in quotes"),
    (GOOD.replace(b'"A dog runs."', b"null"), "'sentence1' is null; expected a string"),
    (GOOD.replace(b"sentence1", b"text"), "a string 'sentence1', found 'gold_label', 'pairID'"),
    (GOOD.replace(b"dog runs", b"dog \\ud800 runs"), "sentence1 has an unpaired surrogate"),
    (GOOD.replace(b"neutral", b"Neutral"),
     "gold_label is 'Neutral', expected neutral; labels are case-sensitive"),
    (GOOD.replace(b"dog", "été ".encode() + b"\xff"),
     r"not UTF-8 \(byte 0xff at 64 of the line, in"),
    (GOOD[:-5], "not valid JSON"),
])
def test_wrong_multinli_line(line, message, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.jsonl, line 2: .*{message}") as caught:
        read_multinli(tmp_path, GOOD, line)
    message_of(caught)


# ----------------------------------------------------------------------- weights and configurations


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tiny")
    BertTokenizer.train(sound.SENTENCES, 50).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def pickle_weights(folder, change, **options) -> None:
    """Replaces the weights by a pickle in which one tensor is changed."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "encoder.layer.0.output.dense.weight"
    torch.save({**tensors, name: change(tensors[name])}, folder / "pytorch_model.bin", **options)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensor: tensor.to("meta"),
     r"output\.dense\.weight is torch\.strided on meta, expected plain numbers"),
    (lambda tensor: tensor.to_sparse(),
     r"output\.dense\.weight is torch\.sparse_coo on cpu, expected plain numbers"),
    (lambda tensor: tensor.to(torch.complex64), r"output\.dense\.weight holds torch\.complex64"),
    (lambda tensor: sound.Hostile(), "is refused: it is damaged or wants to run code"),
])
def test_pickled_tensors(folder, change, message):
    pickle_weights(folder, change)
    with pytest.raises(ValueError, match=rf"pytorch_model\.bin.*{message}"):
        BertModel.from_pretrained(folder)
    assert not sound.OUTSIDE.exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_expanded_weights(folder, is_zip):
    """One stored number expanded to a billion, in 100 KB; config.json claims the same shapes."""
    wide = 10_000_000
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        tensors[f"{layer}.intermediate.dense.weight"] = torch.zeros(1).expand(wide, 24)
        tensors[f"{layer}.intermediate.dense.bias"] = torch.zeros(1).expand(wide)
        tensors[f"{layer}.output.dense.weight"] = torch.zeros(1).expand(24, wide)
    edit_json(folder / "config.json", lambda config: config.update(intermediate_size=wide))

    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert (folder / "pytorch_model.bin").stat().st_size < 200_000
    message = r"pytorch_model\.bin is refused: its tensors claim 3,[\d,]+ bytes, but only"
    with pytest.raises(ValueError, match=message):
        BertModel.from_pretrained(folder)


def test_compressed_pickle(folder):
    """A thousand zeros pack into a few bytes: a bomb. torch.save compresses nothing."""
    pickle_weights(folder, lambda tensor: tensor)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(mutations.zipped(entries))

    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused: it would unpack to"):
        BertModel.from_pretrained(folder)


def test_tensor_name_of_another_type(folder):
    (folder / "model.safetensors").unlink()
    torch.save({1: torch.zeros(1)}, folder / "pytorch_model.bin")
    message = r"pytorch_model\.bin must hold named tensors only, but 1 is"
    with pytest.raises(ValueError, match=message):
        BertModel.from_pretrained(folder)


@pytest.mark.parametrize(("change", "message"), [
    ('"vocab_size": 1000000000000000000',
     "vocab_size must be from 1 to 10000000, got 1000000000000000000"),
    ('"num_hidden_layers": ' + "9" * 5000, "is not valid JSON .*digits"),
    ('"layer_norm_eps": NaN', "layer_norm_eps must be finite, got nan"),
    ('"layer_norm_eps": 1' + "0" * 400, "layer_norm_eps must be finite"),
    ('"initializer_range": -1', "initializer_range must be 0 or more"),
    ('"pad_token_id": 50', r"pad_token_id must be in \[0, 50\)"),
    ('"hidden_act": "' + "x" * 10_000 + '"', "hidden_act 'xxxx"),
    ('"x": ' + "[" * 100_000 + "]" * 100_000, "is not valid JSON .nested too deeply"),
])
def test_config_claims(tmp_path, change, message):
    """Sizes are bounded before anything is built."""
    (tmp_path / "config.json").write_text('{"vocab_size": 50, ' + change + "}")
    with pytest.raises(ValueError, match=rf"config\.json.*{message}") as caught:
        BertConfig.from_file(tmp_path / "config.json")
    message_of(caught)


def test_large_json(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "JSON_BYTES", 10)
    (tmp_path / "config.json").write_text(" " * 11)
    with pytest.raises(ValueError, match=r"config\.json has 11 bytes, where at most 10"):
        BertConfig.from_file(tmp_path / "config.json")


RUN, PRETRAINING = {"arch": "concatB", "gs": "wrap"}, {"text": "text.txt"}


@pytest.mark.parametrize(("kind", "sound_values", "change", "message"), [
    (Settings, RUN, {"epochs": 1.5}, "--epochs 1.5: expected int"),
    (Settings, RUN, {"epochs": True}, "--epochs True: expected int"),
    (Settings, RUN, {"nli": 1}, "--nli 1: expected bool"),
    (Settings, RUN, {"batch_sizes": [1]}, r"--batch-sizes \[1\]: expected dict"),
    (Settings, RUN, {"batch_sizes": {"sst": 1, "para": True, "sts": 1}},
     r"--batch-sizes \{.*\}: expected dict"),
    (Settings, RUN, {"lr": 1e308}, r"--lr 1e\+308: must be 0 or more, and at most 1e\+15"),
    (Settings, RUN, {"clip": 10**400}, "--clip 1000.*: must be 0 or more"),
    (PretrainingSettings, PRETRAINING, {"batch_size": 0}, "--batch-size 0: must be at least 1"),
    (PretrainingSettings, PRETRAINING, {"epochs": 10**400},
     "--epochs 1000.*: must be at least 1, and below"),
    (PretrainingSettings, PRETRAINING, {"x": 1}, "unexpected keyword argument 'x'"),
])
def test_settings_files(kind, sound_values, change, message, tmp_path):
    """A run's settings have the types and bounds of its flags."""
    (tmp_path / "settings.json").write_text(json.dumps(sound_values))
    kind.load(tmp_path / "settings.json")

    (tmp_path / "settings.json").write_text(json.dumps({**sound_values, **change}))
    with pytest.raises(ValueError, match=rf"settings\.json .*{message}") as caught:
        kind.load(tmp_path / "settings.json")
    message_of(caught)


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_corpus(content, tmp_path):
    if content is not None:
        (tmp_path / "corpus.safetensors").write_bytes(content)
    message = r"corpus\.safetensors is missing or damaged .*start again with another --out"
    with pytest.raises(ValueError, match=message):
        Corpus.load(tmp_path / "corpus.safetensors")


# ------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(("change", "message"), [
    (lambda value: value.update(model=sound.OTHER_MODELS[0]),
     "its model is BPE, but BERT uses WordPiece"),
    (lambda value: value.update(model=sound.OTHER_MODELS[1]), "its model is WordLevel"),
    (lambda value: value.update(post_processor=None), r"it gives \['\[UNK\]'\]"),
    (lambda value: value["post_processor"]["pair"][3]["Sequence"].update(type_id=0),
     "with token types"),
    (lambda value: value["model"].update(unk_token="<unk>"), r"Missing \[UNK\]"),
])
def test_other_tokenizers(folder, change, message):
    edit_json(folder / "tokenizer.json", change)
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}"):
        BertTokenizer.from_pretrained(folder)


def test_vocabulary_with_a_hole(folder):
    """The vocabulary's size is its highest id, for which the encoder has no row."""
    edit_json(folder / "tokenizer.json",
              lambda value: value["model"]["vocab"].update(film=4_000_000_000))
    tokenizer = BertTokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == 4_000_000_001
    with pytest.raises(ValueError, match="they do not belong together"):
        MultitaskBert(BertModel.from_pretrained(folder), tokenizer, "concatB")


def test_vocabulary_from_windows(folder):
    expected = BertTokenizer.from_pretrained(folder).vocabulary
    (folder / "tokenizer.json").unlink()
    text = (folder / "vocab.txt").read_text(encoding="utf-8")
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert BertTokenizer.from_pretrained(folder).vocabulary == expected


# ------------------------------------------------------------------------------- overlong input


def test_two_long_sentences():
    """The tokenizers package would pair all overflowing parts: 2,149 pairs here."""
    tokenizer = BertTokenizer.train(sound.SENTENCES, 80)
    [encoding] = tokenizer.encode(["plot " * 300], ["plot " * 300], max_length=16)
    assert len(encoding) == 16
    assert len(encoding.overflowing) < 50
    assert encoding.tokens == ["[CLS]", *["plot"] * 6, "[SEP]", *["plot"] * 7, "[SEP]"]


def test_truncated_is_counted():
    """Counted per example, however many of its sentences are cut."""
    tokenizer, word = BertTokenizer.train(sound.SENTENCES, 80), "plot "
    joined = MultitaskBert(BertModel(sound.config()), tokenizer, "concatB")
    apart = ARCHITECTURES["concatA"]
    examples = [Example("1", (word * 6, word * 7), 1.0), Example("2", (word * 7, word * 7), 1.0),
                Example("3", ("", ""), 1.0), Example("4", (word * 10_000, word * 10_000), 1.0)]

    tokens = joined.tokenize(examples)  # [CLS] 6 [SEP] 7 [SEP] fill the 16 positions
    assert tokens.truncated == 2
    assert tokens.lengths.tolist() == [16, 16, 3, 16]
    assert TokenizedExamples(examples, tokenizer, apart, 9).truncated == 1  # [CLS] 7 [SEP] are 9

    splits = {"train": tokens, "dev": joined.tokenize(examples[:1])}
    expected = "2 examples are longer than 16 tokens and will be cut (sts train 2)"
    assert describe_truncated({"sts": splits}, 16) == expected
    assert describe_truncated({"sts": {"dev": splits["dev"]}}, 16) == ""


@pytest.mark.filterwarnings("always")
def test_run_reports_left_out(small_data, brief_run, tmp_path, capsys):
    """Counts rows without a label, in the whole file, whatever --eval-limit takes."""
    data = shutil.copytree(small_data, tmp_path / "data")
    for name, numbers in (("quora-dev.csv", (3, 9)), ("ids-sst-train.csv", (5,))):
        lines = (data / name).read_text().splitlines()
        for number in numbers:
            lines[number] = lines[number].rsplit("\t", 1)[0] + "\t"
        (data / name).write_text("\n".join(lines) + "\n")
    path = data / "multinli" / "multinli_1.0_train.jsonl"
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    pairs[0]["gold_label"], pairs[1]["gold_label"] = "-", ""
    path.write_text("\n".join(map(json.dumps, pairs)) + "\n")

    run = brief_run(tmp_path / "run", "--data", data, "--max-steps", 1, "--nli", "--eval-limit", 4)
    metrics, printed = json.loads((run / "metrics.json").read_text()), capsys.readouterr().err
    for words in ("quora-dev.csv: left out 2 rows", "ids-sst-train.csv: left out 1 row",
                  "left out 1 pair"):
        assert words in printed
    assert metrics["examples"]["para"]["dev"] == 4
    left_out = metrics["left_out"]
    assert left_out["nli"]["train"] == sum(pair["gold_label"] in ("-", "") for pair in pairs)
    for task, counts in (("sst", (1, 0, 0)), ("para", (0, 2, 0)), ("sts", (0, 0, 0))):
        assert left_out[task] == dict(zip(("train", "dev", "test-student"), counts, strict=True))


# -------------------------------------------------------------- predictions for any number of lines


@pytest.fixture
def model(tmp_path):
    found = MultitaskBert(BertModel(sound.config()), BertTokenizer.train(sound.SENTENCES, 80),
                          "concatB")
    found.save_pretrained(tmp_path / "model")
    return MultitaskBert.from_pretrained(tmp_path)


def write_pairs(path, count, wrong=None) -> list[tuple[str, str]]:
    rows = [f"{sound.SENTENCES[k % 6]} {'film ' * (k % 9)}\t{sound.SENTENCES[k % 5]} {k}"
            for k in range(count)]
    pairs = [tuple(row.split("\t")) for row in rows]
    if wrong is not None:
        rows[wrong] += "\ttoo\tmany"
    path.write_text("\n".join(["sentence1\tsentence2", *rows]) + "\n", encoding="utf-8")
    return pairs


def predict_file(folder, task, file, *more) -> int:
    return predict.main([str(folder), "--task", task, "--input", str(file), *map(str, more)])


def test_predictions_in_order(model, tmp_path, monkeypatch):
    """Some lines at a time, in input order; the rest of the file is not read yet."""
    monkeypatch.setattr(predict, "AT_ONCE", 7)
    pairs = write_pairs(tmp_path / "in.tsv", 50)
    assert predict_file(tmp_path, "sts", tmp_path / "in.tsv", "--output", tmp_path / "out.tsv") == 0

    rows = [line.split("\t")
            for line in (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()]
    assert [tuple(row[:2]) for row in rows[1:]] == pairs
    # four digits; float32 rounding of other batches may turn the last one
    expected = pytest.approx(model.predict_similarity(pairs).tolist(), abs=1.1e-4)
    assert [float(row[2]) for row in rows[1:]] == expected

    source = iter([dict(zip(STS.text, pair, strict=True)) for pair in pairs])
    answered = predict.Asker(model, [STS]).ask_all(source, len(pairs))
    assert tuple(next(answered)[0].values()) == pairs[0]
    assert len(list(source)) == 50 - 7


def test_input_is_checked_first(model, tmp_path, capsys):
    """A wrong line is found before the first is answered."""
    write_pairs(tmp_path / "in.tsv", 50, wrong=40)
    for more in ([], ["--output", tmp_path / "out.tsv"]):
        assert predict_file(tmp_path, "para", tmp_path / "in.tsv", *more) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "in.tsv, line 42: more fields than the header has" in printed.err
    assert not list(tmp_path.glob("out.tsv*"))


def test_input_from_a_pipe(model, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "in.tsv", 5)
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "in.tsv").read_bytes()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content))
    writer.start()
    assert predict_file(tmp_path, "para", tmp_path / "pipe") == 0
    writer.join(10)
    assert len(capsys.readouterr().out.splitlines()) == len(pairs)
