"""Everything that decides what a pretraining run computes, as one frozen record saved with it."""

from dataclasses import dataclass

import torch

from minbert.files import Saved
from multitask.runs.settings import LARGEST, SKIP, STOP, check_values
from multitask.system.device import DEVICES, PRECISIONS

from .segments import MAKERS, NONE

SHAPE = ("layers", "hidden", "heads", "vocab_size")  # of a model from scratch
SAVE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# setting → its values
CHOICES = {
    "device": DEVICES, "precision": PRECISIONS, "save_dtype": SAVE_DTYPES,
    "on_nonfinite": (STOP, SKIP), "second_segment": tuple(MAKERS),
}
# settings, what they may be, and what an error says of other values
RANGES = (
    (("layers", "hidden", "heads", "batch_size", "epochs", "steps", "checkpoint_every"),
     lambda value: 1 <= value < 2**53, "must be at least 1, and below 2^53"),
    (("vocab_size",), lambda value: 6 <= value < 2**53, "must be at least 6, and below 2^53"),
    (("length",), lambda value: 8 <= value < 2**53, "must be at least 8, and below 2^53"),
    (("lr", "weight_decay", "clip"),
     lambda value: 0 <= value <= LARGEST, f"must be 0 or more, and at most {LARGEST:g}"),
    (("warmup", "dropout"), lambda value: 0 <= value < 1, "a share, from 0 to below 1"),
    (("mask_share", "held_out"), lambda value: 0 < value < 1, "a share, above 0 and below 1"),
    (("seed",), lambda value: 0 <= value < 2**63, "must be from 0 to 2^63 - 1"),
)


@dataclass(frozen=True)
class PretrainingSettings(Saved):
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
        check_values(self, CHOICES, RANGES)
        if self.start is None and self.hidden % self.heads:
            raise ValueError(f"--hidden {self.hidden} is not divisible by --heads {self.heads}")
