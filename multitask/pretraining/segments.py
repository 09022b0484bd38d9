"""What a sequence of pretraining is: running text, or two segments, [CLS] a [SEP] b [SEP] (Devlin et al. 2018, 3.1).

What a pair of sentences looks like in fine-tuning, a [SEP] in the middle and token type 1, is met in pretraining where
there are two segments. `next`: in half of the sequences b is what follows a in the text, in the others it comes from
another passage, and the pooler is asked which (Devlin et al.'s second task). `again`: in half of the sequences the
same text comes twice, nearly, as a and as b, and nothing is asked but the hidden tokens, of which many stand in the
other segment: to find them there is to compare two sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from minbert import BertTokenizer, Packing

from .corpus import Corpus
from .step import Segments

NONE, NEXT, AGAIN = "none", "next", "again"
BRACKETS = 3           # [CLS], [SEP], [SEP]
SENTENCE_ENDS = ".!?"
NARROWEST = 4          # tokens of a window on text that comes twice, if there are as many …
LEFT_OUT = 0.4         # … of which each is left out with this probability at most
SHORT = 0.1            # of the sequences are cut short, as in the code of Devlin et al.: fine-tuning has short ones


class RunningText:
    """Sequences of one piece of text each.

    sequences: (n, 2) int64, from where to where in the corpus; every token of the passages is in one.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[int], length: int, tokenizer: BertTokenizer) -> None:
        self.corpus, self.sequences = corpus, corpus.cut(passages, length)
        self._cls, self._sep = tokenizer.vocabulary["[CLS]"], tokenizer.vocabulary["[SEP]"]

    def batch(self, chosen: np.ndarray, draws: np.random.Generator) -> tuple[torch.Tensor, Packing, Segments]:
        """These sequences in one row, (tokens,) int64. chosen: (batch,), numbers of sequences. Nothing is drawn."""
        row, packing = self.corpus.batch(self.sequences[chosen], self._cls, self._sep)
        return row, packing, Segments(torch.zeros_like(row), None)


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
        return _row(parts, lengths, torch.from_numpy(1 - is_next[:, 0]))

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


class TextTwice:
    """Half of the sequences running text, half the same text twice: two windows on one piece of it, as two segments.

    The windows are of one width. The later one begins up to half of it after the other and comes first half of the
    time; each token of either is left out with a probability that is drawn for every pair. So what is hidden in one
    segment often stands in the other, at no fixed distance. sequences: as of RunningText.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[int], length: int, tokenizer: BertTokenizer) -> None:
        self.corpus, self.sequences = corpus, corpus.cut(passages, length)
        self._cls, self._sep = tokenizer.vocabulary["[CLS]"], tokenizer.vocabulary["[SEP]"]
        self._widest = (length - BRACKETS) // 2

    def batch(self, chosen: np.ndarray, draws: np.random.Generator) -> tuple[torch.Tensor, Packing, Segments]:
        """These sequences in one row, (tokens,) int64. chosen: (batch,), numbers of sequences."""
        parts: list[Sequence[int]] = []
        lengths = []
        for start, end in self.sequences[chosen].tolist():
            if draws.random() < 0.5:
                text = self.corpus.ids[start:end]
                parts += [self._cls], text, [self._sep]
                lengths.append((len(text) + 2, 0))
            else:
                first, second = self._windows(start, end, draws)
                parts += [self._cls], first, [self._sep], second, [self._sep]
                lengths.append((len(first) + 2, len(second) + 1))
        return _row(parts, np.array(lengths), labels=None)

    def _windows(self, start: int, end: int, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two windows on the text from start to end, of at least one token each."""
        widest = min(self._widest, end - start)
        width = int(draws.integers(min(NARROWEST, widest), widest, endpoint=True))
        shift = int(draws.integers(0, min(width // 2, end - start - width), endpoint=True))
        begin = int(draws.integers(start, end - width - shift, endpoint=True))
        left_out = draws.uniform(0, LEFT_OUT)
        begins = (begin, begin + shift) if draws.random() >= 0.5 else (begin + shift, begin)
        return self._thinned(begins[0], width, left_out, draws), self._thinned(begins[1], width, left_out, draws)

    def _thinned(self, begin: int, width: int, left_out: float, draws: np.random.Generator) -> np.ndarray:
        kept = draws.random(width) >= left_out
        kept[0] |= not kept.any()
        return self.corpus.ids[begin:begin + width][kept]


Text = RunningText | SegmentPairs | TextTwice
# --second-segment → its maker, of (corpus, passages, length, tokenizer): sequences of up to `length` tokens
MAKERS = {NONE: RunningText, NEXT: SegmentPairs, AGAIN: TextTwice}
SECOND_SEGMENTS = tuple(MAKERS)


def _row(parts: Sequence[Sequence[int]], lengths: np.ndarray,
         labels: torch.Tensor | None) -> tuple[torch.Tensor, Packing, Segments]:
    """Sequences as one row. lengths: (batch, 2), of both segments, brackets included."""
    types = np.repeat(np.arange(lengths.size) % 2, lengths.flatten())
    return (torch.from_numpy(np.concatenate(parts, dtype=np.int64)), Packing.from_lengths(lengths.sum(1)),
            Segments(torch.from_numpy(types), labels))
