"""Everything that decides what a pretraining run computes, as one frozen record saved with it."""

import dataclasses
import reprlib
from dataclasses import dataclass
from pathlib import Path

import torch

from minbert.files import one_line, read_object, write_json
from multitask.runs.settings import LARGEST, SKIP, STOP, check_type, expand_paths
from multitask.system.command import flag_of
from multitask.system.device import DEVICES, PRECISIONS

from .segments import MAKERS, NONE

SAVE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# setting → its values
CHOICES = {
    "device": DEVICES, "precision": PRECISIONS, "save_dtype": SAVE_DTYPES,
    "on_nonfinite": (STOP, SKIP), "second_segment": tuple(MAKERS),
}
# setting → its smallest value
SMALLEST = {
    "layers": 1, "hidden": 1, "heads": 1, "vocab_size": 6, "length": 8, "batch_size": 1,
    "epochs": 1, "steps": 1, "checkpoint_every": 1,
}


@dataclass(frozen=True)
class PretrainingSettings:
    """One run of pretraining; the names are the flags of `python -m multitask.pretrain`.

    Args:
        start: --from, the checkpoint to continue from. None trains from scratch, with the shape
            that layers, hidden, heads and vocab_size give.
        steps: None takes `epochs` passes over the text.

    Raises:
        ValueError: a value is out of range.
    """

    text: str
    start: str | None = None
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocab_size: int = 8192
    length: int = 128
    batch_size: int = 64
    epochs: int = 3
    steps: int | None = None
    max_minutes: float | None = None
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.0
    whole_words: bool = False
    second_segment: str = NONE
    mask_share: float = 0.15
    held_out: float = 0.01
    checkpoint_every: int = 500
    on_nonfinite: str = STOP
    seed: int = 11711
    device: str = "auto"
    precision: str = "auto"
    save_dtype: str = "fp32"

    def __post_init__(self) -> None:
        expand_paths(self, ("text", "start"))
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), field.type)

        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                self._refuse(name, f"choose from {', '.join(choices)}")
        for name, smallest in SMALLEST.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value < 2**53:
                self._refuse(name, f"must be at least {smallest}, and below 2^53")
        for name in ("lr", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) <= LARGEST:
                self._refuse(name, f"must be 0 or more, and at most {LARGEST:g}")

        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                self._refuse(name, "a share, from 0 to below 1")
        for name in ("mask_share", "held_out"):
            if not 0 < getattr(self, name) < 1:
                self._refuse(name, "a share, above 0 and below 1")
        if self.max_minutes is not None and not self.max_minutes > 0:
            self._refuse("max_minutes", "must be above 0")
        if not 0 <= self.seed < 2**63:
            self._refuse("seed", "must be from 0 to 2^63 - 1")
        if self.start is None and self.hidden % self.heads:
            raise ValueError(f"--hidden {self.hidden} is not divisible by --heads {self.heads}")

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        shown = value if isinstance(value, str) else reprlib.repr(value)
        raise ValueError(f"{flag_of(name)} {shown}: {expected}")

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "PretrainingSettings":
        """Reads what `save` wrote. Raises FileNotFoundError or ValueError, naming the file."""
        try:
            return cls(**read_object(path))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold the settings of a pretraining run "
                             f"({one_line(error)})") from None
