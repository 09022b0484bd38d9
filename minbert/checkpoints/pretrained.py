"""Weights in HuggingFace's layout: the rename table, strict loading, saving.

A checkpoint is a folder with config.json (the shape) and named tensors in a form of weights.py.
"""

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from minbert.config import BertConfig
from minbert.files import one_line, user_path, write_json, write_tensors

from . import hub
from .weights import (
    FORMAT,
    SINGLE_FILE,
    find_weights,
    open_weights,
    refuse_claims_beyond,
    refuse_foreign,
)

Model = TypeVar("Model", bound=nn.Module)
CONFIG_FILE = "config.json"

# Our module → the file's, stacked from top to bottom; {} is the layer's number. Weights and biases
# keep these two names. Queries, keys and values are three modules in the file and one here.
RENAMES = {
    "embeddings.word_embeddings": ["embeddings.word_embeddings"],
    "embeddings.position_embeddings": ["embeddings.position_embeddings"],
    "embeddings.token_type_embeddings": ["embeddings.token_type_embeddings"],
    "embeddings.layer_norm": ["embeddings.LayerNorm"],
    "layers.{}.self_attention.query_key_value": [
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ],
    "layers.{}.attention_dense": ["encoder.layer.{}.attention.output.dense"],
    "layers.{}.attention_layer_norm": ["encoder.layer.{}.attention.output.LayerNorm"],
    "layers.{}.intermediate_dense": ["encoder.layer.{}.intermediate.dense"],
    "layers.{}.output_dense": ["encoder.layer.{}.output.dense"],
    "layers.{}.output_layer_norm": ["encoder.layer.{}.output.LayerNorm"],
    "pooler_dense": ["pooler.dense"],
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

    A parameter that somebody added to the encoder keeps its name.

    >>> file_names("layers.3.output_dense.bias")
    ['encoder.layer.3.output.dense.bias']
    """
    module, _, kind = parameter.rpartition(".")
    layer = re.findall(r"\.(\d+)\.", module)  # its number, if it is in a layer
    if _is_added(parameter):
        return [parameter]
    return [f"{name.format(*layer)}.{kind}" for name in RENAMES[_place(module)]]


def _is_added(parameter: str) -> bool:
    module, _, kind = parameter.rpartition(".")
    return _place(module) not in RENAMES or kind not in ("weight", "bias")


def _place(module: str) -> str:
    """A module's key in RENAMES: its name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".{}.", module)


def load(model_class: type[Model], name_or_folder: str | Path, revision: str) -> Model:
    """Builds the model that config.json describes and fills it from the weights beside it.

    Args:
        model_class: BertModel, which imports this module; so it is handed in.
        name_or_folder, revision: As for hub.resolve.
    """
    folder = hub.resolve(name_or_folder, revision)
    if not (folder / CONFIG_FILE).is_file():
        refuse_foreign(folder)
        hint = ""
        if not any(folder.iterdir()):
            hint = "; the folder is empty: remove it if a name on the hub was meant"
        raise FileNotFoundError(f"{folder} is not a checkpoint: {CONFIG_FILE} is missing{hint}")
    config = BertConfig.from_file(folder / CONFIG_FILE)
    path = find_weights(folder)

    model = _without_memory(model_class, config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    tensors = read_parameters(path, shapes)

    lacking = [name for name in shapes if name not in tensors]
    has_pooler = OPTIONAL[0] not in lacking
    if added := [name for name in lacking if name not in OPTIONAL]:
        model = _with_weights(model_class, config)
        warnings.warn(f"{path} does not have {one_line(', '.join(added))}: they start as the code "
                      "makes them", stacklevel=3)
    if not has_pooler:
        tensors.update({name: torch.empty(shapes[name], dtype=torch.float32, device="cpu")
                        for name in OPTIONAL})
    model.load_state_dict(tensors, strict=False, assign=True)
    if not has_pooler:
        model.init_weights(model.pooler_dense)
        warnings.warn(f"{path} has no pooler: pooler_output comes from fresh random weights until "
                      "they are trained; last_hidden_state is the checkpoint's own", stacklevel=3)
    return model


def _without_memory(model_class: type[Model], config: BertConfig) -> Model:
    """The model on torch's meta device, where no random weights are drawn, if that is possible.

    It is not for an edited model that computes something when it is made, such as angles.
    """
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        model = model_class(config)
        computed = [value for part in model.modules()
                    for value in (*part._buffers.values(), *vars(part).values())
                    if isinstance(value, torch.Tensor)]
        if not computed:
            return model
    return _with_weights(model_class, config)


def _with_weights(model_class: type[Model], config: BertConfig) -> Model:
    with torch.device("cpu"):
        return model_class(config).float()


def read_parameters(path: Path, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Reads our parameters, float32, from a weights file; every tensor of either side is used.

    Args:
        path: The weights, or the index of their parts.
        shapes: Parameter → its shape.

    Returns:
        Parameter → its values. Those of OPTIONAL are left out if the file has none of them, and
        each added one that it does not have.

    Raises:
        ValueError: A tensor is missing, unknown, or of another shape or kind; the message names it.
    """
    with open_weights(path) as readers:
        wanted = {parameter: file_names(parameter) for parameter in shapes}
        for group in (OPTIONAL, *([parameter] for parameter in shapes if _is_added(parameter))):
            if readers.keys().isdisjoint(name for each in group for name in wanted.get(each, [])):
                for parameter in group:
                    wanted.pop(parameter, None)
        _check_names(set(readers), [name for names in wanted.values() for name in names], path)

        parts = {}
        for parameter, names in wanted.items():
            shape = shapes[parameter]
            if len(names) > 1:
                shape = torch.Size([shape[0] // len(names), *shape[1:]])
            parts[parameter] = [read_tensor(readers[name], name, shape, path, _is_added(parameter))
                                for name in names]
        refuse_claims_beyond([tensor for tensors in parts.values() for tensor in tensors], path)

        # Memory is taken only here, after all names and shapes were found right. torch.cat copies
        # from the mapped file; fp16 and bf16 become fp32.
        found = {}
        for parameter, tensors in parts.items():
            with torch.autocast("cpu", enabled=False):  # torch.cat in it takes no weights of fp16
                value = torch.cat([tensor.flatten() for tensor in tensors]).view(shapes[parameter])
            found[parameter] = value.float() if value.is_floating_point() else value
        return found


def read_tensor(reader: Callable[[], torch.Tensor], name: str, shape: torch.Size,
                path: Path, may_be_whole: bool = False) -> torch.Tensor:
    """Reads one tensor.

    Args:
        may_be_whole: Whether it may hold whole numbers, as a counter does.

    Raises:
        ValueError: It is of another shape, or not plain floating-point numbers; the message names
            file and tensor.
    """
    tensor = reader()
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{path}: tensor {name} is {tensor.layout} on {tensor.device}, "
                         "expected plain numbers")
    if tensor.shape != shape:
        raise ValueError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                         f"but {CONFIG_FILE} asks for {tuple(shape)}")
    if not tensor.is_floating_point() and not may_be_whole:
        raise ValueError(f"{path}: tensor {name} holds {tensor.dtype}, "
                         "expected floating-point weights")
    return tensor


def _check_names(present: set[str], wanted: list[str], path: Path) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} tensors of the encoder that {CONFIG_FILE} "
                         f"describes, among them {one_line(missing[0])}")

    unknown = []
    for name in sorted(present - set(wanted)):
        if not any(re.fullmatch(pattern, name) for pattern in IGNORED):
            unknown.append(name)
    if unknown:
        raise ValueError(f"{path} holds {len(unknown)} tensors that this encoder does not know, "
                         f"among them {one_line(unknown[0])}: is {CONFIG_FILE} the one that "
                         "belongs to it, or did you take parameters out of the encoder?")


def write_checkpoint(folder: str | Path, tensors: dict[str, torch.Tensor], config: dict) -> None:
    """Writes model.safetensors and config.json, each whole or not at all."""
    folder = user_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / SINGLE_FILE, tensors, FORMAT)
    write_json(folder / CONFIG_FILE, config)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the model's parameters and saved buffers, on the CPU, by the file's names."""
    tensors = {}
    for parameter, value in model.state_dict().items():
        if "parametrizations." in parameter or parameter.endswith(("_orig", "_mask")):
            raise ValueError(f"{parameter} is a part of a weight, which a checkpoint cannot hold: "
                             "call remove_parametrizations, or prune.remove, first")
        names = file_names(parameter)
        value = value.detach().cpu()
        rows = value.chunk(len(names)) if len(names) > 1 else [value]
        for name, row in zip(names, rows, strict=True):
            tensors[name] = row.clone()
    return tensors


def config_of(model: nn.Module) -> dict:
    """The content of config.json, with as many layers as the model has: users cut some off."""
    return {**model.config.to_dict(), "num_hidden_layers": len(model.layers)}
