"""Sentences of a packed row in blocks for attention: those alike in length together, padded to one width.

Attention's products run over a block at once, for every head by itself, so a block is (sentences · heads, width,
head_dim). All blocks' heads lie in memory one after another, in slices of head_dim numbers; one gathering of slices
leads there from the row, one back, however many blocks there are. A block's sentences may stand anywhere in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

# Sentences share a block while the shortest has this share of the longest's tokens …
ALIKE = 0.75
# … and while the block has at most this many attention weights a head, so that memory stays bounded.
BLOCK_WEIGHTS = 1 << 18
# Blocks are a multiple of this wide: a library of products prepares anew for each shape, and keeps so many shapes only.
WIDTH = 8


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Which sentences of these lengths share a block, the longest first; empty ones are in none.

    >>> alike([3, 9, 0, 8, 2, 10])
    [[5, 1, 3], [0], [4]]
    """
    blocks: list[list[int]] = []
    longest = 0
    for sentence in sorted((one for one, length in enumerate(lengths) if length), key=lambda one: -lengths[one]):
        if lengths[sentence] < ALIKE * longest or not blocks or (len(blocks[-1]) + 1) * longest**2 > BLOCK_WEIGHTS:
            blocks.append([])
            longest = lengths[sentence]
        blocks[-1].append(sentence)
    return blocks


class Blocks:
    """Where in the blocks each token's heads stand.

    A slice: the head_dim numbers of one token in one head. A slot: the place of one slice; slots are numbered through
    all blocks, in a block by sentence, then head, then token (`Packing.slots` number the padded grid instead). A row is
    (tokens, kinds · heads · head_dim): keys and values side by side are two kinds.
    """

    def __init__(self, lengths: Sequence[int], num_heads: int, together: Sequence[Sequence[int]] | None = None,
                 width: int | None = None) -> None:
        """lengths: tokens of each sentence, in the row's order. together: the sentences of each block; those `alike` if
        not given. width: blocks are a multiple of it wide; of WIDTH if not given."""
        self.num_heads = num_heads
        self._together = alike(lengths) if together is None else together
        self._lengths = [[lengths[sentence] for sentence in block] for block in self._together]
        width = width or WIDTH
        self._widths = [-(-max(block) // width) * width for block in self._lengths]
        self._counts = [len(block) * wide * num_heads for block, wide in zip(self._lengths, self._widths, strict=True)]
        starts, steps, slots = [0] * len(lengths), [0] * len(lengths), 0
        for block, wide in zip(self._together, self._widths, strict=True):
            for sentence in block:
                starts[sentence], steps[sentence] = slots, wide
                slots += wide * num_heads
        self._total = slots
        start, step, length = (torch.tensor(numbers, dtype=torch.int64) for numbers in (starts, steps, lengths))
        column = torch.arange(sum(lengths)) - (length.cumsum(0) - length).repeat_interleave(length)
        first_head = start.repeat_interleave(length) + column
        # (tokens, heads): the slot of each slice; from head to head it is the block's width further
        self._slots = first_head[:, None] + step.repeat_interleave(length)[:, None] * torch.arange(num_heads)
        self._ways: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._biases: dict[torch.dtype, list[torch.Tensor]] = {}

    @cached_property
    def firsts(self) -> Blocks:
        """The same sentences in the same blocks, of one token each; none may be empty."""
        return Blocks([1] * sum(map(len, self._together)), self.num_heads, self._together, width=1)

    def split(self, row: torch.Tensor, kinds: int) -> torch.Tensor:
        """(tokens, kinds · heads · head_dim) → (kinds, slots, head_dim); at the padding the row's first slice."""
        slices = row.reshape(-1, row.shape[1] // (kinds * self.num_heads))
        return slices.index_select(0, self._there_and_back(kinds)[0]).unflatten(0, (kinds, -1))

    def split_padded(self, row: torch.Tensor) -> torch.Tensor:
        """`split` of one kind, (tokens, heads · head_dim) → (slots, head_dim), with zeros at the padding."""
        slices = row.reshape(-1, row.shape[1] // self.num_heads)
        return slices.new_zeros(self._total, slices.shape[1]).index_copy_(0, self._there_and_back(1)[1], slices)

    def empty(self, like: torch.Tensor, kinds: int) -> torch.Tensor:
        """Memory for `join`: (kinds, slots, head_dim), of the dtype and head_dim of `like`, (…, head_dim)."""
        return like.new_empty(kinds, self._total, like.shape[-1])

    def join(self, heads: torch.Tensor) -> torch.Tensor:
        """The reverse of `split`: (kinds, slots, head_dim) → (tokens, kinds · heads · head_dim)."""
        kinds, _, head_dim = heads.shape
        slices = heads.flatten(0, 1).index_select(0, self._there_and_back(kinds)[1])
        return slices.view(len(self._slots), kinds * self.num_heads * head_dim)

    def each(self, heads: torch.Tensor) -> list[torch.Tensor]:
        """One kind, (slots, head_dim) → of each block (sentences · heads, width, head_dim), views."""
        return [block.view(-1, wide, heads.shape[1])
                for block, wide in zip(heads.split(self._counts), self._widths, strict=True)]

    def biases(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """What is added to each block's scores: (sentences · heads, 1, width), the least number at padding, else
        0; where there is no padding one 0 for all, (1, 1, 1)."""
        if dtype not in self._biases:
            self._biases[dtype] = [self._bias(block, wide, dtype)
                                   for block, wide in zip(self._lengths, self._widths, strict=True)]
        return self._biases[dtype]

    def _bias(self, lengths: list[int], width: int, dtype: torch.dtype) -> torch.Tensor:
        is_padding = torch.arange(width) >= torch.tensor(lengths)[:, None]
        if not is_padding.any():
            return torch.zeros(1, 1, 1, dtype=dtype)
        bias = torch.zeros(is_padding.shape, dtype=dtype).masked_fill_(is_padding, torch.finfo(dtype).min)
        return bias.repeat_interleave(self.num_heads, 0)[:, None]

    def _there_and_back(self, kinds: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which slice of a row stands in each slot, 0 at the padding; in which slot each slice of a row stands."""
        if kinds not in self._ways:
            slots = self._slots[:, None] + torch.arange(kinds)[:, None] * self._total  # (tokens, kinds, heads)
            back = slots.flatten()
            there = back.new_zeros(kinds * self._total).index_copy_(0, back, torch.arange(len(back)))
            self._ways[kinds] = there, back
        return self._ways[kinds]
