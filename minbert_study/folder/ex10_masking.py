"""Masking: which tokens are hidden, and what is seen in their place (Devlin et al. 2018, 3.1).

    1. Count the tokens that may be chosen: all but the special ones, [CLS], [SEP] and the like.
    2. Choose 15 % of them at random, all equally likely: round(0.15 · count) tokens, exactly that
       many and none twice. It is at least one, unless no token may be chosen.
    3. For each chosen token draw what is seen there:  [MASK]                with probability 0.8
                                                       a random piece        with probability 0.1
                                                       the token as it is    with probability 0.1
       A random piece is any of the vocab_size ids, all equally likely.

The model must guess what stood at all chosen places, also where it sees the token as it is: so it
never knows which of the tokens that it sees it can trust.

By hand: [CLS], 13 words and [SEP] are 15 tokens, of which 13 may be chosen: 0.15 · 13 = 1.95, so
exactly 2 are. [CLS], 2 words and [SEP] have 0.15 · 2 = 0.3, and 1 is chosen.

All random numbers come from `generator`: torch.rand(n, generator=generator), torch.randperm(n,
generator=generator), torch.randint(high, (n,), generator=generator). So a seed decides what is
hidden, and every further call hides other tokens.

Read tests/lessons/test_17_masked_lm.py. Check: minbert study check . masking
"""

import torch

SHARE, HIDDEN, RANDOM = 0.15, 0.8, 0.1


def mask_tokens(input_ids: torch.Tensor, special: torch.Tensor, mask_id: int, vocab_size: int,
                generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hides tokens of one row.

    Args:
        input_ids: (tokens,) int64; it must not be changed.
        special: (vocab_size,) bool, by id: pieces that are never chosen.
        mask_id: the id of [MASK].

    Returns:
        shown: (tokens,) int64, what the model sees.
        positions: (masked,) int64, ascending: the chosen places.
        labels: (masked,) int64, the tokens that stood there.
    """
    raise NotImplementedError
