"""Examples → what the encoder takes. Sentences are tokenized once, in advance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Encoding
from torch.nn import functional as F

from heads import Architecture
from minbert import BertTokenizer, Packing, pack

from .examples import Example

TOKENIZE_AT_ONCE = 4096  # bounds the memory of the tokenizer's bulky results
TOKENS_AT_ONCE = 64 * 512  # bounds the memory of a batch without gradients
LEAST = 64  # tokens: the smallest step between two lengths on a GPU, and the longest dummy sequence
LEAST_ON_CPU = 16  # the least step on a CPU, where tokens cost more and a new shape less


def rounded(length: int, least: int = LEAST) -> int:
    """The smallest permitted row length that is not below `length`.

    >>> [rounded(length) for length in (1, 64, 65, 1000, 1024, 1025)]
    [64, 64, 128, 1024, 1024, 1152]
    """
    step = step_at(length, least)
    return -(-length // step) * step


def step_at(length: int, least: int = LEAST) -> int:
    """The distance to the next rounded length: at most an eighth of it, but at least `least`."""
    return max(least, 1 << max(0, (length - 1).bit_length() - 4))


@dataclass(frozen=True)
class Batch:
    """Some examples of one task, packed.

    Attributes:
        input_ids, token_type_ids: (tokens,) int64.
        packing: which tokens make up a sequence.
        sequences_each: an example is one sequence, or two in a row where the sentences of a pair
            are encoded apart.
        labels: (examples,) float32, or None.
        dummy_sequences: how many sequences at the end belong to no example.
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    packing: Packing
    sequences_each: int
    labels: torch.Tensor | None
    dummy_sequences: int = 0

    def to(self, device: torch.device | str) -> "Batch":
        if self.input_ids.device == torch.device(device):
            return self
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, input_ids=self.input_ids.to(device), labels=labels,
                       token_type_ids=self.token_type_ids.to(device),
                       packing=self.packing.to(device))

    def padded(self) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, token_type_ids: (sequences, seq) int64, as any BERT takes."""
        return {"input_ids": self.packing.pad(self.input_ids),
                "attention_mask": self.packing.mask.long(),
                "token_type_ids": self.packing.pad(self.token_type_ids)}

    def filled(self, tokens: int, seq: int, sequences: int) -> "Batch":
        """The same with dummy sequences of token 0, whose outputs are discarded.

        Args:
            tokens: how long the row becomes.
            seq: how wide the grid becomes.
            sequences: how many dummy sequences, of similar length.
        """
        missing = tokens - len(self.input_ids)
        ends = [missing * k // sequences for k in range(1, sequences + 1)]
        lengths = [end - start for start, end in pairwise([0, *ends])]
        return replace(self, input_ids=F.pad(self.input_ids, (0, missing)),
                       token_type_ids=F.pad(self.token_type_ids, (0, missing)),
                       packing=self.packing.followed_by(lengths, seq),
                       dummy_sequences=self.dummy_sequences + sequences)

    def in_few_shapes(self, seq: int) -> "Batch":
        """The same, filled up to the next `rounded` length, in a grid of width `seq`.

        All rows of one length get the same number of dummy sequences, of which some may be empty.
        Each has LEAST tokens at most, and the encoder must have so many positions.
        """
        tokens = rounded(len(self.input_ids))
        return self.filled(tokens, seq, step_at(tokens) // LEAST)

    def in_few_lengths(self) -> "Batch":
        """`in_few_shapes` for a CPU: smaller steps up to 512 tokens, no empty dummy sequences."""
        tokens = rounded(len(self.input_ids), LEAST_ON_CPU)
        sequences = -(-(tokens - len(self.input_ids)) // LEAST)
        return self.filled(tokens, max(LEAST, self.packing.seq), sequences)

    def copy_(self, other: "Batch") -> None:
        """Take over the numbers of a batch of the same shape, wherever it is."""
        self.input_ids.copy_(other.input_ids)
        self.token_type_ids.copy_(other.token_type_ids)
        self.packing.copy_(other.packing)
        self.labels.copy_(other.labels)


@dataclass(frozen=True)
class MicroBatches:
    """One process's share of a task's batch, in pieces that are computed one after another.

    Attributes:
        batches: none where the share is empty.
        examples: of the whole batch, all processes' shares together.
    """

    batches: Sequence[Batch]
    examples: int

    @classmethod
    def of(cls, batch: "Batch | MicroBatches") -> "MicroBatches":
        """A whole batch as a single piece."""
        return batch if isinstance(batch, cls) else cls([batch], len(batch.labels))

    @property
    def is_whole(self) -> bool:
        """Whether one piece holds all examples."""
        return len(self.batches) == 1 and len(self.batches[0].labels) == self.examples


def encodings_of(examples: Sequence[Example], tokenizer: BertTokenizer, architecture: Architecture,
                 max_length: int) -> list[Encoding]:
    """The encoder's inputs for examples of one task: one each, or two for pairs encoded apart."""
    sentences = [example.sentences for example in examples]
    width = len(sentences[0])
    # Single sentences, or concatA: [CLS] a [SEP] and [CLS] b [SEP] apart.
    if architecture.sequences(width) == width:
        texts = [text for example in sentences for text in example]
        return tokenizer.encode(texts, max_length=max_length)
    # concatB: one sequence per pair, [CLS] a [SEP] b [SEP].
    firsts, seconds = zip(*sentences, strict=True)
    return tokenizer.encode(firsts, seconds, max_length=max_length)


