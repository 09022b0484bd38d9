"""Sequences of unequal length in one row of real tokens, so that padding is computed nowhere.

In a padded batch of 16 random sentences, about half the positions are padding. Linear layers,
LayerNorm, GELU and dropout look at one token at a time, so they run on a row of real tokens only:

    padded (batch=2, seq=4)        packed (tokens=6)
    [CLS] good film [SEP]    →     [CLS] good film [SEP] [CLS] [SEP]
    [CLS] [SEP]  ·    ·

Only attention needs to know which tokens share a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from .blocks import Blocks


@dataclass(frozen=True)
class Packing:
    """Where each token of a packed row stands in the padded (batch, seq) grid.

    Attributes:
        batch, seq: the grid's height and width.
        slots: (tokens,) int64, row · seq + column of every real token, ascending.
        mask: (batch, seq) bool, True where a token is real.
    """

    batch: int
    seq: int
    slots: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor) -> "Packing":
        """attention_mask: (batch, seq), nonzero for real tokens, which may stand anywhere."""
        mask = attention_mask != 0
        return cls(*mask.shape, mask.flatten().nonzero().squeeze(1), mask)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int]) -> "Packing":
        """Sequences of these lengths from column 0, the grid as wide as the longest; on the CPU."""
        length = torch.tensor(lengths, dtype=torch.int64, device="cpu")
        columns = torch.arange(int(length.max()), device="cpu")
        return cls.from_mask(columns < length[:, None])

    @property
    def is_full(self) -> bool:
        """Whether there is no padding at all."""
        return len(self.slots) == self.batch * self.seq

    @property
    def lengths(self) -> torch.Tensor:
        """(batch,): the number of real tokens of each sequence."""
        return self.mask.sum(1)

    @property
    def starts(self) -> torch.Tensor:
        """(batch,): where in the row each sequence begins; meaningless for an empty one."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def bounds(self) -> torch.Tensor:
        """(batch + 1,) int32: sequence b stands in the row from bounds[b] to bounds[b + 1]."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    @property
    def all_begin(self) -> bool:
        """Whether every sequence has a token in column 0."""
        return self.is_full or bool(self.mask[:, 0].all())

    @property
    def position_ids(self) -> torch.Tensor:
        """(tokens,): the column of every real token, which is its position in the sequence."""
        return self.slots % self.seq

    def blocks(self, num_heads: int) -> Blocks:
        """The sequences as attention on a CPU takes them, those of similar length together."""
        made = self.__dict__.get("_blocks")
        if made is None or made.num_heads != num_heads:
            made = Blocks(self.lengths.tolist(), num_heads)
            # kept although the class is frozen, as cached_property does
            self.__dict__["_blocks"] = made
        return made

    def followed_by(self, more: Sequence[int], seq: int) -> "Packing":
        """The same with further sequences, of these lengths, in a grid of this width."""
        lengths = torch.cat([self.lengths, self.lengths.new_tensor(more)])
        return Packing.from_mask(torch.arange(seq, device=lengths.device) < lengths[:, None])

    def to(self, device: torch.device) -> "Packing":
        return replace(self, slots=self.slots.to(device), mask=self.mask.to(device))

    def copy_(self, other: "Packing") -> None:
        """Take over the numbers of a packing of the same shape, wherever it is.

        A CUDA graph reads the tensors that were there when it was made, so `bounds` stays one, too.
        """
        for mine, theirs in ((self.slots, other.slots), (self.mask, other.mask),
                             (self.bounds, other.bounds)):
            mine.copy_(theirs)
        self.__dict__.pop("_blocks", None)

    def pad(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, …) → (batch, seq, …), with zeros at the padding."""
        if not self.is_full:
            grid = row.new_zeros(self.batch * self.seq, *row.shape[1:])
            grid[self.slots] = row
            row = grid
        return row.unflatten(0, (self.batch, self.seq))

    def unpad(self, grid: torch.Tensor) -> torch.Tensor:
        """(batch, seq, …) → (tokens, …), without the padding."""
        flat = grid.flatten(0, 1)
        return flat if self.is_full else flat.index_select(0, self.slots)

    def first_tokens(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, …) → (batch, …): the token in column 0, [CLS]; zeros where that is padding."""
        if self.is_full:
            return row[::self.seq]
        first = row.index_select(0, self.starts.clamp(max=len(row) - 1))
        has_first = self.mask[:, :1].view(-1, *[1] * (row.dim() - 1))
        return first.where(has_first, 0)

    def mean_tokens(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) → (batch, hidden): the mean over each sequence's real tokens."""
        return self.pad(row).sum(1) / self.lengths.clamp(min=1)[:, None]


def pack(ids: Sequence[Sequence[int]],
         types: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, Packing]:
    """Ids and types of each sequence → input_ids, token_type_ids (tokens,), packing."""
    input_ids = torch.from_numpy(np.concatenate(ids, dtype=np.int64))
    token_type_ids = torch.from_numpy(np.concatenate(types, dtype=np.int64))
    return input_ids, token_type_ids, Packing.from_lengths([len(sequence) for sequence in ids])
