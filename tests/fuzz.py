"""Mutated files by the hundred thousand for everything that reads files from outside.

    python tests/fuzz.py --inputs 100000 --out fuzz.json       # each target in a process of its own, memory limited
    python tests/fuzz.py --inputs 2000 --only config --only course

hypothesis draws the mutations; TARGETS is the table of what is mutated and what reads it. An input must be accepted,
and the result usable, or refused by one line that names the file: a ValueError or OSError. Anything else is a finding,
kept with its input: another exception, a message of several lines or without the file's name, more than SECONDS of
processor time, more memory than MEMORY_BYTES, a file outside its folder, a pickle that ran.
tests/system/test_20_nothing_let_in.py runs a few hundred of them with every change; docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import base64
import collections
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from minbert import BertConfig, BertForMaskedLM, BertModel, BertTokenizer
from minbert.checkpoints import hub
from multitask import MultitaskBert
from multitask.data import sources
from multitask.data.course import Example, read_examples, read_rows
from multitask.data.multinli import read_multinli
from multitask.pretraining import run as pretraining
from multitask.pretraining.corpus import Corpus
from multitask.runs import run as main_job
from multitask.runs.settings import Settings
from multitask.runs.stages import Stage
from multitask.system import checkpoint
from multitask.system.distributed import ALONE
from multitask.system.runlog import RunLog
from multitask.tasks import PARA, SST, STS

SECONDS = 5                   # of processor time: the machine may be busy with other things
MEMORY_BYTES = 256 << 20      # more than this above what the process took at its start is a finding
ADDRESS_BYTES = 4 << 30       # and an allocation of more than this fails
INPUTS_AN_EXAMPLE = 8         # mutations from one draw of hypothesis: its own work takes longer than most readers'
EXAMPLES_A_SEED = 250         # hypothesis keeps what it has drawn: so it is begun anew after so many
MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None
OURS = ("minbert", "multitask", "heads", "optim")

SENTENCES = ["a good film", "the plot is thin, the cast is not", "why would anyone see it twice", "it is what it is",
             "Crème brûlée!", ""]


# ---------------------------------------------------------------------------------------------- mutating bytes and text


INTERESTING = [b"", b"\0", b"\n", b"\r\n", b"\t", b'"', b'""', b",", b"\\", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"{",
               b"[", b"-1", b"1e999", b"NaN", b"\xed\xa0\x80", b"../", b"<script>", b"9" * 5000, b"x" * 200_000,
               (2**31).to_bytes(4, "little"), (2**63 - 1).to_bytes(8, "little"), b"\xff" * 8]


def mutate_bytes(rng: random.Random, data: bytes, words: Iterable[bytes] = INTERESTING) -> bytes:
    """One to four small accidents: a byte changed, a slice lost, doubled or moved, a word put in, the end cut off."""
    words = list(words)
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.randint(1, 16))
        kind = rng.randint(0, 6)
        if kind == 0:
            data = data[:start] + bytes([rng.randint(0, 255)]) + data[start + 1:]
        elif kind == 1:
            data = data[:start] + data[end:]
        elif kind == 2:
            data = data[:end] + data[start:]
        elif kind == 3:
            data = data[:start] + rng.choice(words) + data[start:]
        elif kind == 4:
            data = data[:start] + rng.choice(words) + data[end:]
        elif kind == 5:
            data = data[:start]
        else:
            data = data[end:] + data[:start]
    return data


class Raw(str):
    """Text that stands in the JSON as it is, which no value of Python's writes."""


class Pairs(list):
    """An object as a list of (key, value), so that a key may stand twice."""


VALUES = [None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 2**31, 2**32 - 1, 2**63, 10**18, 10**400, 1e308, "", "1", "x",
          "x" * 3000, "a\nb", "\u2028", "../../x", "/etc/passwd", "model.safetensors", [], {}, [0], {"a": 1}, [[1, 2]],
          Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), Raw('"\\ud800"'),
          Raw("[" * 100_000 + "]" * 100_000),
          Raw('{"a":' * 3000 + "1" + "}" * 3000), Raw("tru"), Raw("01")]


def dumps(value: object) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(str(key))}:{dumps(item)}" for key, item in value) + "}"
    if isinstance(value, dict):
        return dumps(Pairs(value.items()))
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "1" + "0" * 400
    return json.dumps(value)


