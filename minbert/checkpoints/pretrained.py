"""Weights in HuggingFace's layout: the rename table, strict loading, saving.

A checkpoint is a folder with config.json (the shape) and named tensors in one of the forms of weights.py.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn

from minbert.config import BertConfig
from minbert.files import one_line, replacing

from . import hub
from .weights import SINGLE_FILE, Readers, find_weights, open_weights, refuse_claims_beyond

if TYPE_CHECKING:
    from minbert.model import BertModel

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
    r"embeddings\.position_ids",        # a constant 0, 1, 2, … that old versions saved
    r"cls\..*",                         # heads of pretraining: masked tokens, next sentence
    r"(classifier|qa_outputs)\..*",     # heads of transformers' fine-tuned models
]

# What a checkpoint may lack, all together: masked-language models are saved without a pooler.
OPTIONAL = ("pooler_dense.weight", "pooler_dense.bias")


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


def load(model_class: type[BertModel], name_or_folder: str | Path, revision: str) -> BertModel:
    """Builds the model that config.json describes and fills it from the weights beside it."""
    folder = hub.resolve(name_or_folder, revision)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: {CONFIG_FILE} is missing")
    config = BertConfig.from_file(folder / CONFIG_FILE)
    path = find_weights(folder)
    with torch.device("meta"):  # shapes only: the weights are not drawn at random first
        model = model_class(config)
    with open_weights(path) as readers:
        sources = match(dict(model.named_parameters()), readers, path)
        refuse_claims_beyond([tensor for tensors in sources.values() for tensor in tensors], path)
        for name, tensors in sources.items():  # memory is taken here, after all names and shapes were found right
            _fill(model, name, torch.cat(tensors).float())  # copied from the mapped file; fp16 and bf16 become fp32
    if OPTIONAL[0] not in sources:
        for name in OPTIONAL:
            _fill(model, name, torch.empty(model.get_parameter(name).shape))
        model.init_weights(model.pooler_dense)
        warnings.warn(f"{path} has no pooler: pooler_output comes from fresh random weights until they are trained; "
                      "last_hidden_state is the checkpoint's own", stacklevel=3)
    return model


def _fill(model: nn.Module, name: str, value: torch.Tensor) -> None:
    module, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(module), parameter, nn.Parameter(value))


def match(parameters: dict[str, torch.Tensor], readers: Readers, path: Path) -> dict[str, list[torch.Tensor]]:
    """Parameter → the file's tensors that fill it, from top to bottom; every one of either side is accounted for.

    Raises ValueError, naming file and tensor, for one that is missing, unknown, or of another shape or kind.
    """
    wanted = {parameter: file_names(parameter) for parameter in parameters}
    if not any(name in readers for parameter in OPTIONAL for name in wanted[parameter]):
        for parameter in OPTIONAL:
            del wanted[parameter]
    _check_names(set(readers), [name for names in wanted.values() for name in names], path)
    sources = {}
    for parameter, names in wanted.items():
        targets = parameters[parameter].chunk(len(names))
        sources[parameter] = [read_tensor(readers[name], name, target.shape, path)
                              for name, target in zip(names, targets, strict=True)]
    return sources


def read_tensor(reader: Callable[[], torch.Tensor], name: str, shape: torch.Size, path: Path) -> torch.Tensor:
    """Raises ValueError, naming file and tensor, unless it is of this shape, of floating-point numbers, and whole."""
    tensor = reader()
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{path}: tensor {name} is {tensor.layout} on {tensor.device}, expected plain numbers")
    if tensor.shape != shape:
        raise ValueError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, but {CONFIG_FILE} asks for "
                         f"{tuple(shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{path}: tensor {name} holds {tensor.dtype}, expected floating-point weights")
    return tensor


def _check_names(present: set[str], wanted: list[str], path: Path) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} tensors of the encoder that {CONFIG_FILE} describes, "
                         f"among them {one_line(missing[0])}")
    unknown = sorted(name for name in present - set(wanted)
                     if not any(re.fullmatch(pattern, name) for pattern in IGNORED))
    if unknown:
        raise ValueError(f"{path} holds {len(unknown)} tensors that this encoder does not know, among them "
                         f"{one_line(unknown[0])}: is {CONFIG_FILE} the one that belongs to it?")


def save(model: BertModel, folder: str | Path) -> None:
    """Writes config.json and model.safetensors under HuggingFace's names, each file whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for parameter, value in model.named_parameters():
        names = file_names(parameter)
        rows = value.detach().cpu().chunk(len(names))
        tensors.update({name: row.clone() for name, row in zip(names, rows, strict=True)})
    with replacing(folder / SINGLE_FILE) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})  # transformers asks for this key
    with replacing(folder / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
