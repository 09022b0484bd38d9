"""What it takes to go on after the last finished epoch: RUN/checkpoint/NUMBER/.

Tensors stand in state.safetensors, everything else in state.json, the tokenizer and the encoder's config beside
them, so a checkpoint needs nothing but itself and the data. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertModel, BertTokenizer

from .model import MultitaskBert

CHECKPOINT_FOLDER = "checkpoint"


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
            raise ValueError(f"{self.folder} is damaged: it lacks {name!r}")
        return self.values[name]

    def build_model(self, arch: str) -> MultitaskBert:
        """A model of the checkpoint's shape; its weights come with the trainer's state."""
        encoder = BertModel(BertConfig.from_file(self.folder / "config.json"))
        return MultitaskBert(encoder, BertTokenizer.from_pretrained(self.folder), arch)


def numbered(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the oldest first."""
    folder = run / CHECKPOINT_FOLDER
    found = [path for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def save(run: Path, number: int, model: MultitaskBert, tensors: dict[str, torch.Tensor], values: dict) -> None:
    """Writes checkpoint `number` under another name, renames it when it is complete, then removes the one before."""
    older = numbered(run)
    target = run / CHECKPOINT_FOLDER / str(number)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial / "state.safetensors")
    (partial / "state.json").write_text(json.dumps(values), encoding="utf-8")
    (partial / "config.json").write_text(json.dumps(model.encoder.config.to_dict()), encoding="utf-8")
    model.tokenizer.save_pretrained(partial)
    os.replace(partial, target)
    for path in older:
        shutil.rmtree(path)


def load(run: Path) -> Checkpoint:
    """The newest complete checkpoint. Raises FileNotFoundError if there is none, ValueError if it is damaged."""
    paths = numbered(run)
    if not paths:
        raise FileNotFoundError(f"--resume {run}: there is no checkpoint yet (the first comes after the first epoch); "
                                f"start it again with --out {run}")
    folder = paths[-1]
    try:
        tensors = load_file(folder / "state.safetensors")
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged ({error})") from None
    return Checkpoint(tensors, values, folder)


def random_part(rank: int) -> str:
    """The part of a checkpoint that holds the random state of one of several processes."""
    return f"random_{rank}" if rank else "random"


def random_state() -> dict[str, torch.Tensor]:
    """The states of torch's global generators, on which dropout draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