def mutate_value(rng: random.Random, value: object, pool: list) -> object:
    """A JSON value with one accident somewhere in it: of another type or size, a key lost, doubled, new or misspelt."""
    if isinstance(value, (dict, Pairs)) and value and rng.randint(0, 9):
        pairs = Pairs(value.items() if isinstance(value, dict) else value)
        place, kind = rng.randint(0, len(pairs) - 1), rng.randint(0, 9)
        key, item = pairs[place]
        if kind == 0:
            del pairs[place]
        elif kind == 1:
            pairs.append((key, rng.choice(pool)))
        elif kind == 2:
            pairs[place] = (rng.choice([key + "s", key.upper(), "", "x" * 3000, "a\nb", "__proto__"]), item)
        elif kind == 3:
            pairs.insert(0, (rng.choice(["x", "bert", "extra"]), rng.choice(pool)))
        else:
            pairs[place] = (key, mutate_value(rng, item, pool))
        return pairs
    if isinstance(value, list) and value and rng.randint(0, 9):
        value, place = list(value), rng.randint(0, len(value) - 1)
        kind = rng.randint(0, 4)
        if kind == 0:
            del value[place]
        elif kind == 1:
            value.insert(place, rng.choice(pool))
        else:
            value[place] = mutate_value(rng, value[place], pool)
        return value
    return rng.choice(pool)


def mutate_json(rng: random.Random, data: bytes, pool: Iterable = ()) -> bytes:
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = mutate_value(rng, value, [*VALUES, *pool])
    text = dumps(value).encode()
    return mutate_bytes(rng, text) if rng.randint(0, 7) == 0 else text


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """A line lost, doubled, moved, blank, of another encoding or with other ends; or bytes anywhere."""
    lines = data.split(b"\n")
    place, kind = rng.randint(0, len(lines) - 1), rng.randint(0, 8)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, rng.choice(lines))
    elif kind == 2:
        lines.insert(place, b"")
    elif kind == 3:
        lines[place] = mutate_bytes(rng, lines[place])
    elif kind == 4:
        return b"\r\n".join(lines)
    elif kind == 5:
        return data.decode("utf-8", "ignore").encode(rng.choice(["utf-16", "utf-8-sig", "utf-16-le", "utf-32"]))
    elif kind == 6:
        return data.decode("utf-8", "ignore").encode("latin-1", "replace")
    else:
        return mutate_bytes(rng, data)
    return b"\n".join(lines)


LABELS = ["1", "1.0", " 1", "1 ", "nan", "", " ", "-1", "5", "5.5", "1e0", "1_0", "0x1", "inf", "１", "four", "-0",
          "9" * 400,
          "neutral", "0", "4", "3.8"]


def mutate_course(rng: random.Random, data: bytes) -> bytes:
    """A field of a tab-separated file changed as spreadsheets and people change it, or its lines, or its bytes."""
    rows = [line.split(b"\t") for line in data.split(b"\n") if line]
    for _ in range(rng.choice([1, 1, 1, 2])):
        row, kind = rng.choice(rows), rng.randint(0, 11)
        place = rng.randint(0, len(row) - 1) if row else 0
        if kind == 0:
            row[place:place + 1] = []
        elif kind == 1:
            row.insert(place, rng.choice(INTERESTING))
        elif kind == 2 and row:
            row[place] = rng.choice([b'"' + row[place], row[place] + b'"', b'"' + row[place] + b'"',
                                     row[place][:-1] + b'" ',
                                     b'"a ""b"" c"', b'"a\nb"', b'"a\tb"', b'"a\n\tb"', b"'", b'"'])
        elif kind == 3 and row:
            row[-1] = rng.choice(LABELS).encode()
        elif kind == 4 and row:
            row[place] = rng.choice([b"x " * 10_000, b"x" * 140_000, b"\0", "\u2028".encode(), "\x85".encode(), b"\r"])
        elif kind == 5:
            rows.insert(rng.randint(0, len(rows)), list(rng.choice(rows)))
        elif kind == 6:
            rows[:] = [[b",".join(line)] for line in rows]
        elif kind == 7:
            rng.shuffle(row)
        elif kind == 8:
            rows.insert(rng.randint(0, len(rows)), [])
        else:
            rows[rng.randint(0, len(rows) - 1)] = mutate_bytes(rng, b"\t".join(row)).split(b"\t")
    text = b"\n".join(b"\t".join(row) for row in rows) + b"\n"
    return mutate_lines(rng, text) if rng.randint(0, 3) == 0 else text


def mutate_jsonl(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    place = rng.randint(0, len(lines) - 2)
    if rng.randint(0, 3):
        pool = [{"gold_label": 1}, "-", "neutral", "entailment", "Neutral", " neutral", "", "\x00", "x " * 10_000]
        lines[place] = mutate_json(rng, lines[place], pool)
        return b"\n".join(lines)
    return mutate_lines(rng, data)


# ------------------------------------------------------------------------------------------------ mutating binary files


DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F4", "I64", "I32", "I8", "U8",
          "U16", "U64",
          "BOOL", "C64", "F31", "f32", ""]
SIZES = [0, 1, 2, 7, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, -1, 0.5, None, "8"]


