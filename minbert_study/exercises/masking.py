"""Masking for the masked-language model."""

import types

import torch

from minbert.masking import Masked, Masking
from minbert_study.exercise import Exercise, check
from minbert_study.worker import Fault

SHARE, HIDDEN, RANDOM = 0.15, 0.8, 0.1
CLS, SEP, MASK, WORD = 2, 3, 4, 5  # ids below WORD are special
CALLS = 600  # of short rows


def mask_tokens(input_ids, special, mask_id, vocab_size, generator):
    """minbert.masking.Masking without whole words, in one function."""
    places = (~special[input_ids]).nonzero().squeeze(1)
    count = max(1, round(SHARE * len(places)))
    order = torch.randperm(len(places), generator=generator)
    positions = places[order[:count]].sort().values
    labels = input_ids[positions]

    draws = torch.rand(len(positions), generator=generator)
    pieces = torch.randint(vocab_size, (len(positions),), generator=generator)
    seen = torch.where(draws < HIDDEN + RANDOM, pieces, labels)
    seen = torch.where(draws < HIDDEN, mask_id, seen)
    shown = input_ids.clone()
    shown[positions] = seen
    return shown, positions, labels


def by_library(input_ids, special, mask_id, vocab_size, generator):
    masked = Masking(special, torch.zeros_like(special), mask_id, vocab_size)(input_ids, generator)
    return masked.input_ids, masked.positions, masked.labels


LIBRARY = {"mask_tokens": by_library}  # the draws differ, so only what holds for all is compared


def sentence(words: int) -> torch.Tensor:
    """[CLS], so many words, [SEP]."""
    return torch.tensor([CLS, *(WORD + number % 20 for number in range(words)), SEP])


