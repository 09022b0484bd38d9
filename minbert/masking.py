"""Which tokens are hidden from the model, and what it sees instead (Devlin et al. 2018, 3.1)."""

from dataclasses import dataclass

import torch

from .tokenizer import SPECIAL_TOKENS, BertTokenizer

# "15% of all WordPiece tokens"; of these 80 % become [MASK], 10 % a random piece, 10 % stay.
CHOSEN, HIDDEN, RANDOM = 0.15, 0.8, 0.1


@dataclass(frozen=True)
class Masked:
    """A row with some tokens hidden.

    Attributes:
        input_ids: (tokens,), as the model sees them.
        positions: (masked,) int64, ascending: the places to guess.
        labels: (masked,) int64, the true pieces there.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Masking:
    """Hides tokens of a packed row, different ones at every call.

    Args:
        special: (vocab,) bool, pieces that are never chosen.
        continues: (vocab,) bool, pieces chosen together with the word before them; all False if
            every piece is chosen on its own.
        mask_id: of [MASK].
        vocab_size: random pieces are drawn from it.
        share: of the tokens that may be chosen, how many are.

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
    def of(cls, tokenizer: BertTokenizer, whole_words: bool = False,
           share: float = CHOSEN) -> "Masking":
        """The masking for a tokenizer's vocabulary.

        Args:
            whole_words: choose all pieces of a word together.

        Raises:
            ValueError: the vocabulary lacks [MASK].
        """
        vocabulary = tokenizer.vocabulary
        if "[MASK]" not in vocabulary:
            raise ValueError("the vocabulary lacks [MASK], so nothing can be hidden: take a "
                             "checkpoint that was pretrained as a masked-language model")

        size = max(vocabulary.values()) + 1
        special, continues = torch.zeros(2, size, dtype=torch.bool, device="cpu")
        special[[vocabulary[piece] for piece in SPECIAL_TOKENS if piece in vocabulary]] = True
        if whole_words:
            continues[[number for piece, number in vocabulary.items()
                       if piece.startswith("##")]] = True
        return cls(special, continues, vocabulary["[MASK]"], size, share)

    def __call__(self, input_ids: torch.Tensor, generator: torch.Generator) -> Masked:
        """Hides tokens, at least one if possible, in a copy of input_ids.

        Args:
            input_ids: (tokens,) int64, on the CPU.
        """
        positions = self.choose(input_ids, generator)
        labels = input_ids[positions]

        draws = torch.rand(len(positions), generator=generator, device="cpu")
        pieces = torch.randint(self.vocab_size, draws.shape, generator=generator, device="cpu")
        shown = torch.where(draws < HIDDEN + RANDOM, pieces, labels)
        shown = torch.where(draws < HIDDEN, self.mask_id, shown)
        return Masked(input_ids.index_copy(0, positions, shown), positions, labels)

    def choose(self, input_ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Chooses words in random order until their tokens reach the share: (tokens,) → (masked,).

        Without whole words that is exactly the share, rounded; with them the last word may exceed
        it. The places are ascending.
        """
        free = ~self.special[input_ids]
        if not free.any():
            return free.nonzero().squeeze(1)

        # A piece ##… after [CLS], where a sequence was cut inside a word, begins a word of its own.
        follows_free = torch.cat([free.new_zeros(1), free[:-1]])
        begins = free & ~(self.continues[input_ids] & follows_free)
        words = begins.cumsum(0) - 1    # (tokens,): the number of each token's word
        sizes = torch.bincount(words[free])  # (words,): tokens of each word

        order = torch.rand(len(sizes), generator=generator, device="cpu").argsort()
        before = sizes[order].cumsum(0) - sizes[order]  # tokens chosen before each word's turn
        wanted = max(1, round(self.share * int(free.sum())))
        chosen = torch.zeros(len(sizes), dtype=torch.bool, device="cpu")
        chosen[order] = before < wanted
        return (free & chosen[words]).nonzero().squeeze(1)