def split_safetensors(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length]), data[8 + length:]


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """The header's claims changed: length, names, dtypes, shapes, offsets out of range and overlapping, metadata."""
    header, body = split_safetensors(data)
    pairs = Pairs(header.items())
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        place, kind = rng.randint(0, len(pairs) - 1), rng.randint(0, 9)
        name, about = pairs[place]
        about = dict(about) if isinstance(about, dict) and "shape" in about else {"shape": [1], "data_offsets": [0, 4],
                                                                                  "dtype": "F32"}
        shape, offsets = list(about["shape"]), list(about["data_offsets"])
        if kind == 0:
            about["dtype"] = rng.choice(DTYPES)
        elif kind == 1:
            about["shape"] = [*shape[:-1], rng.choice(SIZES)]
        elif kind == 2:
            about["shape"] = rng.choice([shape[::-1], [], shape * 3, [1] * 70, [*shape, 0], [*shape, 1], "8"])
        elif kind == 3:
            offsets[rng.randint(0, len(offsets) - 1) if offsets else 0:] = [rng.choice(SIZES)]
            about["data_offsets"] = offsets
        elif kind == 4:
            begin, end = offsets if len(offsets) == 2 and all(isinstance(x, int) for x in offsets) else (0, 4)
            about["data_offsets"] = rng.choice([[end, begin], [0, len(body)], [0, 0], [begin - 4, end], [begin,
                                                end + 4],
                                                []])
        elif kind == 5:
            name = rng.choice([rng.choice(pairs)[0], "bert." + name, name + "\n", "", "x" * 3000, "__metadata__"])
        elif kind == 6:
            del pairs[place]
            pairs = pairs or Pairs([("x", about)])
            continue
        elif kind == 7:
            pairs.append((name, about))
        elif kind == 8:
            pairs.insert(0, ("__metadata__", rng.choice([{}, {"format": "pt"}, {"format": 3}, "x", None,
                                                         {"multitask": "{"}])))
        else:
            about = mutate_value(rng, about, [*VALUES, *SIZES])
        pairs[min(place, len(pairs) - 1)] = (name, about)
    text = dumps(pairs).encode()
    length = rng.choice([len(text)] * 60 + [0, 1, len(text) - 1, len(text) + 1, 2**31, 100_000_001, 2**63, 2**64 - 1])
    body = rng.choice([body] * 30 + [body[:-1], body + b"\0", b"", body[: len(body) // 2]])
    made = length.to_bytes(8, "little") + text + body
    if rng.randint(0, 5) == 0:
        return mutate_bytes(rng, made)
    return made if rng.randint(0, 2) else made[:-4] + rng.choice(INTERESTING[-2:])[-4:]


NUMBERS = [b"\0" * 8, b"\1" + b"\0" * 7, b"\xff" * 8, b"\xff" * 3 + b"\x7f" * 5, b"\0\0\xc0\x7f" * 2,
           b"\xff\xff\x7f\x7f" * 2, b"\0\0\0\x80" * 2]


def mutate_numbers(rng: random.Random, data: bytes) -> bytes:
    """As mutate_safetensors, or the header is let be and numbers of a tensor or two are others."""
    if rng.randint(0, 1):
        return mutate_safetensors(rng, data)
    header, body = split_safetensors(data)
    start = len(data) - len(body)
    spans = [about["data_offsets"] for about in header.values() if "data_offsets" in about]
    for _ in range(rng.randint(1, 3)):
        begin, end = rng.choice(spans)
        begin = rng.choice([begin, rng.randint(begin, end)])
        words = rng.choice([*NUMBERS, rng.randbytes(8)]) * (1 if rng.randint(0, 3) else end)
        words = words[:max(1, end - begin)] if rng.randint(0, 1) else words[:rng.choice([1, 2, 4, 8])]
        data = data[:start + begin] + words + data[start + begin + len(words):]
    return data[:start + len(body)]


def rezipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that stands twice
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutate_zip(rng: random.Random, data: bytes, words: Iterable[bytes] = INTERESTING) -> bytes:
    """An entry's content, name, packing or place in the zip; or bytes anywhere, headers and sizes among them."""
    if not data.startswith(b"PK"):
        return mutate_bytes(rng, data, words)
    if rng.randint(0, 2) == 0:
        start = rng.choice([0, max(0, len(data) - 120), max(0, len(data) - 600)])
        return data[:start] + mutate_bytes(rng, data[start:])
    entries = entries_of(data)
    if not entries:
        return mutate_bytes(rng, data)
    name = rng.choice(sorted(entries, key=lambda name: (not name.endswith("data.pkl"), name))[:3])
    if rng.randint(0, 3):
        entries[name] = mutate_bytes(rng, entries[name], words)
    else:
        place = rng.choice(["../outside", "/tmp/outside", "..\\outside", "a/../../outside", name.upper(), " ",
                            "x" * 3000,
                            f"other/{name.rsplit('/')[-1]}", "__MACOSX/" + name])
        entries[place] = entries[name] if rng.randint(0, 1) else entries.pop(name)
    return rezipped(entries, rng.choice([zipfile.ZIP_STORED] * 3 + [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))


PICKLE_WORDS = [b"cos\nsystem\n", b"cbuiltins\nexec\n", b"c__builtin__\neval\n", b"(S'touch outside'\ntR.", b"R",
                b"b", b".",
                b"\x93", b"\x94", b"h\x00", b"j\xff\xff\xff\x7f", b"Q", b"}", b"]", b"N", b"\x85R", b"M\xff\xff",
                b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"ctorch\nload\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch.storage\nUntypedStorage\n", b"ccollections\nOrderedDict\n", b"X\x01\x00\x00\x00a"]


# ------------------------------------------------------------------------------------------------------ what is mutated


@functools.cache
def tokenizer() -> BertTokenizer:
    return BertTokenizer.train(SENTENCES, vocab_size=80)


@functools.cache
def config() -> BertConfig:
    return BertConfig(vocab_size=tokenizer().vocab_size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=8, max_position_embeddings=16)


@functools.cache
def files_of_a_run(stage: str = "gs") -> dict[str, bytes]:
    """The files of a run stopped after its first epoch, model and checkpoint, by their names in the run's folder.

    stage: gs, or fl, whose checkpoint says which of the frozen encoder's outputs are there.
    """
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a Pearson of constant predictions
        folder = Path(name)
        run = small_run(folder / "run", stage)
        try:
            run.stage = Stage(run, stage)
            run.stage._train_epoch()
            run.stage._evaluate()
            run.stage._save()
        finally:
            run.log.close()
        return {str(path.relative_to(folder / "run")): path.read_bytes()
                for path in (folder / "run").rglob("*") if path.is_file()}


def small_data() -> dict:
    make = {"sst": lambda k: (SENTENCES[k % 6],), "para": lambda k: (SENTENCES[k % 6], SENTENCES[k % 5])}
    dataset = {}
    for name in ("sst", "para", "sts"):
        examples = [Example(str(k), make.get(name, make["para"])(k), float(k % 2)) for k in range(6)]
        dataset[name] = {"train": examples, "dev": examples}
    return dataset


def small_run(folder: Path, stage: str) -> main_job.Run:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    stages = {"gs": "none", "fl": True} if stage == "fl" else {"gs": "wrap"}
    chosen = Settings(arch="concatB", **stages, model="scratch", epochs=2, batch_size=3, max_steps=3, seed=1)
    chosen.save(folder / "config.json")
    model = MultitaskBert(BertModel(config()), tokenizer(), "concatB")
    return main_job._run(folder, chosen, model, small_data(), RunLog(folder), torch.device("cpu"), lambda text: None,
                         None, ALONE)


PASSAGES = "\n\n".join(SENTENCES[k % 5] + "\n" + SENTENCES[-k % 5] for k in range(8)) + "\n"


@functools.cache
def files_of_a_pretraining() -> dict[str, bytes]:
    """The files of a run of pretraining stopped after its second step, by their names in the run's folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text(PASSAGES)
        run = pretraining.start_pretraining(pretraining.PretrainingSettings(
            str(folder / "text.txt"), layers=1, hidden=8, heads=2, vocab_size=80, length=16, batch_size=2, steps=6,
            held_out=0.2, checkpoint_every=1), folder / "run", lambda text: None)
        try:
            for _ in range(2):
                run._train_step(1.0, tqdm(disable=True))
                run.evaluate()
        finally:
            run.log.close()
        return {str(path.relative_to(folder / "run")): path.read_bytes()
                for path in (folder / "run").rglob("*") if path.is_file()}


@functools.cache
def files_of_a_model() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        BertForMaskedLM(config()).save_pretrained(name)
        tokenizer().save_pretrained(name)
        tensors = load_file(Path(name, "model.safetensors"))
        torch.save(tensors, Path(name, "pytorch_model.bin"))
        places = {}
        for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
            save_file({key: tensors[key] for key in part}, Path(name, f"model-{number}.safetensors"))
            places |= dict.fromkeys(part, f"model-{number}.safetensors")
        Path(name, "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


class Hostile:
    """Unpickled the ordinary way, it makes a file outside the folder."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {OUTSIDE}",)


OUTSIDE = Path(tempfile.gettempdir()) / f"outside-{os.getpid()}"


@functools.cache
def pickles() -> list[bytes]:
    """Sound weights in torch's forms, and what a hostile author would write in their place."""
    tensors = torch.load(io.BytesIO(files_of_a_model()["pytorch_model.bin"]), weights_only=True)
    first = next(iter(tensors))
    row = tensors[first]
    wide = torch.zeros(1).expand(10**6, 10**6)
    strange = [Hostile(), {first: Hostile()}, {1: row}, {"state_dict": tensors}, [row], row, {}, 3]
    strange += [{**tensors, first: value} for value in (
        None, wide, row.to_sparse(), row.to("meta"), row.long(), row.to(torch.complex64), torch.nn.Parameter(row))]
    made = []
    for value in (tensors, tensors, tensors, *strange):
        for new in (True, False):
            buffer = io.BytesIO()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.save(value, buffer, _use_new_zipfile_serialization=new)
            except Exception:  # what the older form cannot hold
                continue
            made.append(buffer.getvalue())
    return [*made, pickle.dumps(Hostile()), pickle.dumps({first: [1.0]})]


def mutate_pickle(rng: random.Random, data: bytes) -> bytes:
    return data if rng.randint(0, 9) == 0 else mutate_zip(rng, data, PICKLE_WORDS)


OTHER_MODELS = [
    {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
     "end_of_word_suffix": None,
     "fuse_unk": False, "byte_fallback": False, "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4},
    "merges": []},
    {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}},
    {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], ["[PAD]", 0.0], ["[CLS]", 0.0], ["[SEP]", 0.0]]},
]
TOKENIZER_PARTS = [
    *OTHER_MODELS, {"type": "Lowercase"}, {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": "(a+)+$"},
    "content": "b"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "bbbbbbbb"}, {"type": "Prepend", "prepend": "x" * 1000},
    {"type": "Sequence", "normalizers": []}, {"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": True},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False},
    {"type": "Sequence", "pretokenizers": []}, {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    {"type": "Fixed"}, {"max_length": 0, "stride": 9, "strategy": "OnlySecond", "direction": "Right"},
    {"strategy": {"Fixed": 10**15}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0,
"pad_token": "x"},
]