class TokenizedExamples:
    """Examples of one task as token ids, from which any batch is cut in microseconds.

    A pair becomes one sequence [CLS] a [SEP] b [SEP], or two sequences [CLS] a [SEP], [CLS] b
    [SEP], as the architecture says; never a padded first sentence with a second behind the padding.

    Attributes:
        truncated: how many examples were longer than max_length and lost their end.
        labels: (examples,) float32, NaN where there is none.
        lengths: (examples,), the tokens of each example.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: BertTokenizer,
                 architecture: Architecture, max_length: int) -> None:
        self.sequences_each = 1
        if examples:
            self.sequences_each = architecture.sequences(len(examples[0].sentences))

        # All ids stand in one int32 array, since there may be millions of examples.
        ids, types, tokens = [np.empty(0, np.int32)], [np.empty(0, np.uint8)], [0]
        self.truncated = 0
        for start in range(0, len(examples), TOKENIZE_AT_ONCE):
            some = examples[start:start + TOKENIZE_AT_ONCE]
            encodings = encodings_of(some, tokenizer, architecture, max_length)
            ids.append(np.concatenate([np.array(each.ids, np.int32) for each in encodings]))
            types.append(np.concatenate([np.array(each.type_ids, np.uint8) for each in encodings]))
            tokens += [len(each) for each in encodings]
            is_cut = np.array([bool(each.overflowing) for each in encodings])
            self.truncated += int(is_cut.reshape(-1, self.sequences_each).any(1).sum())
        self._ids, self._types = np.concatenate(ids), np.concatenate(types)
        self._ends = np.cumsum(tokens)

        labels = [np.nan if example.label is None else example.label for example in examples]
        self.labels = np.array(labels, dtype=np.float32)
        self.lengths = np.diff(self._ends).reshape(-1, self.sequences_each).sum(1)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The examples at these indices, in this order; -1 is the last."""
        ids, types, places = [], [], range(len(self))
        for index in indices:
            first = places[index] * self.sequences_each
            for row in range(first, first + self.sequences_each):
                span = slice(self._ends[row], self._ends[row + 1])
                ids.append(self._ids[span])
                types.append(self._types[span])
        input_ids, token_type_ids, packing = pack(ids, types)
        labels = self.labels[list(indices)]
        return Batch(input_ids, token_type_ids, packing, self.sequences_each,
                     None if np.isnan(labels).any() else torch.from_numpy(labels))

    def micro_batches(self, indices: Sequence[int], count: int, examples: int) -> MicroBatches:
        """The examples at these indices in at most `count` pieces of similar size.

        Args:
            examples: see MicroBatches.
        """
        count = min(count, len(indices))
        borders = [len(indices) * k // count for k in range(count + 1)] if count else [0]
        pieces = [self.batch(indices[start:end]) for start, end in pairwise(borders)]
        return MicroBatches(pieces, examples)

    def by_length(self, batch_size: int) -> list[list[int]]:
        """Indices in batches of similar length, longest first: lack of memory shows at once.

        A batch has TOKENS_AT_ONCE tokens at most, unless it is a single example.
        """
        order = np.argsort(-self.lengths, kind="stable").tolist()
        batches, start = [], 0
        while start < len(order):
            longest = int(self.lengths[order[start]])
            end = start + max(1, min(batch_size, TOKENS_AT_ONCE // longest))
            batches.append(order[start:end])
            start = end
        return batches
