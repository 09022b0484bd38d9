"""Masking: which tokens are hidden, and what the model sees instead (Devlin et al. 2018, 3.1).

    1. Count the tokens that may be chosen: all except special ones such as [CLS] and [SEP].
    2. Choose 15 % of them at random, all equally likely: exactly round(0.15 · count) tokens, none
       twice. Choose at least one, unless no token may be chosen.
    3. For each chosen token, draw what the model sees:  [MASK]                 with probability 0.8
                                                         a random piece         with probability 0.1
                                                         the token unchanged    with probability 0.1
       A random piece is any of the vocab_size ids, all equally likely.

The model must predict the original token at every chosen position, even where it sees the token
unchanged. So it never knows which tokens it can trust.

By hand: of [CLS], 13 words and [SEP], 13 tokens may be chosen. 0.15 · 13 = 1.95, so exactly 2 are
chosen. Of [CLS], 2 words and [SEP], 2 may be chosen. 0.15 · 2 = 0.3 rounds to 0, so 1 is chosen.

Draw all random numbers from `generator`: torch.rand(n, generator=generator), torch.randperm(n,
generator=generator), torch.randint(high, (n,), generator=generator). Then the seed decides what is
hidden, and each further call hides other tokens.

Read tests/lessons/test_17_masked_lm.py. Check: minbert study check . masking
"""

import torch

SHARE, HIDDEN, RANDOM = 0.15, 0.8, 0.1


def mask_tokens(input_ids: torch.Tensor, special: torch.Tensor, mask_id: int, vocab_size: int,
                generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hide tokens in one row.

    Args:
        input_ids: (tokens,) int64, must not be changed.
        special: (vocab_size,) bool, by id: True for pieces that are never chosen.
        mask_id: the id of [MASK].

    Returns:
        shown: (tokens,) int64, what the model sees.
        positions: (masked,) int64, the chosen positions, ascending.
        labels: (masked,) int64, the original tokens at these positions.
    """
    raise NotImplementedError