# -------------------------------------------------------------------------------------------------------- what reads it


def use_model(folder: Path) -> None:
    """Opens the encoder, alone and with its language-model head, and runs both."""
    model = BertModel.from_pretrained(folder)
    assert all(value.device.type == "cpu" and value.dtype == torch.float32 for value in model.parameters())
    model(torch.tensor([[0]]))
    BertForMaskedLM.from_pretrained(folder)(torch.tensor([[0]]))


TEXTS = ["", "a good film", "the [MASK] [SEP] plot", "Crème\u0301 漢字 \ufffd\x00", "a" * 300, "a b " * 200]


def use_tokenizer(folder: Path) -> None:
    found = BertTokenizer.from_pretrained(folder)
    for pairs in (None, TEXTS[::-1]):
        for encoding in found.encode(TEXTS, pairs, max_length=16):
            assert encoding.tokens[0] == "[CLS]"
            assert encoding.tokens[-1] == "[SEP]"
            assert len(encoding.ids) <= 16
            assert max(encoding.ids) < found.vocab_size
            assert set(encoding.type_ids) <= {0, 1}
    found(["a", "b"])


def use_run(folder: Path) -> None:
    main_job_run = main_job.resume(folder, lambda text: None, dataset=small_data())
    if main_job_run is not None:
        try:
            with suppress(FloatingPointError):  # weights of 1e38 may be saved; training with them is stopped by name
                main_job_run.stage.fit()
        finally:
            main_job_run.log.close()


