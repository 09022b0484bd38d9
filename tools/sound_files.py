"""Small sound files of every kind that the library reads, as bytes: what fuzz.py mutates."""

import functools
import io
import json
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import torch
from mutations import zipped
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertForMaskedLM, BertModel, BertTokenizer
from minbert.files import write_json
from multitask import MultitaskBert
from multitask.data.examples import Example
from multitask.runs import run as main_job
from multitask.runs.settings import Settings
from multitask.runs.stages import Stage
from multitask.system.distributed import ALONE
from multitask.system.runlog import RunLog

SENTENCES = ["a good film", "the plot is thin, the cast is not", "why would anyone see it twice",
             "it is what it is", "Crème brûlée!", ""]
OUTSIDE = Path(tempfile.gettempdir()) / f"outside-{os.getpid()}"
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}
OTHER_MODELS = [  # of the tokenizers package: none of them is a BERT's
    {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
     "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": SPECIAL,
     "merges": []},
    {"type": "WordLevel", "unk_token": "[UNK]", "vocab": SPECIAL},
    {"type": "Unigram", "unk_id": 0,
     "vocab": [["[UNK]", 0.0], ["[PAD]", 0.0], ["[CLS]", 0.0], ["[SEP]", 0.0]]},
]
TOKENIZER_PARTS = [
    *OTHER_MODELS, {"type": "Lowercase"}, {"type": "NFKC"}, {"type": "Whitespace"},
    {"type": "Fixed"},
    {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "bbbbbbbb"},
    {"type": "Prepend", "prepend": "x" * 1000}, {"type": "ByteLevel", "add_prefix_space": True},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False},
    {"type": "Sequence", "normalizers": []}, {"type": "Sequence", "pretokenizers": []},
    {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    {"max_length": 0, "stride": 9, "strategy": "OnlySecond", "direction": "Right"},
    {"strategy": {"Fixed": 10**15}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0,
     "pad_type_id": 0,
     "pad_token": "x"},
]


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    """The files in the folder, by their place in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ------------------------------------------------------------------------------------------- models


@functools.cache
def tokenizer() -> BertTokenizer:
    return BertTokenizer.train(SENTENCES, vocab_size=80)


@functools.cache
def config() -> BertConfig:
    return BertConfig(vocab_size=tokenizer().vocab_size, hidden_size=8, num_hidden_layers=1,
                      num_attention_heads=2, intermediate_size=8, max_position_embeddings=16)


@functools.cache
def collections() -> list[bytes]:
    """Pairs of sentences as JSON."""
    pairs = [["a good film", "a film"], ["two dogs", ""], ["no", "a " * 30]]
    return [json.dumps(pairs).encode(), json.dumps(pairs[:1]).encode()]


def model_files() -> dict[str, bytes]:
    """A model's folder, its weights in all three forms: one file, two with an index, and a
    pickle.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        BertForMaskedLM(config()).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        write_json(folder / "special_tokens_map.json", {
            "cls_token": "[CLS]", "mask_token": {"content": "[MASK]", "lstrip": True},
            "additional_special_tokens": ["[E2]"]})
        write_json(folder / "added_tokens.json", {"[E1]": tokenizer().vocab_size})

        tensors = load_file(folder / "model.safetensors")
        torch.save(tensors, folder / "pytorch_model.bin")

        places = {key: f"model-{1 + number % 2}.safetensors"
                  for number, key in enumerate(sorted(tensors))}
        for part in set(places.values()):
            save_file({key: tensors[key] for key in tensors if places[key] == part}, folder / part)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

        return read(folder)


