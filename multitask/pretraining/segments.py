"""What a pretraining sequence is: running text, or two segments, [CLS] a [SEP] b [SEP].

Two segments resemble the sentence pairs of fine-tuning: a [SEP] in the middle, and token type 1. In
half of the sequences nearly the same text comes twice, as a and as b. Many hidden tokens then stand
in the other segment, and finding them there means comparing two sentences.
"""

from collections.abc import Sequence

import numpy as np
import torch

from minbert import BertTokenizer, Packing, pack

from .corpus import Corpus

NONE, AGAIN = "none", "again"
NARROWEST = 4   # tokens of a window, if the text has as many
LEFT_OUT = 0.4  # the highest probability with which a token of a window is left out


class RunningText:
    """Sequences of one piece of text each; every token of the passages is in one of them.

    Args:
        passages: their numbers in the corpus.
        length: most tokens of a sequence, [CLS] and [SEP] included.

    Attributes:
        sequences: (n, 2) int64, each sequence's first token in the corpus and the one after its
            last.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[int], length: int,
                 tokenizer: BertTokenizer) -> None:
        self.corpus, self.length = corpus, length
        self.sequences = corpus.cut(passages, length)
        self._cls = [tokenizer.vocabulary["[CLS]"]]
        self._sep = [tokenizer.vocabulary["[SEP]"]]

    def batch(self, chosen: np.ndarray,
              draws: np.random.Generator) -> tuple[torch.Tensor, Packing, torch.Tensor]:
        """The chosen sequences, packed in one row.

        Args:
            chosen: (batch,), numbers of sequences.
            draws: decides what is random in them.

        Returns:
            input_ids (tokens,) int64, their packing, token_type_ids (tokens,) int64.
        """
        ids, types = [], []
        for start, end in self.sequences[chosen].tolist():
            pieces, its_types = [self._cls], [0]
            for number, segment in enumerate(self._segments(start, end, draws)):
                pieces += segment, self._sep
                its_types += [number] * (len(segment) + 1)
            ids.append(np.concatenate(pieces))
            types.append(its_types)

        input_ids, token_type_ids, packing = pack(ids, types)
        return input_ids, packing, token_type_ids

    def _segments(self, start: int, end: int, draws: np.random.Generator) -> list[np.ndarray]:
        """One segment, or two."""
        return [self.corpus.ids[start:end]]


class TextTwice(RunningText):
    """Half of the sequences are running text, half two windows on one passage, as two segments.

    Both windows have one width. The later one begins up to half a width after the other, and comes
    first half of the time. Tokens are left out of both with a probability drawn for each pair. So
    what is hidden in one segment often stands in the other, at no fixed distance.
    """

    def _segments(self, start: int, end: int, draws: np.random.Generator) -> list[np.ndarray]:
        if draws.random() < 0.5:
            return [self.corpus.ids[start:end]]

        widest = min((self.length - 3) // 2, end - start)  # [CLS], [SEP] and [SEP] take 3 places
        width = int(draws.integers(min(NARROWEST, widest), widest, endpoint=True))
        shift = int(draws.integers(0, min(width // 2, end - start - width), endpoint=True))
        begin = int(draws.integers(start, end - width - shift, endpoint=True))
        left_out = draws.uniform(0, LEFT_OUT)

        begins = [begin, begin + shift]
        if draws.random() < 0.5:
            begins.reverse()
        return [self._thinned(begin, width, left_out, draws) for begin in begins]

    def _thinned(self, begin: int, width: int, left_out: float,
                 draws: np.random.Generator) -> np.ndarray:
        kept = draws.random(width) >= left_out
        if not kept.any():
            kept[0] = True
        return self.corpus.ids[begin:begin + width][kept]


# --second-segment → its maker
MAKERS: dict[str, type[RunningText]] = {NONE: RunningText, AGAIN: TextTwice}