def use_pretraining(folder: Path) -> None:
    """A step and an evaluation: how many there are in all is the settings' own claim."""
    run = pretraining.resume_pretraining(folder, lambda text: None)
    if run is not None:
        try:
            with suppress(FloatingPointError):
                if run.step < run.steps:
                    run._train_step(1.0, tqdm(disable=True))
                run.evaluate()
        finally:
            run.log.close()


CHECKPOINT = "checkpoint/2"


def as_if_its_text(folder: Path) -> None:
    """The checkpoint says that this corpus is the one it was made with."""
    path = folder / CHECKPOINT / checkpoint.VALUES_FILE
    with suppress(Exception):
        found = load_arrays((folder / pretraining.CORPUS_FILE).read_bytes())
        print_of_it = Corpus(found["ids"], found["ends"]).fingerprint
        path.write_text(json.dumps({**json.loads(path.read_text()), "corpus": print_of_it}))
    sum_anew(folder)


def sum_anew(folder: Path) -> None:
    """As somebody would who changes a checkpoint on purpose."""
    files = [path for path in (folder / CHECKPOINT).iterdir() if path.name != checkpoint.SUMS_FILE]
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / CHECKPOINT / checkpoint.SUMS_FILE).write_text(json.dumps(sums))


def with_one_checkpoint(files: Callable[[], dict[str, bytes]] = files_of_a_run) -> dict[str, bytes]:
    """Without the one before it, which would be gone on from."""
    return {name: content for name, content in files().items() if not name.startswith("checkpoint/1")}


def final_layers() -> dict[str, bytes]:
    return with_one_checkpoint(functools.partial(files_of_a_run, "fl"))


def pretraining_run() -> dict[str, bytes]:
    return with_one_checkpoint(files_of_a_pretraining)


def files_of_the_checkpoint() -> list[bytes]:
    """Each behind a line with its name."""
    return [Path(name).name.encode() + b"\n" + content for name, content in files_of_a_run().items()
            if name.startswith(CHECKPOINT)]


def mutate_named(rng: random.Random, data: bytes) -> bytes:
    name, content = data.split(b"\n", 1)
    return name + b"\n" + mutate_bytes(rng, content)


