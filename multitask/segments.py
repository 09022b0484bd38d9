"""What a sequence of pretraining is: running text, or two segments, [CLS] a [SEP] b [SEP] (Devlin et al. 2018, 3.1).

What a pair of sentences looks like in fine-tuning, a [SEP] in the middle, token type 1, and [CLS] with its pooler, is
thereby met and used in pretraining. In half of the sequences b is what follows a in the text, in the others it comes
from another passage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from minbert import BertTokenizer, Packing

from .corpus import Corpus
from .masked_training import Segments

NONE, NEXT = "none", "next"
SECOND_SEGMENTS = (NONE, NEXT)
BRACKETS = 3           # [CLS], [SEP], [SEP]
SENTENCE_ENDS = ".!?"
SHORT = 0.1            # of the sequences are cut short, as in the code of Devlin et al.: fine-tuning has short ones


class RunningText:
    """Sequences of one piece of text each.

    sequences: (n, 2) int64, from where to where in the corpus; every token of the passages is in one.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[int], length: int, tokenizer: BertTokenizer) -> None:
        self.corpus, self.sequences = corpus, corpus.cut(passages, length)
        self._cls, self._sep = tokenizer.vocabulary["[CLS]"], tokenizer.vocabulary["[SEP]"]

    def batch(self, chosen: np.ndarray, draws: np.random.Generator) -> tuple[torch.Tensor, Packing, None]:
        """These sequences in one row, (tokens,) int64. chosen: (batch,), numbers of sequences. Nothing is drawn."""
        return *self.corpus.batch(self.sequences[chosen], self._cls, self._sep), None


class SegmentPairs:
    """Sequences of two segments each, split elsewhere at every call.

    sequences: (n, 2) int64, from where to where in the corpus. Every token of the passages is in one, but for a single
    token that a passage may have left. passages: ascending. Raises ValueError if all is of one passage.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[int], length: int, tokenizer: BertTokenizer) -> None:
        spans = corpus.cut(passages, length - BRACKETS + 2)  # `cut` leaves room for two tokens more
        self.sequences = spans[spans @ (-1, 1) >= 2]
        self.corpus, self._room = corpus, length - BRACKETS
        self._cls, self._sep = tokenizer.vocabulary["[CLS]"], tokenizer.vocabulary["[SEP]"]
        ends = [tokenizer.vocabulary[piece] for piece in SENTENCE_ENDS if piece in tokenizer.vocabulary]
        self._breaks = np.append(np.flatnonzero(np.isin(corpus.ids, ends)) + 1, len(corpus.ids) + 1)
        passage = np.searchsorted(corpus.ends, self.sequences[:, 0], side="right")
        self._first = np.searchsorted(passage, passage, side="left")  # of a sequence's passage, the first sequence …
        self._last = np.searchsorted(passage, passage, side="right")  # … and the one after the last
        self._passage_ends = corpus.ends[passage]
        if len(self.sequences) and self._last[0] == len(self.sequences):
            raise ValueError("--second-segment next takes text from another passage, but all the text is of one")

    def batch(self, chosen: np.ndarray, draws: np.random.Generator) -> tuple[torch.Tensor, Packing, Segments]:
        """These sequences in one row, (tokens,) int64. chosen: (batch,), numbers of sequences."""
        starts, ends = self.sequences[chosen].T
        is_short = draws.random(len(chosen)) < SHORT
        ends = np.where(is_short, draws.integers(starts + 2, ends, endpoint=True), ends)
        middles = self._split(starts, ends, draws)
        is_next = (draws.random(len(chosen)) < 0.5)[:, None]
        first = np.stack([starts, middles], 1)
        # a short passage leaves room: text from elsewhere then ends with its passage too, so that ends tell nothing
        room = np.where(is_short, ends - middles, self._room - (middles - starts))
        second = np.where(is_next, np.stack([middles, ends], 1), self._elsewhere(chosen, room, draws))
        parts: list[Sequence[int]] = []
        for (a, a_end), (b, b_end) in zip(first.tolist(), second.tolist(), strict=True):
            ids = self.corpus.ids
            parts += [self._cls], ids[a:a_end], [self._sep], ids[b:b_end], [self._sep]
        lengths = np.stack([first @ (-1, 1) + 2, second @ (-1, 1) + 1], 1)
        types = np.repeat(np.arange(lengths.size) % 2, lengths.flatten())
        segments = Segments(torch.from_numpy(types), torch.from_numpy(1 - is_next[:, 0]))
        return torch.from_numpy(np.concatenate(parts, dtype=np.int64)), Packing.from_lengths(lengths.sum(1)), segments

    def _split(self, starts: np.ndarray, ends: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """(n,): of each piece of text a place between two of its sentences; if it is of one only, any place."""
        low, high = np.searchsorted(self._breaks, starts, side="right"), np.searchsorted(self._breaks, ends)
        between = self._breaks[draws.integers(low, np.maximum(high, low + 1))]
        return np.where(high > low, between, draws.integers(starts + 1, ends))

    def _elsewhere(self, chosen: np.ndarray, room: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """(n, 2): text of other passages, from between two sentences on, to its passage's end if there is room."""
        first, last = self._first[chosen], self._last[chosen]
        other = draws.integers(0, len(self.sequences) - (last - first))
        other += np.where(other >= first, last - first, 0)  # none of its own passage
        begin = self._split(*self.sequences[other].T, draws)
        return np.stack([begin, np.minimum(begin + room, self._passage_ends[other])], 1)


def sequences_of(kind: str, corpus: Corpus, passages: Sequence[int], length: int,
                 tokenizer: BertTokenizer) -> RunningText | SegmentPairs:
    """Sequences of up to `length` tokens, special ones included. kind: one of SECOND_SEGMENTS."""
    maker = SegmentPairs if kind == NEXT else RunningText
    return maker(corpus, passages, length, tokenizer)
