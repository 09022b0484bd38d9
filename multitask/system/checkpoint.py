"""RUN/checkpoint/NUMBER/: all that a run needs to resume; the newest checkpoint and the one before.

state.safetensors holds the tensors, state.json everything else; the tokenizer and the encoder's
config are included, so resuming needs the checkpoint and the data only. sha256.json holds the
checksum of each file. No pickle is written or read.
"""

import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from minbert import BertConfig, BertTokenizer
from minbert.files import (
    one_line,
    read_object,
    rename_folder,
    sha256_of,
    sync,
    write_json,
    write_tensors,
)

CHECKPOINT_FOLDER = "checkpoint"
TENSORS_FILE, VALUES_FILE, SUMS_FILE = "state.safetensors", "state.json", "sha256.json"
DAMAGED = ".damaged"

# By default a checkpoint is due after this many times the seconds that the last one took: 1 % of
# the time.
PATIENCE = 100.0
FIRST_SECONDS = 60.0  # before the first one is timed


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; `values` is the content of state.json."""

    tensors: dict[str, torch.Tensor]
    values: dict
    folder: Path

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with `prefix.`, without that beginning."""
        start = prefix + "."
        return {name.removeprefix(start): value for name, value in self.tensors.items()
                if name.startswith(start)}

    def value(self, name: str) -> Any:
        """One entry of state.json. Raises ValueError if it is missing."""
        if name not in self.values:
            raise ValueError(f"{self.folder / VALUES_FILE} is damaged: it lacks {name!r}")
        return self.values[name]

    def config(self) -> BertConfig:
        return BertConfig.from_file(self.folder / "config.json")

    def tokenizer(self) -> BertTokenizer:
        return BertTokenizer.from_pretrained(self.folder)


def numbered(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    complete = [path for path in _ours(run) if path.name.isdigit()]
    return sorted(complete, key=lambda path: int(path.name))


def _ours(run: Path) -> list[Path]:
    """Everything that `save` and `load` leave: checkpoints, partial ones, damaged ones."""
    pattern = re.compile(rf"\d+(\.partial|{re.escape(DAMAGED)})?")
    return [path for path in (run / CHECKPOINT_FOLDER).glob("*") if pattern.fullmatch(path.name)]


def save(run: Path, tensors: dict[str, torch.Tensor], values: dict, config: BertConfig,
         tokenizer: BertTokenizer) -> None:
    """Writes the next checkpoint, verifies it, names it, and keeps the one before it.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the message names the
            last good one.
    """
    older = numbered(run)
    number = 1 + max((int(path.name.split(".")[0]) for path in _ours(run)), default=0)
    target = run / CHECKPOINT_FOLDER / str(number)
    partial = target.with_name(target.name + ".partial")
    try:
        partial.mkdir(parents=True)
        tensors = {name: value.cpu() for name, value in tensors.items()}
        _write_tensors(partial / TENSORS_FILE, tensors)
        write_json(partial / VALUES_FILE, values, indent=None)
        write_json(partial / "config.json", config.to_dict())
        tokenizer.save_pretrained(partial)
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        write_json(partial / SUMS_FILE, sums)

        os.replace(partial, target)
        for folder in (target.parent, run):
            sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        good = f"the last good checkpoint is {older[-1]}" if older else "there is no earlier one"
        raise OSError(f"the checkpoint {target} could not be written ({error}); {good}") from None

    drop_older(run, keep=2)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raises OSError if the disk does not give back what was written."""
    write_tensors(path, tensors)

    _forget(path)
    saved = load_file(path)
    same = saved.keys() == tensors.keys() and all(
        torch.equal(_bytes(saved[name]), _bytes(value)) for name, value in tensors.items())
    if not same:
        raise OSError(f"{path} does not read back as it was written: the disk may be failing")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory: unlike a number, a NaN's bytes equal themselves."""
    return tensor.reshape(-1).view(torch.uint8)


def _forget(path: Path) -> None:
    """Drops the file from the system's cache, so that reading it back reads the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(run: Path) -> Checkpoint:
    """The newest checkpoint that is not damaged. A damaged one is named in a warning and renamed.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: all checkpoints are damaged; the message names the files.
    """
    damage: dict[Path, ValueError] = {}
    for folder in reversed(numbered(run)):
        try:
            saved = _read(folder)
        except ValueError as error:
            damage[folder] = error
            continue

        for damaged, error in damage.items():
            rename_folder(damaged, damaged.with_name(damaged.name + DAMAGED))
            shutil.rmtree(damaged, ignore_errors=True)
            warnings.warn(f"{error}; resuming from the checkpoint before it, {folder}",
                          stacklevel=2)
        return saved

    if damage:
        raise ValueError("; ".join(map(str, damage.values())))
    raise FileNotFoundError(f"--resume {run}: there is no checkpoint yet; start it again with "
                            f"--out {run}")


def _read(folder: Path) -> Checkpoint:
    """Raises ValueError, naming the file that differs from what was written."""
    path = folder / SUMS_FILE
    try:
        for name, expected in read_object(path).items():
            path = folder / name
            if sha256_of(path) != expected:
                raise ValueError("its checksum is not the one it was written with")

        path = folder / TENSORS_FILE
        tensors = load_file(path)
        path = folder / VALUES_FILE
        values = read_object(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)})") from None
    return Checkpoint(tensors, values, folder)


def drop_older(run: Path, keep: int = 1) -> None:
    """Removes all checkpoints but the newest `keep`: one for a finished run."""
    for path in set(_ours(run)) - set(numbered(run)[-keep:]):
        shutil.rmtree(path)
