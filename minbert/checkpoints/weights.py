"""The forms in which a checkpoint's weights come, read as one: tensor name → how to read it.

| file | what it is |
| --- | --- |
| model.safetensors | named tensors behind a JSON header, mapped into memory; nothing is executed |
| model.safetensors.index.json | the same in several files, and which tensor is where |
| pytorch_model.bin | torch's older, pickled form; opened with weights_only, so code is refused |
| pytorch_model.bin.index.json | the same in several files |

Names are brought to one form. The prefix `bert.` of models with a head is removed, and so is what
wrappers put in front of every name, such as `module.`. The first checkpoints' `gamma` and `beta`
become LayerNorm's `weight` and `bias`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open

from minbert.files import one_line, read_object

SINGLE_FILE = "model.safetensors"
FORMAT = {"format": "pt"}  # metadata that transformers asks for
# In order of preference; an index stands for the files it names.
WEIGHTS_FILES = (SINGLE_FILE, "model.safetensors.index.json",
                 "pytorch_model.bin", "pytorch_model.bin.index.json")
FOREIGN_FILES = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "bert_model.ckpt.index",
                 "model.onnx")

# What wrappers put in front of every name: several GPUs' module., torch.compile's _orig_mod. …
WRAPPERS = re.compile(r"((module|_orig_mod|model)\.)*")
# tensor name → function that reads it
Readers = dict[str, Callable[[], torch.Tensor]]


def find_weights(folder: Path) -> Path:
    """Returns the folder's weights, or the index of their parts.

    Raises:
        FileNotFoundError: There are none; the message names weights of another framework.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name

    refuse_foreign(folder)
    raise FileNotFoundError(f"{folder} is not a checkpoint: {SINGLE_FILE} is missing "
                            f"(or {', '.join(WEIGHTS_FILES[1:])})")


def refuse_foreign(folder: Path) -> None:
    """Raises FileNotFoundError if the folder holds weights of another framework."""
    for name in FOREIGN_FILES:
        if (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds {name} only, weights of another framework; "
                                    f"save the model from PyTorch as {SINGLE_FILE}")


@contextmanager
def open_weights(path: Path) -> Iterator[Readers]:
    """Opens a weights file, or all of an index; a tensor is read when its reader is called.

    Raises:
        ValueError: A file cannot be read or wants to run code; the message names it.
    """
    with ExitStack() as stack:
        readers: Readers = {}
        for file, expected in index_parts(path).items():
            if not file.is_file():
                raise FileNotFoundError(f"{path} names {one_line(file.name)}, but it is not there")
            is_safe = file.suffix == ".safetensors"
            found = _open_safetensors(file, stack) if is_safe else _open_pickled(file)
            missing = expected - set(found)
            if missing:
                raise ValueError(f"{file} lacks {len(missing)} tensors that {path.name} says it "
                                 f"holds, among them {one_line(min(missing))}")
            readers |= found

        yield _with_canonical_names(readers, path)


def index_parts(path: Path) -> dict[Path, set[str]]:
    """Returns file → tensors that must be in it: the file itself, or what an index lists.

    Raises:
        ValueError: It is not an index, or it names something other than files beside it.
    """
    if path.suffix != ".json":
        return {path: set()}

    parts: dict[Path, set[str]] = {}
    try:
        for tensor, name in read_object(path)["weight_map"].items():
            if not re.fullmatch(r"\w[\w.-]{0,199}\.(safetensors|bin)", name, re.ASCII):
                raise ValueError(f"{one_line(repr(name))} is not a file's name")
            parts.setdefault(path.with_name(name), set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of weights "
                         f"({type(error).__name__}: {one_line(error)})") from None
    if not parts:
        raise ValueError(f"{path} is not an index of weights (it names no file)")
    return parts


def canonical_name(name: str) -> str:
    """The name without `bert.` in front and with LayerNorm's parameters called weight and bias.

    >>> canonical_name("bert.encoder.layer.0.output.LayerNorm.gamma")
    'encoder.layer.0.output.LayerNorm.weight'
    """
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _with_canonical_names(readers: Readers, path: Path) -> Readers:
    renamed: Readers = {}
    prefix = min((WRAPPERS.match(name)[0] for name in readers), key=len, default="")
    for name, reader in readers.items():
        new_name = canonical_name(name.removeprefix(prefix))
        if new_name in renamed:
            raise ValueError(f"{path} holds {one_line(new_name)} twice, once under another name: "
                             "keep one of them")
        renamed[new_name] = reader
    return renamed


def _open_safetensors(file: Path, stack: ExitStack) -> Readers:
    try:
        opened = stack.enter_context(safe_open(file, framework="pt"))
        names = opened.keys()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file ({one_line(error)}); "
                         "fetch it again") from None
    return {name: partial(_read_safetensor, opened, name, file) for name in names}


def _read_safetensor(opened: safe_open, name: str, file: Path) -> torch.Tensor:
    try:
        return opened.get_tensor(name)
    except Exception as error:  # a number format that this torch does not have, among others
        raise ValueError(f"{file}: tensor {one_line(name)} cannot be read "
                         f"({one_line(error)})") from None


def _open_pickled(file: Path) -> Readers:
    """Opens with weights_only, which never runs code of the file."""
    _refuse_compressed(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # whatever a broken or malicious pickle makes torch raise
        raise ValueError(f"{file} is refused: it is damaged or wants to run code of its own "
                         f"({one_line(error)}); take a checkpoint that comes as "
                         f"{SINGLE_FILE}") from None

    if not isinstance(loaded, dict):
        raise ValueError(f"{file} must hold named tensors, found {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise ValueError(f"{file} must hold named tensors only, but {one_line(repr(name))} is "
                             f"a {type(value).__name__}: is it a training checkpoint? "
                             "save the model's state_dict alone")
    return {name: partial(loaded.__getitem__, name) for name in loaded}


def _refuse_compressed(file: Path) -> None:
    """torch.save compresses nothing, so an entry that unpacks to more than the file is a trap."""
    try:
        if not is_zipfile(file):
            return
        with ZipFile(file) as archive:
            entries = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}); fetch it again") from None

    claimed = sum(entry.file_size for entry in entries)
    compressed = any(entry.compress_type != ZIP_STORED for entry in entries)
    if claimed > file.stat().st_size or compressed:
        raise ValueError(f"{file} is refused: it would unpack to {claimed:,} bytes, more than it "
                         "has; torch.save compresses nothing, so take a checkpoint that comes as "
                         f"{SINGLE_FILE}")


def refuse_claims_beyond(tensors: list[torch.Tensor], path: Path) -> None:
    """Raises ValueError if the tensors claim more bytes than their files have.

    A pickle can show one stored number as a tensor of any size, or the same numbers as many
    tensors. So this is checked before memory is taken for them.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    held = sum(part.stat().st_size for part in index_parts(path))
    if claimed > held:
        raise ValueError(f"{path} is refused: its tensors claim {claimed:,} bytes, "
                         f"but only {held:,} are there")