class Hostile:
    """Unpickled the ordinary way, it makes a file outside the folder."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {OUTSIDE}",)


@functools.cache
def pickles() -> list[bytes]:
    """Sound weights in both of torch's forms, and what a hostile author would write instead."""
    tensors = torch.load(io.BytesIO(model_files()["pytorch_model.bin"]), weights_only=True)
    first, row = next(iter(tensors.items()))
    wide = torch.zeros(1).expand(10**6, 10**6)
    odd_rows = [None, wide, row.to_sparse(), row.to("meta"), row.long(), row.to(torch.complex64),
                torch.nn.Parameter(row)]
    odd = [Hostile(), {first: Hostile()}, {1: row}, {"state_dict": tensors}, [row], row, {}, 3]

    made = []
    for value in [tensors] * 3 + odd + [{**tensors, first: odd_row} for odd_row in odd_rows]:
        for is_zip in (True, False):
            buffer = io.BytesIO()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
            except Exception:  # the older form cannot hold some of them
                continue
            made.append(buffer.getvalue())
    return [*made, pickle.dumps(Hostile()), pickle.dumps({first: [1.0]})]


# --------------------------------------------------------------------------------------------- runs


def dataset() -> dict:
    singles = [(SENTENCES[k],) for k in range(6)]
    pairs = [(SENTENCES[k], SENTENCES[k % 5]) for k in range(6)]

    found = {}
    for name, texts in (("sst", singles), ("para", pairs), ("sts", pairs)):
        examples = [Example(str(k), sentences, float(k % 2)) for k, sentences in enumerate(texts)]
        found[name] = {"train": examples, "dev": examples}
    return found


@functools.cache
def run_files() -> dict[str, bytes]:
    """A run stopped after its first epoch: its model and its checkpoints."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a Pearson correlation of constant predictions
        folder = Path(name)
        torch.manual_seed(0)
        settings = Settings(arch="concatB", gs="wrap", model="scratch", epochs=2, batch_size=3,
                            max_steps=3, seed=1)
        settings.save(folder / "config.json")
        model = MultitaskBert(BertModel(config()), tokenizer(), "concatB")
        run = main_job._assemble(folder, settings, dataset(), model, RunLog(folder),
                                 lambda text: None, None, ALONE)
        try:
            run.stage = Stage(run, "gs")
            run.stage._train_epoch()
            run.stage._evaluate()
            run.stage._save()
        finally:
            run.log.close()
        return read(folder)


# --------------------------------------------------------------------------------------------- data


def task_files() -> list[bytes]:
    return [b"""[reviews]
kind = "classes"
labels = ["bad", "so-so", "good"]
text = ["review"]
label = "verdict"
train = "reviews.csv"
dev_share = 0.1

[same]
kind = "yes_no"
text = ["one", "two"]
label = "same"
train = "pairs.jsonl"
dev = "dev.jsonl"
weight = 0.5

[stars]
kind = "scale"
range = [1, 5]
text = ["review"]
label = "stars"
train = "reviews.csv"
dev_share = 0.1
metric = "spearman"
"""]


def course_files() -> list[bytes]:
    tables = ((("sentence", "sentiment"), ["0", "1", "2", "3", "4"]),
              (("sentence1", "sentence2", "is_duplicate"), ["0.0", "1.0", "", "1", "0"]),
              (("sentence1", "sentence2", "similarity"), ["0", "3.8", "5.0", "2.75", ""]))

    made = []
    for columns, labels in tables:
        lines = ["\t".join(("", "id", *columns))]
        for k, label in enumerate(labels):
            texts = (SENTENCES[k], SENTENCES[4 - k])[:len(columns) - 1]
            lines.append("\t".join((str(k), f"id{k}", *texts, label)))
        made.append(("\n".join(lines) + "\n").encode())
    return made


def test_files() -> list[bytes]:
    return [b"\tid\tsentence1\tsentence2\n0\ta\tA dog.\tA cat.\n1\tb\t\"He said \"\"no\"\".\"\tB\n"]


def multinli_files() -> list[bytes]:
    lines = []
    for k, label in enumerate(("neutral", "entailment", "-", "contradiction")):
        row = {"gold_label": label, "pairID": f"p{k}", "sentence1": SENTENCES[k],
               "sentence2": SENTENCES[-k],
               "genre": "x"}
        lines.append(json.dumps(row) + "\n")
    return ["".join(lines).encode()]


def multinli_zips() -> list[bytes]:
    return [zipped({"multinli_1.0/README.txt": b"x",
                    "multinli_1.0/multinli_1.0_train.jsonl": multinli_files()[0]})]
