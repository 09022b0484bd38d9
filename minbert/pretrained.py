"""Weights in HuggingFace's layout: the rename table, strict loading, saving.

A checkpoint is a folder with config.json (the shape) and model.safetensors (named tensors).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .config import BertConfig

if TYPE_CHECKING:
    from .model import BertModel

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

# Our parameter → the file's tensors, stacked from top to bottom; {} is the layer's number.
# Queries, keys and values stand in three tensors of the file and in one of ours.
RENAMES = {
    "embeddings.word_embeddings.weight": ["embeddings.word_embeddings.weight"],
    "embeddings.position_embeddings.weight": ["embeddings.position_embeddings.weight"],
    "embeddings.token_type_embeddings.weight": ["embeddings.token_type_embeddings.weight"],
    "embeddings.layer_norm.weight": ["embeddings.LayerNorm.weight"],
    "embeddings.layer_norm.bias": ["embeddings.LayerNorm.bias"],
    "layers.{}.self_attention.query_key_value.weight": [
        "encoder.layer.{}.attention.self.query.weight",
        "encoder.layer.{}.attention.self.key.weight",
        "encoder.layer.{}.attention.self.value.weight",
    ],
    "layers.{}.self_attention.query_key_value.bias": [
        "encoder.layer.{}.attention.self.query.bias",
        "encoder.layer.{}.attention.self.key.bias",
        "encoder.layer.{}.attention.self.value.bias",
    ],
    "layers.{}.attention_dense.weight": ["encoder.layer.{}.attention.output.dense.weight"],
    "layers.{}.attention_dense.bias": ["encoder.layer.{}.attention.output.dense.bias"],
    "layers.{}.attention_layer_norm.weight": ["encoder.layer.{}.attention.output.LayerNorm.weight"],
    "layers.{}.attention_layer_norm.bias": ["encoder.layer.{}.attention.output.LayerNorm.bias"],
    "layers.{}.intermediate_dense.weight": ["encoder.layer.{}.intermediate.dense.weight"],
    "layers.{}.intermediate_dense.bias": ["encoder.layer.{}.intermediate.dense.bias"],
    "layers.{}.output_dense.weight": ["encoder.layer.{}.output.dense.weight"],
    "layers.{}.output_dense.bias": ["encoder.layer.{}.output.dense.bias"],
    "layers.{}.output_layer_norm.weight": ["encoder.layer.{}.output.LayerNorm.weight"],
    "layers.{}.output_layer_norm.bias": ["encoder.layer.{}.output.LayerNorm.bias"],
    "pooler_dense.weight": ["pooler.dense.weight"],
    "pooler_dense.bias": ["pooler.dense.bias"],
}

# Tensors of the file that the encoder has no use for, by full match.
IGNORED = [
    r"embeddings\.position_ids",  # a constant 0, 1, 2, … that old versions saved
    r"cls\..*",                   # heads of pretraining
]


def file_names(parameter: str) -> list[str]:
    """The file's tensors that make up one of our parameters, from top to bottom.

    >>> file_names("layers.3.output_dense.bias")
    ['encoder.layer.3.output.dense.bias']
    """
    number = re.search(r"\.(\d+)\.", parameter)
    if number is None:
        return RENAMES[parameter]
    layer = number.group(1)
    return [name.format(layer) for name in RENAMES[parameter.replace(f".{layer}.", ".{}.", 1)]]


def load(model_class: type[BertModel], folder: str | Path) -> BertModel:
    """Builds the model that config.json describes and fills it from model.safetensors."""
    folder = checked_folder(folder)
    config = BertConfig.from_file(folder / CONFIG_FILE)
    with torch.device("meta"):  # shapes only: the weights are not drawn at random first
        model = model_class(config)
    model.to_empty(device="cpu")
    fill(dict(model.named_parameters()), folder / WEIGHTS_FILE)
    return model


def checked_folder(folder: str | Path) -> Path:
    """The folder, if it looks like a checkpoint; FileNotFoundError says what it lacks."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one with {CONFIG_FILE} and {WEIGHTS_FILE}")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no checkpoint: {name} is missing")
    return folder


def fill(parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Copies every tensor of a safetensors file into its parameter; each is filled exactly once, or ValueError."""
    wanted = {name: file_names(name) for name in parameters}
    try:
        with safe_open(path, framework="pt") as file:
            present = set(file.keys())
            _check_names(present, [name for names in wanted.values() for name in names], path)
            for parameter, names in wanted.items():
                rows = parameters[parameter].data.chunk(len(names))
                for target, name in zip(rows, names, strict=True):
                    tensor = file.get_tensor(name)
                    if tensor.shape != target.shape:
                        raise ValueError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, but "
                                         f"{CONFIG_FILE} asks for {tuple(target.shape)}")
                    target.copy_(tensor)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); fetch it again") from None


def _check_names(present: set[str], wanted: list[str], path: Path) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} tensors of the encoder that {CONFIG_FILE} describes, "
                         f"among them {missing[0]}")
    unknown = sorted(name for name in present - set(wanted)
                     if not any(re.fullmatch(pattern, name) for pattern in IGNORED))
    if unknown:
        raise ValueError(f"{path} holds {len(unknown)} tensors that this encoder does not know, among them "
                         f"{unknown[0]}: is {CONFIG_FILE} the one that belongs to it?")


def save(model: BertModel, folder: str | Path) -> None:
    """Writes config.json and model.safetensors under HuggingFace's names, each file whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for parameter, value in model.named_parameters():
        names = file_names(parameter)
        rows = value.detach().cpu().chunk(len(names))
        tensors.update({name: row.clone() for name, row in zip(names, rows, strict=True)})
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})  # transformers asks for this key
    os.replace(partial, folder / WEIGHTS_FILE)
    partial = folder / f"{CONFIG_FILE}.partial"
    partial.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / CONFIG_FILE)
