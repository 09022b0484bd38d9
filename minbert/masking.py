"""Which tokens are hidden from the model, and what it sees in their place (Devlin et al. 2018, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .tokenizer import SPECIAL_TOKENS, BertTokenizer

# "15% of all WordPiece tokens in each sequence"; of these, 80 % become [MASK], 10 % a random piece, 10 % stay.
CHOSEN, HIDDEN, RANDOM = 0.15, 0.8, 0.1


@dataclass(frozen=True)
class Masked:
    """input_ids: (tokens,), as the model sees them. positions: (masked,) int64, ascending, what it is to guess.
    labels: (masked,) int64, the pieces that really stood there."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Masking:
    """Hides tokens of a packed row, other ones at every call.

    special: (vocab,) bool, the pieces that are never chosen. continues: (vocab,) bool, the pieces that belong to the
    word before them and are chosen with it; all False if every piece is chosen on its own. mask_id: of [MASK].
    vocab_size: random pieces are drawn from it. share: of the tokens that may be chosen, how many are.

    >>> tokenizer = BertTokenizer.train(["a film as good as a film can be"], vocab_size=50)
    >>> row = torch.tensor(tokenizer.encode(["as good a film as can be"])[0].ids)
    >>> masked = Masking.of(tokenizer)(row, torch.Generator().manual_seed(0))
    >>> masked.labels.tolist() == row[masked.positions].tolist()
    True
    """

    special: torch.Tensor
    continues: torch.Tensor
    mask_id: int
    vocab_size: int
    share: float = CHOSEN

    @classmethod
    def of(cls, tokenizer: BertTokenizer, whole_words: bool = False, share: float = CHOSEN) -> Masking:
        """whole_words: the pieces of a word are chosen together. Raises ValueError for a vocabulary without [MASK]."""
        vocabulary = tokenizer.vocabulary
        if "[MASK]" not in vocabulary:
            raise ValueError("the vocabulary lacks [MASK], so nothing can be hidden: take a checkpoint that was "
                             "pretrained as a masked-language model")
        special, continues = torch.zeros(2, max(vocabulary.values()) + 1, dtype=torch.bool)
        special[[vocabulary[token] for token in SPECIAL_TOKENS if token in vocabulary]] = True
        if whole_words:
            continues[[number for piece, number in vocabulary.items() if piece.startswith("##")]] = True
        return cls(special, continues, vocabulary["[MASK]"], len(special), share)

    def __call__(self, input_ids: torch.Tensor, generator: torch.Generator) -> Masked:
        """input_ids: (tokens,) int64 on the CPU, left as it is. Chooses at least one token, if any may be chosen."""
        positions = self.choose(input_ids, generator)
        labels = input_ids[positions]
        draws = torch.rand(len(positions), generator=generator)
        pieces = torch.randint(self.vocab_size, (len(positions),), generator=generator)
        shown = torch.where(draws < HIDDEN, self.mask_id, torch.where(draws < HIDDEN + RANDOM, pieces, labels))
        return Masked(input_ids.index_copy(0, positions, shown), positions, labels)

    def choose(self, input_ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Words in random order until their tokens are `share` of all that may be: (tokens,) → (masked,), ascending.

        Without whole words that is exactly the share, rounded; with them the last word may exceed it.
        """
        free = ~self.special[input_ids]
        # where a sequence was cut inside a word, the piece ##… behind [CLS] begins what is there of it
        begins = free & ~(self.continues[input_ids] & torch.cat([free.new_zeros(1), free[:-1]]))
        if not free.any():
            return free.nonzero().squeeze(1)
        words = begins.cumsum(0) - 1                          # (tokens,): the number of the word that a token is in
        sizes = torch.bincount(words[free])                   # (words,)
        order = torch.rand(len(sizes), generator=generator).argsort()
        before = sizes[order].cumsum(0) - sizes[order]        # tokens chosen before each word's turn
        wanted = max(1, round(self.share * int(free.sum())))
        chosen = torch.zeros(len(sizes), dtype=torch.bool)
        chosen[order] = before < wanted
        return (free & chosen[words]).nonzero().squeeze(1)
