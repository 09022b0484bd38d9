"""Examples → what the encoder takes. Sentences are tokenized once, in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from heads import Architecture
from minbert import BertTokenizer, Packing, pack

from .course import Example

TOKENIZE_AT_ONCE = 4096  # bounds the memory of the tokenizer's own, bulky results
LEAST = 64  # tokens: the least step between two lengths on a GPU (`step_at`); also, the most that a filler has
LEAST_ON_CPU = 16  # the least step on a CPU, where tokens cost more, and a new shape less


def rounded(length: int, least: int = LEAST) -> int:
    """The next of the lengths that a row may have.

    >>> [rounded(length) for length in (1, 64, 65, 1000, 1024, 1025)]
    [64, 64, 128, 1024, 1024, 1152]
    """
    step = step_at(length, least)
    return -(-length // step) * step


def step_at(length: int, least: int = LEAST) -> int:
    """From one rounded length to the next: an eighth of the length at most, or `least`."""
    return max(least, 1 << max(0, (length - 1).bit_length() - 4))


@dataclass(frozen=True)
class Batch:
    """Some examples of one task, packed.

    input_ids, token_type_ids: (tokens,) int64. packing: which tokens make up a sequence. sequences_each: an example
    is one sequence or, where the sentences of a pair go in apart, two in a row. labels: (examples,) float32, or None.
    fillers: how many sequences at the end belong to no example.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    packing: Packing
    sequences_each: int
    labels: torch.Tensor | None
    fillers: int = 0

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.input_ids.to(device), self.token_type_ids.to(device), self.packing.to(device),
                     self.sequences_each, labels, self.fillers)

    def filled(self, tokens: int, seq: int, fillers: int) -> Batch:
        """The same with `fillers` more sequences, of token 0 and about alike in length, that make the row `tokens` long
        and the grid `seq` wide."""
        missing = tokens - len(self.input_ids)
        lengths = [missing * (k + 1) // fillers - missing * k // fillers for k in range(fillers)]
        return Batch(F.pad(self.input_ids, (0, missing)), F.pad(self.token_type_ids, (0, missing)),
                     self.packing.followed_by(lengths, seq), self.sequences_each, self.labels, self.fillers + fillers)

    def in_few_shapes(self, seq: int) -> Batch:
        """The same with the row filled up to the next `rounded` length by as many fillers as any row of that length
        gets, of which some may be empty. seq: width of the grid.

        A filler has LEAST tokens at most, and so many positions the encoder must have.
        """
        tokens = rounded(len(self.input_ids))
        return self.filled(tokens, seq, step_at(tokens) // LEAST)

    def in_few_lengths(self) -> Batch:
        """`in_few_shapes` for a CPU: in smaller steps up to 512 tokens, and without empty fillers."""
        missing = rounded(len(self.input_ids), LEAST_ON_CPU) - len(self.input_ids)
        return self.filled(len(self.input_ids) + missing, max(LEAST, self.packing.seq), -(-missing // LEAST))

    def copy_(self, other: Batch) -> None:
        """Takes over the numbers of a batch of the same shape, wherever it is."""
        for own, new in ((self.input_ids, other.input_ids), (self.token_type_ids, other.token_type_ids),
                         (self.packing.slots, other.packing.slots), (self.packing.mask, other.packing.mask),
                         (self.labels, other.labels)):
            own.copy_(new)


@dataclass(frozen=True)
class Pieces:
    """One process's share of a task's batch, in pieces that are computed one after another.

    batches: none where the share is empty. examples: of the whole batch, all processes' shares together.
    """

    batches: Sequence[Batch]
    examples: int


class TokenizedExamples:
    """Examples of one task as token ids, from which any batch is cut in microseconds.

    A pair becomes one sequence [CLS] a [SEP] b [SEP] or two sequences [CLS] a [SEP], [CLS] b [SEP], as the
    architecture says; never a padded first sentence with a second behind the padding.

    truncated: how many examples were longer than max_length and lost their end. All ids stand in one int32 array, since
    there may be millions of examples.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: BertTokenizer, architecture: Architecture,
                 max_length: int) -> None:
        self.sequences_each = architecture.sequences(len(examples[0].sentences)) if examples else 1
        ids, types, tokens = [np.empty(0, np.int32)], [np.empty(0, np.uint8)], [0]
        self.truncated = 0
        for start in range(0, len(examples), TOKENIZE_AT_ONCE):
            sentences = [example.sentences for example in examples[start:start + TOKENIZE_AT_ONCE]]
            encodings = self._encode(sentences, tokenizer, max_length)
            ids.append(np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings]))
            types.append(np.concatenate([np.array(encoding.type_ids, np.uint8) for encoding in encodings]))
            tokens += [len(encoding) for encoding in encodings]
            cut = [bool(encoding.overflowing) for encoding in encodings]
            self.truncated += int(np.reshape(cut, (-1, self.sequences_each)).any(1).sum())
        self._ids, self._types, self._ends = np.concatenate(ids), np.concatenate(types), np.cumsum(tokens)
        self.labels = np.array([np.nan if example.label is None else example.label for example in examples],
                               dtype=np.float32)
        self.lengths = np.diff(self._ends).reshape(-1, self.sequences_each).sum(1)  # tokens of each example

    def _encode(self, sentences: list[tuple[str, ...]], tokenizer: BertTokenizer, max_length: int) -> list:
        if self.sequences_each > 1 or len(sentences[0]) == 1:
            return tokenizer.encode([text for example in sentences for text in example], max_length=max_length)
        firsts, seconds = zip(*sentences, strict=True)
        return tokenizer.encode(firsts, seconds, max_length=max_length)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The examples at these indices, in this order."""
        rows = [index * self.sequences_each + k for index in indices for k in range(self.sequences_each)]
        spans = [slice(*self._ends[row:row + 2]) for row in rows]
        labels = self.labels[list(indices)]
        return Batch(*pack([self._ids[span] for span in spans], [self._types[span] for span in spans]),
                     self.sequences_each, None if np.isnan(labels).any() else torch.from_numpy(labels))

    def pieces(self, indices: Sequence[int], count: int, examples: int) -> Pieces:
        """The examples at these indices in at most `count` pieces of like size; `examples`: see Pieces."""
        count = min(count, len(indices))
        return Pieces([self.batch(indices[len(indices) * k // count:len(indices) * (k + 1) // count])
                       for k in range(count)], examples)

    def by_length(self, batch_size: int) -> list[list[int]]:
        """Indices in batches of similar length, the longest first, so that a want of memory shows at once."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[start:start + batch_size] for start in range(0, len(order), batch_size)]
