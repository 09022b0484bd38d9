"""Wrong masking, as students hand it in."""

POSITIONS = "    positions = keys.argsort()[:k].sort().values\n"
KEYS = "    keys = torch.rand(len(input_ids), generator=generator)\n"
SWAPPED = "torch.randint(0, vocab_size, (int(swap.sum()),), generator=generator)"

WRONG = [
    (POSITIONS, "    positions = (keys < SHARE).nonzero().squeeze(1)\n    k = len(positions)\n",
     "chosen independently"),
    ("    keys[~allowed] = 2.0\n", "", "special tokens can be chosen"),
    ("    allowed = ~special[input_ids]\n", "    allowed = special[input_ids]\n",
     "`special` is inverted"),
    ("round(SHARE * n)", "round(SHARE * len(input_ids))", "special tokens are counted in the 15 %"),
    ("0 if n == 0 else max", "max", "how many of 0 words"),
    ("    shown = input_ids.clone()\n", "    shown = input_ids\n", "changed its input `input_ids`"),
    ("return shown, positions, input_ids[positions]", "return shown, positions",
     "yours returned tuple of 2"),
    ("return shown, positions, input_ids[positions]",
     "chosen = torch.zeros_like(allowed)\n    chosen[positions] = True\n"
     "    return shown, chosen, input_ids[chosen]", "positions has shape"),
    ("return shown, positions, input_ids[positions]", "return shown, positions, input_ids",
     "labels has shape"),
    (KEYS, "    torch.manual_seed(generator.initial_seed())\n"
     "    keys = torch.rand(len(input_ids))\n", "global generator is left alone"),
    (KEYS, "    generator = torch.Generator().manual_seed(generator.initial_seed())\n" + KEYS,
     "the next call hides other tokens"),
    ("swap = (dice >= HIDDEN) & (dice < HIDDEN + RANDOM)",
     "swap = (dice >= HIDDEN) & (torch.rand(k, generator=generator) < 0.5)", None),
    ("(dice >= HIDDEN) & (dice < HIDDEN + RANDOM)", "dice > 1 - RANDOM", None),
    (SWAPPED, "int(torch.randint(0, vocab_size, (1,), generator=generator))",
     "among the random ones: yours 1,"),
    (SWAPPED, SWAPPED.replace("vocab_size", "len(input_ids)"), "how many pieces are among the random"),
    ("    keys[~allowed] = 2.0\n", "    keys[~allowed] = 2.0\n    keys[:2] += 2.0\n",
     "how often each of 6 words is chosen"),
    ("dice < HIDDEN\n", "dice < 1\n", "share shown as [MASK]: yours 0.8"),
    ("mask_id\n", "103\n", "share shown as [MASK]"),
    ("    return shown", "    shown", "is a `return` missing"),
]
