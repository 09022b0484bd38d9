"""The numbers that fix a BERT's shape, under HuggingFace's names."""

import dataclasses
import difflib
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path

from .activations import ACTIVATIONS
from .files import read_object, user_path

# Keys of a HuggingFace config.json that change the mathematics, with the only supported value.
REQUIRED_VALUES = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

# Each is at least 1 and at most this: what a file claims is checked before memory is taken.
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

    Raises:
        ValueError: A value cannot describe a BERT.

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
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise ValueError(f"BertConfig: {name} must be from 1 to {largest}, got "
                                 f"{reprlib.repr(value)}")

        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"BertConfig: {name} must be in [0, 1), got {getattr(self, name)}")
        if not self.layer_norm_eps > 0:
            raise ValueError("BertConfig: layer_norm_eps must be above 0, got "
                             f"{self.layer_norm_eps}")
        if not self.initializer_range >= 0:
            raise ValueError("BertConfig: initializer_range must be 0 or more, got "
                             f"{self.initializer_range}")

        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"BertConfig: pad_token_id must be in [0, {self.vocab_size}), got "
                             f"{reprlib.repr(self.pad_token_id)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"BertConfig: hidden_size {self.hidden_size} is not divisible by "
                             f"num_attention_heads {self.num_attention_heads}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"BertConfig: hidden_act {reprlib.repr(self.hidden_act)} is unknown; "
                             f"choose from {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_dict(cls, values: dict) -> "BertConfig":
        """Reads a HuggingFace config; keys that do not concern the encoder are ignored.

        Raises:
            ValueError: It is not an absolute-position BERT encoder, or a key looks like a misspelt
                one of ours.
        """
        for key, required in REQUIRED_VALUES.items():
            found = values.get(key, required)
            if found != required:
                raise ValueError(f"{key} is {reprlib.repr(found)}, but only {required!r} is "
                                 "supported: this is a BERT encoder")

        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key in names:
                continue
            # 0.9 catches a typing slip (hidden_sizes) and lets HuggingFace's own keys pass.
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.9)
            if near and near[0] not in values:
                raise ValueError(f"unknown key {reprlib.repr(key)}: did you mean {near[0]!r}?")

        return cls(**{name: values[name] for name in names if values.get(name) is not None})

    @classmethod
    def from_file(cls, path: str | Path) -> "BertConfig":
        """Reads config.json; every error names the file."""
        path = user_path(path)
        values = read_object(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_dict(self) -> dict:
        """Returns the config.json that transformers' AutoModel reads as a BertModel."""
        return {"model_type": "bert", "architectures": ["BertModel"], **dataclasses.asdict(self)}


def _check_type(name: str, value: object, declared: type) -> None:
    """Refuses "12" for 12 and True for 1, which would fail much later and say much less."""
    accepted = (int, float) if declared is float else declared
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(f"BertConfig: {name} must be {declared.__name__}, got "
                         f"{reprlib.repr(value)}")

    # False for NaN too, and math.isfinite fails on an integer too large for a float.
    if declared is float and not abs(value) <= sys.float_info.max:
        raise ValueError(f"BertConfig: {name} must be finite, got {reprlib.repr(value)}")
