"""The forms in which a checkpoint's weights come, read as one: tensor name → how to read it.

| file | what it is |
| --- | --- |
| model.safetensors | named tensors behind a JSON header; mapped into memory, nothing is executed |
| model.safetensors.index.json | the same in several files; the index says which tensor is where |
| pytorch_model.bin | torch's older, pickled form; opened with weights_only, so a pickle with code is refused |
| pytorch_model.bin.index.json | the same in several files |

Names are brought to one form: without the prefix `bert.` that models with a head on top carry, and with LayerNorm's
`weight` and `bias`, which the first checkpoints call `gamma` and `beta`.
"""

from __future__ import annotations

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
WEIGHTS_FILES = (SINGLE_FILE, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FOREIGN_FILES = ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "bert_model.ckpt.index", "model.onnx")

# tensor name → function that reads it
Readers = dict[str, Callable[[], torch.Tensor]]


def find_weights(folder: Path) -> Path:
    """The folder's weights, or the index of their parts; FileNotFoundError says what is there instead."""
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    foreign = [name for name in FOREIGN_FILES if (folder / name).is_file()]
    if foreign:
        raise FileNotFoundError(f"{folder} holds {foreign[0]} only, weights of another framework; save the model from "
                                f"PyTorch as {SINGLE_FILE}")
    raise FileNotFoundError(f"{folder} is no checkpoint: {SINGLE_FILE} is missing (or {', '.join(WEIGHTS_FILES[1:])})")


@contextmanager
def open_weights(path: Path) -> Iterator[Readers]:
    """Inside, the tensors of a weights file or of all parts that an index names, each read when its reader is called.

    Raises ValueError, naming the file, for what cannot be read or wants to run code.
    """
    with ExitStack() as stack:
        readers: Readers = {}
        for file, expected in _parts(path).items():
            found = _open_safetensors(file, stack) if file.suffix == ".safetensors" else _open_pickled(file)
            missing = expected - set(found)
            if missing:
                raise ValueError(f"{file} lacks {len(missing)} tensors that {path.name} says it holds, among them "
                                 f"{one_line(min(missing))}")
            readers |= found
        yield _one_form(readers, path)


def canonical_name(name: str) -> str:
    """The name without `bert.` in front and with LayerNorm's parameters called weight and bias.

    >>> canonical_name("bert.encoder.layer.0.output.LayerNorm.gamma")
    'encoder.layer.0.output.LayerNorm.weight'
    """
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _one_form(readers: Readers, path: Path) -> Readers:
    renamed = {canonical_name(name): reader for name, reader in readers.items()}
    if len(renamed) < len(readers):
        names = [canonical_name(name) for name in readers]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path} holds {one_line(twice)} twice, once under another name: keep one of them")
    return renamed


def _parts(path: Path) -> dict[Path, set[str]]:
    """File → tensors that must be in it: the file itself, or what an index lists."""
    if path.suffix != ".json":
        return {path: set()}
    try:
        places = read_object(path)["weight_map"].items()
        parts: dict[Path, set[str]] = {}
        for tensor, name in places:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{one_line(repr(name))} is not a file's name")
            parts.setdefault(path.with_name(name), set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of weights ({type(error).__name__}: {one_line(error)})") from None
    absent = [part.name for part in parts if not part.is_file()]
    if absent or not parts:
        raise FileNotFoundError(f"{path} names {len(parts)} files, but {one_line((absent or ['any'])[0])} is not there")
    return parts


def _open_safetensors(file: Path, stack: ExitStack) -> Readers:
    try:
        opened = stack.enter_context(safe_open(file, framework="pt"))
        return {name: partial(_tensor_of, opened, name, file) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file ({one_line(error)}); fetch it again") from None


def _tensor_of(opened: safe_open, name: str, file: Path) -> torch.Tensor:
    try:
        return opened.get_tensor(name)
    except Exception as error:  # a number format that this torch does not have, among others
        raise ValueError(f"{file}: tensor {one_line(name)} cannot be read ({one_line(error)})") from None


def _open_pickled(file: Path) -> Readers:
    """Never anything but weights_only, which knows tensors and containers and runs nothing of the file's own."""
    _refuse_packed(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # whatever a broken or hostile pickle makes torch raise
        raise ValueError(f"{file} is refused: it is damaged or wants to run code of its own ({one_line(error)}); "
                         f"take a checkpoint that comes as {SINGLE_FILE}") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{file} must hold named tensors, found {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor) or not isinstance(name, str):
            raise ValueError(f"{file} must hold named tensors only, but {one_line(repr(name))} is a "
                             f"{type(value).__name__}: is it a training checkpoint? save the model's state_dict alone")
    return {name: partial(loaded.__getitem__, name) for name in loaded}


def _refuse_packed(file: Path) -> None:
    """torch packs nothing into its zip: an entry that would unpack to more than the file holds is none of its."""
    try:
        if not is_zipfile(file):
            return
        with ZipFile(file) as archive:
            entries = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}); fetch it again") from None
    claimed = sum(entry.file_size for entry in entries)
    if claimed > file.stat().st_size or any(entry.compress_type != ZIP_STORED for entry in entries):
        raise ValueError(f"{file} is refused: it would unpack to {claimed:,} bytes, more than it has; torch.save packs "
                         f"nothing, so take a checkpoint that comes as {SINGLE_FILE}")


def refuse_claims_beyond(tensors: list[torch.Tensor], path: Path) -> None:
    """Raises ValueError if the tensors claim more bytes than their files have: before memory is taken for them.

    A pickle can show one stored number as a tensor of any size, or the same numbers as many tensors.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    held = sum(part.stat().st_size for part in _parts(path))
    if claimed > held:
        raise ValueError(f"{path} is refused: its tensors claim {claimed:,} bytes, but only {held:,} are there")