def masked(part, row: torch.Tensor, generator: torch.Generator,
           vocab_size: int = 1000,
           more_special: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """shown, positions, labels. Fault if it is anything else."""
    special = torch.zeros(vocab_size, dtype=torch.bool)
    special[[*range(WORD), *more_special]] = True
    found = part.mask_tokens(row, special, MASK, vocab_size, generator)
    is_three = isinstance(found, (tuple, list)) and len(found) == 3
    if not is_three or not all(isinstance(each, torch.Tensor) for each in found):
        raise Fault("mask_tokens must return three tensors: shown, positions and labels; yours "
                    f"returned {type(found).__name__}"
                    f"{f' of {len(found)}' if isinstance(found, (tuple, list)) else ''}")
    shown, positions, labels = found
    for name, each, length in (("shown", shown, len(row)), ("positions", positions, None),
                               ("labels", labels, positions.numel())):
        is_row = each.dtype == torch.int64 and each.dim() == 1
        if not is_row or (length is not None and len(each) != length):
            expected = f"({'masked' if length is None else length},)"
            raise Fault(f"{name} has shape {tuple(each.shape)} and type {each.dtype}, expected "
                        f"{expected} and torch.int64")
    return shown, positions, labels


def generator() -> torch.Generator:
    """Seeded by the check's own draws."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))


@check(against=LIBRARY)
def equally_many(part):
    """The number of chosen tokens does not depend on the random draws."""
    drawn, row = generator(), sentence(60)
    counts = {len(masked(part, row, drawn)[1]) for _ in range(20)}
    return {"20 calls choose equally many of 60 words": len(counts) == 1}


@check(against=LIBRARY)
def counts(part):
    """Of 13 words between [CLS] and [SEP], 2 are chosen; of 2 words, 1."""
    # not 10, 30, 50: their share ends in .5, which may be rounded either way
    return {f"how many of {words} words": len(masked(part, sentence(words), generator())[1])
            for words in (13, 2, 1, 8, 11, 19, 100, 0)}


@check(against=LIBRARY)
def special_tokens(part):
    """Special tokens are never chosen and not counted, whatever their position and id."""
    drawn, order, row = generator(), torch.randperm(100), torch.full((100,), SEP)
    row[order[:40]] = WORD  # 0.15 · 40 = 6
    row[order[40:60]] = 900
    calls = [masked(part, row, drawn, more_special=(900,)) for _ in range(20)]
    return {"special tokens are chosen":
                any(bool((row[positions] != WORD).any()) for _, positions, _ in calls),
            "special tokens are changed":
                any(bool((shown != row)[row != WORD].any()) for shown, *_ in calls),
            "how many of 40 words among 60 special tokens":
                sorted({len(positions) for _, positions, _ in calls})}


@check(against=LIBRARY)
def form(part):
    """Positions ascend without repeats; labels are the original tokens; the rest is unchanged."""
    row = torch.randint(WORD, 1000, (2000,))
    shown, positions, labels = masked(part, row, generator())
    others = torch.ones_like(row, dtype=torch.bool)
    others[positions] = False
    return {"places that come twice": len(positions) > len(positions.unique()),
            "places ascend": positions.tolist() == sorted(positions.tolist()),
            "labels are the tokens that stood there": torch.equal(labels, row[positions]),
            "tokens changed at other places": int((shown != row)[others].sum())}


@check(against=LIBRARY)
def randomness(part):
    """All random numbers come from the generator that is passed in."""
    row, first, again, other = torch.randint(WORD, 1000, (400,)), *(
        torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    state = torch.get_rng_state()
    one = masked(part, row, first)
    is_left_alone = torch.equal(state, torch.get_rng_state())
    next_one = masked(part, row, first)
    torch.rand(7)  # the global generator stands elsewhere now
    same, different = masked(part, row, again), masked(part, row, other)
    return {"torch's global generator is left alone": is_left_alone,
            "the same seed hides the same": all(map(torch.equal, one, same)),
            "another seed hides other tokens": not torch.equal(one[1], different[1]),
            "the next call hides other tokens": not torch.equal(one[1], next_one[1])}


def of_short_rows(part, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """positions, and whether [MASK] is shown there, both (calls, masked)."""
    drawn, row = generator(), sentence(words)
    outcomes = [masked(part, row, drawn)[:2] for _ in range(CALLS)]
    positions = torch.stack([each for _, each in outcomes])
    return positions, torch.stack([shown for shown, _ in outcomes]).gather(1, positions) == MASK


# A share p of n draws has the standard deviation √(p (1 − p)/n), the difference of two such shares
# √2 times that. Tolerances are five times the latter or more. Here n is 600:
# 0.022 for p = 1/6, 0.021 for p = 3/20, 0.026 for 0.28, which is 1 − 18 · 17 · 16/(20 · 19 · 18).
@check(against=LIBRARY, tolerance={
    "how often each of 6 words is chosen": 0.11, "how often each of 20 words is chosen": 0.11,
    "how often two of 3 chosen are neighbours": 0.13})
def places(part):
    """Every word is chosen equally often, and neighbours of a chosen one are not favoured."""
    found = {}
    for words in (6, 20):  # 1 and 3 are chosen
        positions, _ = of_short_rows(part, words)
        found[f"how often each of {words} words is chosen"] = (
            positions.flatten().bincount(minlength=words + 2)[1:-1] / CALLS)
    gaps = positions.sort(1).values.diff(dim=1)
    found["how often two of 3 chosen are neighbours"] = (gaps == 1).any(1).double().mean().item()
    return found


# Here n is 15,000: 0.0046 for p = 0.8, 0.0035 for p = 0.1, by halves of the row 0.0065; in the
# vocabulary of 8 pieces 0.0013 for p = 0.1/8. Of 1,000 pieces, 1,500 draws meet 777, give or take
# 12.
@check(against=LIBRARY, tolerance={
    "share shown as [MASK]": 0.025, "share shown as another piece": 0.018,
    "share shown as it is": 0.018, "how many pieces are among the random ones": 0.15,
    "share shown as [MASK] in the first half of the row": 0.035,
    "share shown as [MASK] in the second half of the row": 0.035,
    "with 8 pieces, the share of each random one": 0.0066})
def shares(part):
    """Of the chosen tokens, 0.8 are shown as [MASK], 0.1 as a random piece, 0.1 unchanged."""
    def chosen(words: int, vocab_size: int) -> list[torch.Tensor]:
        """What stood and what is shown there, and the positions, for 100 rows of 1,000 words."""
        rows, drawn = torch.randint(WORD, words, (100, 1000)), generator()
        calls = [masked(part, row, drawn, vocab_size) for row in rows]
        return [torch.cat(each) for each in zip(*(
            (row[positions], shown[positions], positions)
            for row, (shown, positions, _) in zip(rows, calls, strict=True)), strict=True)]

    stood, seen, positions = chosen(1000, 1000)
    is_mask, is_kept, is_early = (seen == MASK).double(), (seen == stood).double(), positions < 500
    changed = seen[(seen != MASK) & (seen != stood)]
    _, few, _ = chosen(WORD + 1, 8)
    share = few.bincount(minlength=8) / max(1, len(few))
    return {"share shown as [MASK]": is_mask.mean().item(),
            "share shown as another piece": 1 - (is_mask + is_kept).mean().item(),
            "share shown as it is": is_kept.mean().item(),
            "how many pieces are among the random ones": float(len(changed.unique())),
            "share shown as [MASK] in the first half of the row": is_mask[is_early].mean().item(),
            "share shown as [MASK] in the second half of the row": is_mask[~is_early].mean().item(),
            "with 8 pieces, the share of each random one": {
                f"piece {piece}": share[piece].item()
                for piece in range(8) if piece not in (MASK, WORD)}}


# Here n is 600: 0.023 for p = 0.8, 0.029 for 0.8³ + 0.2³ = 0.52.
@check(against=LIBRARY, tolerance={
    "how often the one chosen of 6 words is [MASK]": 0.115,
    "how often the first, second, third chosen of 20 words is [MASK]": 0.115,
    "how often all three are [MASK], or none is": 0.145})
def own_draws(part):
    """Each chosen token has a draw of its own, even if only one or three are chosen."""
    _, of_one = of_short_rows(part, 6)
    _, of_three = of_short_rows(part, 20)
    return {"how often the one chosen of 6 words is [MASK]": of_one.double().mean().item(),
            "how often the first, second, third chosen of 20 words is [MASK]":
                of_three.double().mean(0),
            "how often all three are [MASK], or none is":
                (of_three == of_three[:, :1]).all(1).double().mean().item()}


def install(part: types.SimpleNamespace) -> None:
    """Masking calls the student's function, but for whole words and shares other than 15 %."""
    ours = Masking.__call__

    def call(self: Masking, input_ids: torch.Tensor, generator: torch.Generator) -> Masked:
        if self.continues.any() or self.share != SHARE:
            return ours(self, input_ids, generator)
        return Masked(*part.mask_tokens(input_ids, self.special, self.mask_id, self.vocab_size,
                                        generator))
    Masking.__call__ = call


EXERCISE = Exercise(
    title="masking",
    places=("minbert_study.exercises.masking:mask_tokens",),
    install=install,
    mistakes=(
        ("when each token is chosen independently with probability 0.15, so the number varies. "
         "Choose exactly 15 %, rounded.", "positions = places[order[:count]].sort().values",
         "positions = places[torch.rand(len(places), generator=generator) < SHARE]"),
        ("when special tokens can be chosen and are counted. Leave them out first.",
         "~special[input_ids]", "special[input_ids] | True"),
        ("when special tokens can be chosen, although the number is right. Choose among the other "
         "positions only.", "positions = places[order[:count]].sort().values",
         "positions = torch.randperm(len(input_ids), generator=generator)"
         "[:min(count, len(places))].sort().values"),
        ("when special tokens are recognised by fixed ids. Look them up in `special`.",
         "~special[input_ids]", "input_ids > 4"),
        ("when special tokens are counted in the 15 %. [CLS], [SEP] and the like do not count.",
         "SHARE * len(places)", "SHARE * len(input_ids)"),
        ("when `special` is inverted, so that only special tokens are chosen.",
         "~special[input_ids]", "special[input_ids]"),
        ("when `special` is indexed by position, not by id: special[input_ids].",
         "(~special[input_ids]).nonzero()",
         "(~special.repeat(len(input_ids) // len(special) + 1)[:len(input_ids)]).nonzero()"),
        ("when the number is rounded down. Round to the nearest.", "round(SHARE", "int(SHARE"),
        ("when the number is rounded up. Round to the nearest.",
         "round(SHARE * len(places))", "-int(-SHARE * len(places) // 1)"),
        ("when no token is chosen in short rows. Choose at least one.",
         "max(1, round(SHARE * len(places)))", "round(SHARE * len(places))"),
        ("when positions are drawn with replacement, so that some come twice. Take the first ones "
         "of torch.randperm.", "order = torch.randperm(len(places), generator=generator)",
         "order = torch.randint(max(1, len(places)), (count,), generator=generator)[:len(places)]"),
        ("when the positions are not sorted.", ".sort().values", ""),
        ("when the labels are read after the row is changed, so the model learns to predict "
         "[MASK]. Save them first.",
         "    shown[positions] = seen\n    return shown, positions, labels",
         "    shown[positions] = seen\n    return shown, positions, shown[positions]"),
        ("when random numbers come from torch's global generator. Every call needs "
         "generator=generator.",
         "torch.rand(len(positions), generator=generator)", "torch.rand(len(positions))"),
        ("when the generator is seeded in the function, so rows of equal length get the same "
         "positions. Do not seed it.",
         "    places = (", "    generator.manual_seed(0)\n    places = ("),
        ("when all chosen tokens are shown as [MASK]. It must be 0.8 of them.",
         "torch.where(draws < HIDDEN, mask_id, seen)", "torch.full_like(seen, mask_id)"),
        ("when no chosen token is shown as a random piece, and 0.2 stay unchanged. It must be 0.1 "
         "each.", "torch.where(draws < HIDDEN + RANDOM, pieces, labels)", "labels"),
        ("when no chosen token stays unchanged, and 0.2 are random pieces. It must be 0.1 each.",
         "torch.where(draws < HIDDEN + RANDOM, pieces, labels)", "pieces"),
        ("when the random pieces are a tenth of the tokens not shown as [MASK], 0.02 of all. They "
         "must be half of those, 0.1 of all.", "torch.where(draws < HIDDEN + RANDOM,",
         "torch.where(draws < HIDDEN + (1 - HIDDEN) * RANDOM,"),
        ("when a second draw decides on the random pieces and some of them replace a [MASK]: 0.72, "
         "0.1 and 0.18. Use one draw per token for all three.",
         "    seen = torch.where(draws < HIDDEN, mask_id, seen)\n",
         "    seen = torch.where(draws < HIDDEN, mask_id, labels)\n"
         "    seen = torch.where(torch.rand(len(seen), generator=generator) < RANDOM, "
         "pieces, seen)\n"),
        ("when the vocabulary's last piece is never drawn. randint already excludes its upper end.",
         "torch.randint(vocab_size,", "torch.randint(vocab_size - 1,"),
        ("when the vocabulary's first piece is never drawn. Draw from 0.",
         "torch.randint(vocab_size,", "torch.randint(1, vocab_size,"),
        ("when special pieces are never drawn as the random piece. Any id may be drawn.",
         "torch.randint(vocab_size,", "torch.randint(int(special.sum()), vocab_size,"),
        ("when the random piece is another token of the row. Draw it from the vocabulary, with "
         "torch.randint(vocab_size, …).",
         "torch.randint(vocab_size, (len(positions),), generator=generator)",
         "input_ids[torch.randint(len(input_ids), (len(positions),), generator=generator)]"),
        ("when one draw decides for the whole row. Draw for each chosen token.",
         "torch.rand(len(positions),", "torch.rand(1,"),
        ("when the first chosen positions become [MASK], and the last ones do not. Draw for each "
         "position.", "draws = torch.rand(len(positions), generator=generator)",
         "draws = torch.arange(len(positions)) / max(1, len(positions))"),
        ("when exactly 80 % of the chosen positions become [MASK], so a single one always does. "
         "Draw for each position.", "draws = torch.rand(len(positions), generator=generator)",
         "draws = torch.randperm(len(positions), generator=generator) / max(1, len(positions))"),
        ("when exactly 80 % of the chosen positions become [MASK], rounded down, so a single one "
         "never does. Draw for each position.",
         "draws = torch.rand(len(positions), generator=generator)",
         "draws = (torch.randperm(len(positions), generator=generator) + 1) / "
         "max(1, len(positions)) - 1e-9"),
        ("when the first words of the row are always the ones chosen. Choose at random.",
         "order[:count]", "torch.arange(min(count, len(places)))"),
        ("when a run of neighbouring tokens is chosen. Take the first ones of torch.randperm.",
         "places[order[:count]]",
         "places[torch.randint(max(1, len(places) - count + 1), (1,), generator=generator):]"
         "[:count]"),
    ),
    hints=(
        "How do you choose exactly k of n positions, none twice, with one call to torch?",
        "The positions that may be chosen are (~special[input_ids]).nonzero(). Put them in random "
        "order with torch.randperm; the first k, sorted, are chosen. One random number between 0 "
        "and 1 for each decides what is shown there. Save the labels before you change the row.",
        "positions = places[torch.randperm(len(places), generator=generator)[:k]].sort().values; "
        "draws = torch.rand(len(positions), generator=generator); shown = input_ids.clone(); "
        "shown[positions[draws < 0.8]] = mask_id; where 0.8 ≤ draws < 0.9, a torch.randint.",
    ),
)