def put_damage(folder: Path) -> None:
    name, content = (folder / DAMAGE).read_bytes().split(b"\n", 1)
    (folder / DAMAGE).unlink()
    (folder / CHECKPOINT / name.decode()).write_bytes(content)


DAMAGE = "damage"


def use_damaged(folder: Path) -> None:
    """A checkpoint that is loaded is as it was written, the damaged one or the one before it."""
    sound, found = files_of_a_run(), checkpoint.load(folder)
    name = str(found.folder.relative_to(folder))
    assert found.values == json.loads(sound[f"{name}/{checkpoint.VALUES_FILE}"])
    for key, value in load_tensors(sound[f"{name}/{checkpoint.TENSORS_FILE}"]).items():
        assert torch.equal(found.tensors[key], value)
    use_run(folder)


def use_heads(folder: Path) -> None:
    answers = MultitaskBert.from_pretrained(folder).predict_similarity([("a good film", "a film")])
    assert answers.shape == (1,)


def use_examples(examples: list[Example], low: float, high: float, width: int, labelled: bool = True) -> None:
    assert examples
    for example in examples:
        assert len(example.sentences) == width
        assert len(example.id.splitlines()) < 2
        assert not labelled or low <= example.label <= high
    tokenizer().encode([text for example in examples for text in example.sentences], max_length=16)


def use_course(folder: Path) -> None:
    path = folder / "course.csv"
    header = path.read_bytes()[:300]
    task, high = next(((task, high) for task, high in ((PARA, 1), (STS, 5)) if task.label_column.encode() in header),
                      (SST, 4))
    use_examples(read_examples(path, task), 0, high, len(task.text_columns))


def use_test_file(folder: Path) -> None:
    use_examples(read_examples(folder / "course.csv", STS, labelled=False), 0, 0, 2, labelled=False)
    list(read_rows(folder / "course.csv", ["sentence1"]))


def use_multinli(folder: Path) -> None:
    use_examples(read_multinli(folder, "multinli_1.0_train.jsonl"), 0, 2, 2)


MULTINLI_ROWS = [row for row in sources.SOURCES if row.member]


def use_archive(folder: Path) -> None:
    archive, rows, target = folder / "multinli_1.0.zip", MULTINLI_ROWS[:1], folder / "unpacked.jsonl"
    for row, info in sources._members(rows, archive).items():
        sources._extract(archive, info, target, row)
        target.unlink()


def use_index(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    try:
        hub._check_content(path.name, path)
    except ValueError as error:  # as download.py tells it
        raise hub.HubError(f"{path.name} is refused: {error}") from error
    for part in hub._parts(path):
        assert (folder / part).resolve().parent == folder.resolve()
    use_model(folder)


@dataclass(frozen=True)
class Target:
    """share: of the inputs, in thousandths. file: what is mutated, in the folder. around: the sound files beside it.
    seeds: the sound contents. mutate: one of them, changed. use: reads the folder and uses what it found. prepare:
    what is done to the folder once the file is in it."""

    share: int
    file: str
    around: Callable[[], dict[str, bytes]]
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, bytes], bytes]
    use: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda folder: None


def nothing() -> dict[str, bytes]:
    return {}


def course_files() -> list[bytes]:
    rows = [f"{k}\tid{k}\t{SENTENCES[k]}\t{{}}" for k in range(5)]
    make = lambda header, labels, pairs: ("\n".join(  # noqa: E731
        [header, *(row.format(f"{SENTENCES[4 - k]}\t{labels[k]}" if pairs else labels[k]) for k,
                                                            row in enumerate(rows))])
        + "\n").encode()
    return [make("\tid\tsentence\tsentiment", "01234", False),
            make("\tid\tsentence1\tsentence2\tis_duplicate", ["0.0", "1.0", "", "1", "0"], True),
            make("\tid\tsentence1\tsentence2\tsimilarity", ["0", "3.8", "5.0", "2.75", ""], True)]


def test_files() -> list[bytes]:
    return [b"\tid\tsentence1\tsentence2\n0\ta\tA dog.\tA cat.\n1\tb\t\"He said \"\"no\"\".\"\tB\n"]


def multinli_file() -> bytes:
    rows = [{"gold_label": label, "pairID": f"p{k}", "sentence1": SENTENCES[k], "sentence2": SENTENCES[-k],
                                                "genre": "x"}
            for k, label in enumerate(("neutral", "entailment", "-", "contradiction"))]
    return ("\n".join(map(json.dumps, rows)) + "\n").encode()


def multinli_zip() -> bytes:
    return rezipped({"multinli_1.0/README.txt": b"x", MULTINLI_ROWS[0].member: multinli_file()}, zipfile.ZIP_DEFLATED)


def model_file(name: str) -> Callable[[], list[bytes]]:
    return lambda: [files_of_a_model()[name]]


def model_without(*names: str) -> Callable[[], dict[str, bytes]]:
    return lambda: {name: content for name, content in files_of_a_model().items() if name not in names}


