"""What it takes to go on from where a run stood: RUN/checkpoint/NUMBER/, the newest and the one before it.

Tensors stand in state.safetensors, everything else in state.json, the tokenizer and the encoder's config beside
them, so a checkpoint needs nothing but itself and the data. sha256.json holds the checksum of each file. No pickle is
written or read.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertTokenizer
from minbert.files import one_line, read_object, replacing, sha256_of, sync

CHECKPOINT_FOLDER = "checkpoint"
TENSORS_FILE, VALUES_FILE, SUMS_FILE = "state.safetensors", "state.json", "sha256.json"
DAMAGED = ".damaged"
# By default a checkpoint is due when training has gone on for this many times what the last one took: 1 % of the time.
PATIENCE = 100.0
FIRST_SECONDS = 60.0  # until one has been timed


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # and so neither infinite nor a NaN


def _is_scores(value: object) -> bool:
    """What evaluation.scores_of gives: {"sst": {"accuracy": …}, …, "average": …, "overall": …}; None is undefined."""
    return isinstance(value, dict) and _is_number(value.get("average")) and all(
        _is_number(score) or (isinstance(score, dict) and score and all(found is None or _is_number(found)
                                                                        for found in score.values()))
        for score in value.values())


def _is_epoch(value: object) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("stage"), str) and all(
        _is_count(value.get(name)) for name in ("epoch", "step")) and _is_scores(value.get("dev")))


def _is_results(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(result, dict) and _is_scores(result.get("dev"))
        and all(_is_count(result.get(name)) for name in ("best_epoch", "steps")) for result in value.values())


# What stands in state.json: value → is it of the kind that is written there, and in words. A checksum says that a file
# is as somebody wrote it, not who.
VALUES = {
    **dict.fromkeys(("epoch", "steps", "step", "log", "threads", "processes"), (_is_count, "a count")),
    "evaluated": (lambda value: _is_count(value) or (type(value) is int and value == -1), "a count, or -1 for never"),
    **dict.fromkeys(("stage", "data", "corpus"), (lambda value: isinstance(value, str), "text")),
    "seconds": (lambda value: _is_number(value) and value >= 0, "a number of seconds"),
    "best": (_is_epoch, "an epoch with its scores, or null"),
    "finished": (_is_results, "the results of the stages before"),
}


@dataclass(frozen=True)
class Checkpoint:
    """tensors: name → tensor. values: JSON. folder: where it was read from."""

    tensors: dict[str, torch.Tensor]
    values: dict
    folder: Path

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `prefix.`, without it."""
        start = prefix + "."
        return {name[len(start):]: value for name, value in self.tensors.items() if name.startswith(start)}

    def value(self, name: str) -> Any:
        """Raises ValueError if it is not there."""
        if name not in self.values:
            raise ValueError(f"{self.folder / VALUES_FILE} is damaged: it lacks {name!r}")
        return self.values[name]

    def config(self) -> BertConfig:
        return BertConfig.from_file(self.folder / "config.json")

    def tokenizer(self) -> BertTokenizer:
        return BertTokenizer.from_pretrained(self.folder)


