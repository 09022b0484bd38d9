"""The numbers that fix a BERT's shape, under HuggingFace's names."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path

from .activations import ACTIVATIONS
from .files import read_object

# Keys of a HuggingFace config.json that change the mathematics, with the only value implemented here.
REQUIRED_VALUES = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

# At least 1 and at most this: a file's claim is bounded before anything is built by it.
LARGEST = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "num_hidden_layers": 500,
    "num_attention_heads": 1_000_000,
    "intermediate_size": 10_000_000,
    "max_position_embeddings": 10_000_000,
    "type_vocab_size": 1_000_000,
}


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT encoder; the defaults are bert-base-uncased (Devlin et al. 2018).

    Raises ValueError at construction if a value cannot describe a BERT.

    >>> BertConfig(hidden_size=384, num_attention_heads=12).head_dim
    32
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @property
    def head_dim(self) -> int:
        """Width of one attention head: hidden_size / num_attention_heads."""
        return self.hidden_size // self.num_attention_heads

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        for name, largest in LARGEST.items():
            if getattr(self, name) < 1:
                raise ValueError(f"BertConfig: {name} must be at least 1, got {reprlib.repr(getattr(self, name))}")
            if getattr(self, name) > largest:
                raise ValueError(f"BertConfig: {name} must be at most {largest}, got "
                                 f"{reprlib.repr(getattr(self, name))}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"BertConfig: {name} must be in [0, 1), got {getattr(self, name)}")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"BertConfig: layer_norm_eps must be above 0, got {self.layer_norm_eps}")
        if not self.initializer_range >= 0:
            raise ValueError(f"BertConfig: initializer_range must be 0 or more, got {self.initializer_range}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"BertConfig: pad_token_id must be in [0, {self.vocab_size}), got "
                             f"{reprlib.repr(self.pad_token_id)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"BertConfig: hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"BertConfig: hidden_act {reprlib.repr(self.hidden_act)} is unknown; choose from "
                f"{', '.join(ACTIVATIONS)}"
            )

    @classmethod
    def from_dict(cls, values: dict) -> BertConfig:
        """Takes a HuggingFace config as a dictionary; keys that do not concern the encoder are left alone.

        Raises ValueError for a model that is not an absolute-position BERT encoder, and for a key that looks
        like a misspelt one of ours.
        """
        for key, required in REQUIRED_VALUES.items():
            found = values.get(key, required)
            if found != required:
                raise ValueError(f"{key} is {reprlib.repr(found)}, but only {required!r} is supported: this is a BERT "
                                 "encoder")
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            # 0.9: catches a typing slip (hidden_sizes) and lets HuggingFace's own further keys pass
            near = [] if key in names else difflib.get_close_matches(key, names, n=1, cutoff=0.9)
            if near and near[0] not in values:
                raise ValueError(f"unknown key {reprlib.repr(key)}: did you mean {near[0]!r}?")
        return cls(**{name: values[name] for name in names if values.get(name) is not None})

    @classmethod
    def from_file(cls, path: str | Path) -> BertConfig:
        """Reads config.json; every error names the file."""
        path = Path(path)
        values = read_object(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_dict(self) -> dict:
        """The config.json that transformers' AutoModel reads as a BertModel."""
        return {"model_type": "bert", "architectures": ["BertModel"], **dataclasses.asdict(self)}


def _check_type(name: str, value: object, declared: str) -> None:
    """Refuses "12" for 12 and True for 1, which would fail much later and say much less."""
    accepted = {"int": (int,), "float": (int, float), "str": (str,)}[declared]
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(f"BertConfig: {name} must be {declared}, got {reprlib.repr(value)}")
    if declared == "float" and not (abs(value) <= sys.float_info.max and math.isfinite(value)):
        raise ValueError(f"BertConfig: {name} must be finite, got {reprlib.repr(value)}")