def run_file(ending: str) -> Callable[[], list[bytes]]:
    return lambda: [content for name, content in files_of_a_run().items() if name.endswith(ending)]


WRITING = (use_run, use_damaged, use_pretraining)  # a resumed run writes into its folder, others leave it as it is
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TARGETS = {
    "safetensors": Target(50, "model.safetensors", model_without(*WEIGHTS), model_file("model.safetensors"),
                          mutate_safetensors, use_model),
    "index": Target(8, "model.safetensors.index.json", model_without(*WEIGHTS),
                    model_file("model.safetensors.index.json"), functools.partial(mutate_json, pool=[
                        "../x.safetensors", "model-1.safetensors", "model-2.safetensors", "config.json", "a\\b.bin",
    ".."]), use_index),
    "pickle": Target(25, "pytorch_model.bin", model_without(*WEIGHTS), pickles, mutate_pickle, use_model),
    "config": Target(70, "config.json", model_without("model.safetensors.index.json"), model_file("config.json"),
                     mutate_json, use_model),
    "tokenizer": Target(70, "tokenizer.json", model_without(*WEIGHTS), model_file("tokenizer.json"),
                        functools.partial(mutate_json, pool=TOKENIZER_PARTS), use_tokenizer),
    "vocabulary": Target(70, "vocab.txt", model_without(*WEIGHTS, "tokenizer.json"), model_file("vocab.txt"),
                         mutate_lines, use_tokenizer),
    "tokenizer_config": Target(22, "tokenizer_config.json", model_without(*WEIGHTS, "tokenizer.json"),
                               model_file("tokenizer_config.json"), mutate_json, use_tokenizer),
    "heads": Target(8, "model/heads.safetensors", lambda: files_of_a_run(), run_file("heads.safetensors"),
                    mutate_safetensors, use_heads),
    "checkpoint_tensors": Target(4, f"{CHECKPOINT}/state.safetensors", with_one_checkpoint,
                                 run_file(f"{CHECKPOINT}/state.safetensors"), mutate_safetensors, use_run, sum_anew),
    "checkpoint_values": Target(4, f"{CHECKPOINT}/state.json", with_one_checkpoint,
                                run_file(f"{CHECKPOINT}/state.json"), mutate_json, use_run, sum_anew),
    "checkpoint_damage": Target(4, DAMAGE, lambda: files_of_a_run(), files_of_the_checkpoint, mutate_named,
                                use_damaged, put_damage),
    "final_layers": Target(4, f"{CHECKPOINT}/state.safetensors", final_layers,
                           lambda: [final_layers()[f"{CHECKPOINT}/state.safetensors"]], mutate_numbers, use_run,
                           sum_anew),
    "pretraining_settings": Target(4, "pretraining.json", pretraining_run,
                                   lambda: [pretraining_run()["pretraining.json"]], mutate_json, use_pretraining),
    "pretraining_corpus": Target(4, "corpus.safetensors", pretraining_run,
                                 lambda: [pretraining_run()["corpus.safetensors"]], mutate_numbers, use_pretraining,
                                 as_if_its_text),
    "pretraining_tensors": Target(4, f"{CHECKPOINT}/state.safetensors", pretraining_run,
                                  lambda: [pretraining_run()[f"{CHECKPOINT}/state.safetensors"]], mutate_numbers,
                                  use_pretraining, sum_anew),
    "pretraining_values": Target(4, f"{CHECKPOINT}/state.json", pretraining_run,
                                 lambda: [pretraining_run()[f"{CHECKPOINT}/state.json"]], mutate_json,
                                 use_pretraining, sum_anew),
    "run_config": Target(6, "config.json", lambda: files_of_a_run(), lambda: [files_of_a_run()["config.json"]],
                         mutate_json, use_run),
    "course": Target(306, "course.csv", nothing, course_files, mutate_course, use_course),
    "test_file": Target(120, "course.csv", nothing, test_files, mutate_course, use_test_file),
    "multinli": Target(200, "multinli/multinli_1.0_train.jsonl", nothing, lambda: [multinli_file()], mutate_jsonl,
                       use_multinli),
    "multinli_zip": Target(7, "multinli_1.0.zip", nothing, lambda: [multinli_zip()], mutate_zip, use_multinli),
    "archive": Target(6, "multinli_1.0.zip", nothing, lambda: [multinli_zip()], mutate_zip, use_archive),
}


# ---------------------------------------------------------------------------------------------------------- the verdict


class Hang(BaseException):
    """No Exception: what catches everything must not catch this."""


