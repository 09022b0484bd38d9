"""Sentences of unequal length in one row of real tokens, so that no padding is computed outside attention.

Of a padded batch of 16 random sentences about half the positions are padding. Linear layers, LayerNorm, GELU
and dropout look at one token at a time, so they run on a row that holds the real tokens only:

    padded (batch=2, seq=4)        packed (tokens=6)
    [CLS] good film [SEP]    →     [CLS] good film [SEP] [CLS] [SEP]
    [CLS] [SEP]  ·    ·

Only attention needs to know which tokens share a sentence; `Packing.pad` and `Packing.unpad` lead there and back, or,
for the layer by hand, `Packing.blocks`.
"""

from __future__ import annotations

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

    slots: (tokens,) int64, row · seq + column of every real token, ascending.
    mask:  (batch, seq) bool, True where a token is real; None when there is no padding at all.
    parts: how many sentences each part has, in their order, such as those of one task; one part if not given.
    """

    batch: int
    seq: int
    slots: torch.Tensor
    mask: torch.Tensor | None
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.batch,))

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor) -> Packing:
        """attention_mask (batch, seq), nonzero = real token; the real tokens may stand anywhere in a row."""
        batch, seq = attention_mask.shape
        mask = attention_mask != 0
        slots = mask.flatten().nonzero().squeeze(1)
        return cls(batch, seq, slots, None if len(slots) == batch * seq else mask)

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], seq: int | None = None) -> Packing:
        """Sentences of these lengths, each starting at column 0, in a grid as wide as the longest, or as told."""
        length = torch.tensor(lengths, dtype=torch.int64)
        return cls.from_mask(torch.arange(int(length.max()) if seq is None else seq) < length[:, None])

    @classmethod
    def joined(cls, packings: Sequence[Packing]) -> Packing:
        """The sentences of all, one after another, each packing a part; all of them as if they began in column 0."""
        joined = cls.from_lengths(torch.cat([packing.lengths for packing in packings]).tolist())
        return replace(joined, parts=tuple(packing.batch for packing in packings))

    @property
    def lengths(self) -> torch.Tensor:
        """(batch,): how many real tokens each sentence has."""
        if self.mask is None:
            return torch.full((self.batch,), self.seq, device=self.slots.device)
        return self.mask.sum(1)

    @property
    def starts(self) -> torch.Tensor:
        """(batch,): where in the row each sentence begins; meaningless for an empty sentence."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def part_tokens(self) -> list[int]:
        """How many tokens each part has."""
        return [int(lengths.sum()) for lengths in self.lengths.split(self.parts)]

    @cached_property
    def bounds(self) -> torch.Tensor:
        """(batch + 1,) int32: sentence b stands in the row from bounds[b] to bounds[b + 1]."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    @property
    def all_begin(self) -> bool:
        """Whether every sentence has a token in column 0."""
        return self.mask is None or bool(self.mask[:, 0].all())

    @property
    def position_ids(self) -> torch.Tensor:
        """(tokens,): the column of every real token, which is its position in the sentence."""
        return self.slots % self.seq

    _blocks = None  # those made last, kept although the class is frozen, as cached_property does

    def blocks(self, num_heads: int) -> Blocks:
        """The sentences as attention on a CPU takes them, those alike in length together."""
        if self._blocks is None or self._blocks.num_heads != num_heads:
            self.__dict__["_blocks"] = Blocks(self.lengths.tolist(), num_heads)
        return self._blocks

    def followed_by(self, more: Sequence[int], seq: int) -> Packing:
        """With more sentences, of these lengths, in a grid of this width, and with a mask in any case; one part."""
        lengths = torch.cat([self.lengths, self.lengths.new_tensor(more)])
        mask = torch.arange(seq, device=lengths.device) < lengths[:, None]
        return Packing(len(lengths), seq, mask.flatten().nonzero().squeeze(1), mask)

    def to(self, device: torch.device) -> Packing:
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, slots=self.slots.to(device), mask=mask)

    def pad(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, …) → (batch, seq, …), with zeros at the padding."""
        if self.mask is not None:
            row = _Scatter.apply(row, self.slots, self.batch * self.seq)
        return row.unflatten(0, (self.batch, self.seq))

    def unpad(self, grid: torch.Tensor) -> torch.Tensor:
        """(batch, seq, …) → (tokens, …), dropping what stands at the padding."""
        flat = grid.flatten(0, 1)
        return flat if self.mask is None else _Gather.apply(flat, self.slots)

    def first_tokens(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, …) → (batch, …): the token in column 0 of every sentence, [CLS]; zeros where that is padding."""
        if self.mask is None:
            return row[::self.seq]
        first = row.index_select(0, self.starts.clamp(max=len(row) - 1))
        return first.where(self.mask[:, :1].view(-1, *[1] * (row.dim() - 1)), 0)

    def mean_tokens(self, row: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) → (batch, hidden): the mean over each sentence's real tokens, [CLS] and [SEP] included."""
        return self.pad(row).sum(1) / self.lengths.clamp(min=1)[:, None]


def pack(ids: Sequence[np.ndarray], types: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, Packing]:
    """Sentences' token ids and token types → input_ids (tokens,), token_type_ids (tokens,), and their packing."""
    packing = Packing.from_lengths([len(sentence) for sentence in ids])
    return (*(torch.from_numpy(np.concatenate(rows, dtype=np.int64)) for rows in (ids, types)), packing)


class _Scatter(torch.autograd.Function):
    """rows → a taller tensor of zeros with the rows at `slots`; its derivative picks them out again.

    torch's own indexing would do, but its backward adds where a copy is enough: no slot occurs twice.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor, slots: torch.Tensor, height: int) -> torch.Tensor:
        ctx.save_for_backward(slots)
        return rows.new_zeros(height, *rows.shape[1:]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _Gather(torch.autograd.Function):
    """The transpose of _Scatter: picks the rows at `slots`; its derivative puts them back among zeros."""

    @staticmethod
    def forward(ctx, grid: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slots)
        ctx.height = grid.shape[0]
        return grid.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.height, *grad.shape[1:]).index_copy_(0, slots, grad), None
