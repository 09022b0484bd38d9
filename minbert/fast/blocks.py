"""Blocks for attention: sequences of a packed row, grouped by length and padded alike.

Attention's products run over a block at once, for every head by itself, so a block is (sequences ·
heads, width, head_dim). All blocks' heads lie in memory one after another, in slices of head_dim
numbers. One gathering of slices leads there from the row and one leads back, however many blocks
there are. A block's sequences may stand anywhere in the row.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

# Sequences share a block while the shortest has this share of the longest's tokens …
SIMILAR = 0.75
# … and while the block has at most this many attention weights per head, which bounds memory.
BLOCK_WEIGHTS = 1 << 18
# A block's width is a multiple of this: the library of products prepares and keeps every new shape.
WIDTH = 8


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences of these lengths share a block, the longest first; empty ones are in none.

    >>> group_by_length([3, 9, 0, 8, 2, 10])
    [[5, 1, 3], [0], [4]]
    """
    present = [number for number, length in enumerate(lengths) if length]
    blocks: list[list[int]] = []
    longest = 0
    for number in sorted(present, key=lambda number: -lengths[number]):
        is_shorter = lengths[number] < SIMILAR * longest
        if not blocks or is_shorter or (len(blocks[-1]) + 1) * longest**2 > BLOCK_WEIGHTS:
            blocks.append([])
            longest = lengths[number]
        blocks[-1].append(number)
    return blocks


class Blocks:
    """Where in the blocks the heads of each token stand.

    A slice is the head_dim numbers of one token in one head, a slot the place of one slice. Slots
    are numbered through all blocks, in a block by sequence, then head, then token. A row is
    (tokens, kinds · heads · head_dim): keys and values side by side are two kinds.
    """

    def __init__(self, lengths: Sequence[int], num_heads: int,
                 groups: Sequence[Sequence[int]] | None = None, width: int = WIDTH) -> None:
        """Args:
            lengths: tokens of each sequence, in the row's order.
            groups: the sequences of each block; by default `group_by_length`.
            width: blocks are a multiple of it wide.
        """
        self.num_heads = num_heads
        self._groups = group_by_length(lengths) if groups is None else groups
        self._lengths = [[lengths[number] for number in group] for group in self._groups]
        self._widths = [-(-max(block) // width) * width for block in self._lengths]

        # of each sequence the first slot, and from one head to the next the step
        starts, steps, slots = [0] * len(lengths), [0] * len(lengths), 0
        for group, wide in zip(self._groups, self._widths, strict=True):
            for number in group:
                starts[number], steps[number] = slots, wide
                slots += wide * num_heads
        self._total = slots
        self._counts = [len(group) * wide * num_heads
                        for group, wide in zip(self._groups, self._widths, strict=True)]

        start, step, length = (torch.tensor(numbers, dtype=torch.int64, device="cpu")
                               for numbers in (starts, steps, lengths))
        token = torch.arange(sum(lengths), device="cpu")
        column = token - (length.cumsum(0) - length).repeat_interleave(length)
        first_head = start.repeat_interleave(length) + column
        heads = step.repeat_interleave(length)[:, None] * torch.arange(num_heads, device="cpu")
        self._slots = first_head[:, None] + heads  # (tokens, heads): the slot of each slice
        self._ways: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._biases: dict[torch.dtype, list[torch.Tensor]] = {}

    @cached_property
    def firsts(self) -> "Blocks":
        """The same sequences in the same blocks, of one token each; none may be empty."""
        sequences = sum(len(group) for group in self._groups)
        return Blocks([1] * sequences, self.num_heads, self._groups, width=1)

    def split(self, row: torch.Tensor, kinds: int) -> torch.Tensor:
        """(tokens, kinds · heads · head_dim) → (kinds, slots, head_dim); padding gets slice 0."""
        slices = row.reshape(-1, row.shape[1] // (kinds * self.num_heads))
        there, _ = self._there_and_back(kinds)
        return slices.index_select(0, there).unflatten(0, (kinds, -1))

    def split_padded(self, row: torch.Tensor) -> torch.Tensor:
        """`split` of one kind, (tokens, hidden) → (slots, head_dim), with zeros at the padding."""
        slices = row.reshape(-1, row.shape[1] // self.num_heads)
        _, back = self._there_and_back(1)
        return slices.new_zeros(self._total, slices.shape[1]).index_copy_(0, back, slices)

    def empty(self, like: torch.Tensor, kinds: int) -> torch.Tensor:
        """Memory for `join`: (kinds, slots, head_dim), dtype and head_dim as in `like`."""
        return like.new_empty(kinds, self._total, like.shape[-1])

    def join(self, heads: torch.Tensor) -> torch.Tensor:
        """The reverse of `split`: (kinds, slots, head_dim) → (tokens, kinds · heads · head_dim)."""
        kinds, _, head_dim = heads.shape
        _, back = self._there_and_back(kinds)
        slices = heads.flatten(0, 1).index_select(0, back)
        return slices.view(len(self._slots), kinds * self.num_heads * head_dim)

    def each(self, heads: torch.Tensor) -> list[torch.Tensor]:
        """One kind, (slots, head_dim) → per block (sequences · heads, width, head_dim), views."""
        blocks = heads.split(self._counts)
        return [block.view(-1, wide, heads.shape[1])
                for block, wide in zip(blocks, self._widths, strict=True)]

    def biases(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """What is added to each block's scores: the least finite number at padding, 0 elsewhere.

        Each is (sequences · heads, 1, width), or one 0, (1, 1, 1), where there is no padding.
        """
        if dtype not in self._biases:
            blocks = zip(self._lengths, self._widths, strict=True)
            self._biases[dtype] = [self._bias(lengths, wide, dtype) for lengths, wide in blocks]
        return self._biases[dtype]

    def _bias(self, lengths: list[int], width: int, dtype: torch.dtype) -> torch.Tensor:
        length = torch.tensor(lengths, device="cpu")
        is_padding = torch.arange(width, device="cpu") >= length[:, None]
        if not is_padding.any():
            return is_padding.new_zeros(1, 1, 1, dtype=dtype)
        bias = torch.zeros_like(is_padding, dtype=dtype)
        bias.masked_fill_(is_padding, torch.finfo(dtype).min)
        return bias.repeat_interleave(self.num_heads, 0)[:, None]

    def _there_and_back(self, kinds: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which slice stands in each slot, 0 at padding; in which slot each slice stands."""
        if kinds not in self._ways:
            offsets = torch.arange(kinds, device="cpu")[:, None] * self._total
            back = (self._slots[:, None] + offsets).flatten()  # by token, then kind, then head
            there = back.new_zeros(kinds * self._total)
            there.index_copy_(0, back, torch.arange(len(back), device="cpu"))
            self._ways[kinds] = there, back
        return self._ways[kinds]