@contextmanager
def seconds_limited(seconds: float = SECONDS):
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def lay_out(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def verdict(target: Target, folder: Path, content: bytes) -> str:
    """"accepted", "refused", or what is wrong, as one line that is the same for the same fault."""
    if target.use in WRITING or not folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        lay_out(folder, target.around())
    lay_out(folder, {target.file: content})
    target.prepare(folder)
    before = _peak()
    try:
        with seconds_limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.use(folder)
        told = "accepted"
    except Hang:
        return f"hang: more than {SECONDS} s"
    except (ValueError, OSError) as error:
        told = _clear(str(error), target, error)
    except BaseException as error:
        told = _described(error)
    if OUTSIDE.exists() or (folder.parent / "outside").exists() or Path("outside").exists():
        return "a file outside the folder"
    if _peak() - before > MEMORY_BYTES:
        return f"memory: more than {MEMORY_BYTES >> 20} MiB"
    return told


def _clear(message: str, target: Target, error: Exception) -> str:
    names = {Path(target.file).name, str(Path(target.file).parent),
             *(Path(name).name for name in target.around())} - {".", DAMAGE}
    if not any(name in message for name in names):
        return f"no file named: {_described(error)}"
    if not message.isprintable():
        return f"several lines or control characters: {_described(error)}"
    return "refused" if len(message) < 2000 else f"{len(message)} characters: {_described(error)}"


def _described(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if any(f"/{package}/" in frame.filename for package in OURS)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "fuzz.py"
    return f"{type(error).__name__} in {where}: {ascii(str(error))[:90]}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(name: str, inputs: int, folder: Path, last: Path | None = None, first_seed: int = 0) -> dict:
    """So many mutated inputs to one target: counts of what became of them, and an input for each finding.

    last: a file that holds the input under way, for one that ends the process.
    """
    target, counts, kept = TARGETS[name], collections.Counter(), {}
    seeds = target.seeds()
    around = target.around()
    target = dataclasses.replace(target, around=lambda: around)
    started, before, slowest = time.process_time(), _peak(), 0.0

    def one(rng: random.Random) -> None:
        nonlocal slowest
        content = target.mutate(rng, rng.choice(seeds))
        if last is not None:
            last.write_bytes(content)
        begun = time.process_time()
        told = verdict(target, folder, content)
        slowest = max(slowest, time.process_time() - begun)
        kind = told if told in ("accepted", "refused") else "finding"
        counts[kind] += 1
        if kind == "finding":
            counts[told] += 1
            kept.setdefault(told, content)
            OUTSIDE.unlink(missing_ok=True)

    def several(rng: random.Random) -> None:
        for _ in range(INPUTS_AN_EXAMPLE):
            one(rng)

    number = first_seed
    while (done := counts["accepted"] + counts["refused"] + counts["finding"]) < inputs:
        examples = min(EXAMPLES_A_SEED, -(-(inputs - done) // INPUTS_AN_EXAMPLE))
        run = settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                       suppress_health_check=list(HealthCheck))(given(st.randoms(use_true_random=True))(several))
        seed(number)(run)()
        number += 1
    findings = {told: {"count": counts[told], "input": base64.b64encode(content[:4000]).decode()}
                for told, content in kept.items()}
    return {"inputs": done, "accepted": counts["accepted"], "refused": counts["refused"], "findings": findings,
            "seconds": round(time.process_time() - started, 1), "slowest_seconds": round(slowest, 3),
            "memory_mib": (_peak() - before) >> 20}


# ---------------------------------------------------------------------------------------------------------- the command


def limited_process(name: str, inputs: int, first_seed: int) -> dict:
    """The target's result from a process of its own with limited memory, or the input that ended it."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        last, result = Path(folder) / "last", Path(folder) / "result"
        process = multiprocessing.get_context("fork").Process(
            target=_inside, args=(name, inputs, first_seed, last, result))
        process.start()
        process.join()
        if result.exists():
            return json.loads(result.read_text())
        content = base64.b64encode(last.read_bytes()[:4000]).decode() if last.exists() else ""
        told = f"the process ended with status {process.exitcode}"
        return {"inputs": 0, "accepted": 0, "refused": 0, "seconds": 0, "slowest_seconds": 0, "memory_mib": 0,
                "findings": {told: {"count": 1, "input": content}}}


def _inside(name: str, inputs: int, first_seed: int, last: Path, result: Path) -> None:
    address = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address + ADDRESS_BYTES,) * 2)
    os.chdir(last.parent)
    found = fuzz(name, inputs, last.parent / "case", last, first_seed)
    result.write_text(json.dumps(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, shared out as TARGETS says")
    parser.add_argument("--only", action="append", choices=TARGETS, default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to keep the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.only or list(TARGETS)
    total, results = sum(TARGETS[name].share for name in names), {}
    for name in names:
        share = -(-arguments.inputs * TARGETS[name].share // total)
        results[name] = found = limited_process(name, share, arguments.seed)
        print(f"{name:20} {found['inputs']:7,} inputs {found['accepted']:7,} accepted {found['refused']:7,} refused "
              f"{len(found['findings']):3} findings {found['seconds']:7.1f} s, slowest {found['slowest_seconds']:.2f} "
              f"s, {found['memory_mib']} MiB", flush=True)
        for told, about in found["findings"].items():
            print(f"    {about['count']:6} × {told}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(found["findings"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