def numbered(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    return sorted((path for path in _ours(run) if path.name.isdigit()), key=lambda path: int(path.name))


def _ours(run: Path) -> list[Path]:
    """All that `save` and `load` have left: checkpoints, parts of one, damaged ones."""
    folder = run / CHECKPOINT_FOLDER
    return [path for path in folder.glob("*") if re.fullmatch(rf"\d+(\.partial|{re.escape(DAMAGED)})?", path.name)]


def save(run: Path, tensors: dict[str, torch.Tensor], values: dict, config: BertConfig,
         tokenizer: BertTokenizer) -> Path:
    """Writes the next checkpoint, reads it back from the disk, gives it its name, and only then removes older ones,
    all but the one before it.

    Raises OSError, naming the last good checkpoint, if it cannot be written: the disk may be full.
    """
    older = numbered(run)
    number = 1 + max((int(path.name.split(".")[0]) for path in _ours(run)), default=0)
    target = run / CHECKPOINT_FOLDER / str(number)
    partial = target.with_name(target.name + ".partial")
    try:
        partial.mkdir(parents=True)
        _write(partial, {name: value.cpu().contiguous() for name, value in tensors.items()}, values)
        with replacing(partial / "config.json") as path:
            path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
        tokenizer.save_pretrained(partial)
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        with replacing(partial / SUMS_FILE) as path:
            path.write_text(json.dumps(sums), encoding="utf-8")
        os.replace(partial, target)
        for folder in (target.parent, run):
            sync(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        good = f"the last good checkpoint is {older[-1]}" if older else "there is no earlier one"
        raise OSError(f"the checkpoint {target} could not be written ({error}); {good}") from None
    for path in set(_ours(run)) - {target, *older[-1:]}:
        shutil.rmtree(path)
    return target


def _write(folder: Path, tensors: dict[str, torch.Tensor], values: dict) -> None:
    """Raises OSError if it cannot be written, or does not come back from the disk as it was."""
    path = folder / TENSORS_FILE
    with replacing(path) as partial:
        save_file(tensors, partial)
    _forget(path)
    saved = load_file(path)
    if saved.keys() != tensors.keys() or not all(torch.equal(_bytes(saved[name]), _bytes(value))
                                                 for name, value in tensors.items()):
        raise OSError(f"{path} does not read back as it was written: the disk may be failing")
    with replacing(folder / VALUES_FILE) as path:
        path.write_text(json.dumps(values), encoding="utf-8")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory, in which a NaN equals itself."""
    return tensor.reshape(-1).view(torch.uint8)


def _forget(path: Path) -> None:
    """Lets the system forget the file's content, so that reading it back asks the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(run: Path) -> Checkpoint:
    """The newest whole checkpoint. A damaged one is named in a warning, set aside, and the one before it taken.

    Raises FileNotFoundError if there is none, ValueError, naming the files, if all are damaged.
    """
    damage: dict[Path, ValueError] = {}
    for folder in reversed(numbered(run)):
        try:
            saved = _read(folder)
        except ValueError as error:
            damage[folder] = error
            continue
        for damaged, error in damage.items():
            os.replace(damaged, damaged.with_name(damaged.name + DAMAGED))
            warnings.warn(f"{error}; going on from the checkpoint before it, {folder}", stacklevel=2)
        return saved
    if damage:
        raise ValueError("; ".join(map(str, damage.values())))
    raise FileNotFoundError(f"--resume {run}: there is no checkpoint yet; start it again with --out {run}")


def _read(folder: Path) -> Checkpoint:
    """Raises ValueError, naming the file that is not as it was written."""
    path = folder / SUMS_FILE
    try:
        sums = read_object(path)
        if odd := {name for name in sums if Path(name).name != name} | {TENSORS_FILE, VALUES_FILE} - sums.keys():
            raise ValueError(f"{one_line(sorted(odd)[0])!r} is no file's name or lacks a checksum")
        for name, expected in sums.items():
            path = folder / name
            if sha256_of(path) != expected:
                raise ValueError("its checksum is not the one it was written with")
        path = folder / TENSORS_FILE
        tensors = load_file(path)
        path = folder / VALUES_FILE
        values = read_object(path)
        for name, (is_right, kind) in VALUES.items():
            if name in values and not is_right(values[name]):
                raise ValueError(f"{name} is {reprlib.repr(values[name])}, expected {kind}")
    # a number format that torch does not have is a KeyError or an AttributeError of safetensors
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)})") from None
    return Checkpoint(tensors, values, folder)


def drop_older(run: Path) -> None:
    """Leaves the newest checkpoint alone: a finished run does not go on."""
    for path in set(_ours(run)) - set(numbered(run)[-1:]):
        shutil.rmtree(path)
