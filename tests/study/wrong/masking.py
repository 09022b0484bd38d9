"""Wrong masking, as students hand it in."""

POSITIONS = "    positions = keys.argsort()[:k].sort().values\n"
DICE = "    dice = torch.rand(k, generator=generator)\n"
KEYS = "    keys = torch.rand(len(input_ids), generator=generator)\n"
SWAPPED = "torch.randint(0, vocab_size, (int(swap.sum()),), generator=generator)"

WRONG = [
    (POSITIONS, "    positions = (keys < SHARE).nonzero().squeeze(1)\n    k = len(positions)\n",
     "chosen independently"),
    ("    keys[~allowed] = 2.0\n", "", "special tokens can be chosen"),
    ("    allowed = ~special[input_ids]\n", "    allowed = special[input_ids]\n",
     "`special` is inverted"),
    ("round(SHARE * n)", "round(SHARE * len(input_ids))", "special tokens are counted in the 15 %"),
    ("round(SHARE * n)", "int(SHARE * n)", "rounded down"),
    ("round(SHARE * n)", "-int(-SHARE * n // 1)", "rounded up"),
    ("max(1, round(SHARE * n))", "round(SHARE * n)", "Choose at least one"),
    ("0 if n == 0 else max", "max", "how many of 0 words"),
    (POSITIONS, "    places = allowed.nonzero().squeeze(1)\n    k = min(k, len(places))\n"
     "    positions = places[torch.randint(max(1, len(places)), (k,), generator=generator)]"
     ".sort().values\n", "drawn with replacement"),
    (".argsort()[:k].sort().values", ".argsort()[:k]", "are not sorted"),
    ("input_ids[positions]\n", "shown[positions]\n", "read after the row was changed"),
    ("    shown = input_ids.clone()\n", "    shown = input_ids\n", "changed its input `input_ids`"),
    ("return shown, positions, input_ids[positions]", "return shown, positions",
     "yours returned tuple of 2"),
    ("return shown, positions, input_ids[positions]",
     "chosen = torch.zeros_like(allowed)\n    chosen[positions] = True\n"
     "    return shown, chosen, input_ids[chosen]", "positions has shape"),
    ("return shown, positions, input_ids[positions]", "return shown, positions, input_ids",
     "labels has shape"),
    (KEYS, "    keys = torch.rand(len(input_ids))\n", "global generator"),
    (DICE, "    dice = torch.rand(k)\n", "global generator"),
    ("(int(swap.sum()),), generator=generator)", "(int(swap.sum()),))", "global generator"),
    (KEYS, "    torch.manual_seed(generator.initial_seed())\n"
     "    keys = torch.rand(len(input_ids))\n", "global generator is left alone"),
    (KEYS, "    generator.manual_seed(1)\n" + KEYS, "seeded in the function"),
    (KEYS, "    generator = torch.Generator().manual_seed(generator.initial_seed())\n" + KEYS,
     "the next call hides other tokens"),
    (DICE, "    dice = torch.zeros(k)\n", "all chosen tokens are shown as [MASK]"),
    ("    shown[positions[swap]] = " + SWAPPED + "\n", "", "no chosen token is shown as a random"),
    (" & (dice < HIDDEN + RANDOM)", "", "no chosen token stays unchanged"),
    ("(dice < HIDDEN + RANDOM)", "(torch.rand(k, generator=generator) < RANDOM)",
     "a tenth of the tokens not shown as [MASK]"),
    ("swap = (dice >= HIDDEN) & (dice < HIDDEN + RANDOM)",
     "swap = torch.rand(k, generator=generator) < RANDOM", "replace a [MASK]"),
    ("swap = (dice >= HIDDEN) & (dice < HIDDEN + RANDOM)",
     "swap = (dice >= HIDDEN) & (torch.rand(k, generator=generator) < 0.5)", None),
    ("(dice >= HIDDEN) & (dice < HIDDEN + RANDOM)", "dice > 1 - RANDOM", None),
    (SWAPPED, "int(torch.randint(0, vocab_size, (1,), generator=generator))",
     "among the random ones: yours 1,"),
    (SWAPPED, SWAPPED.replace("vocab_size", "vocab_size - 1"), "last piece is never drawn"),
    (SWAPPED, SWAPPED.replace("0, vocab", "1, vocab"), "first piece is never drawn"),
    (SWAPPED, SWAPPED.replace("0, vocab", "int(special.sum()), vocab"),
     "special pieces are never drawn"),
    (SWAPPED, SWAPPED.replace("vocab_size", "len(input_ids)"), "how many pieces are among the random"),
    (SWAPPED, "input_ids[torch.randint(0, len(input_ids), (int(swap.sum()),), "
     "generator=generator)]", "another token of the row"),
    (DICE, "    dice = torch.rand(1, generator=generator).expand(k)\n",
     "one draw decides for the whole row"),
    (DICE, "    dice = torch.arange(k) / max(1, k)\n", "the last ones do not"),
    (DICE, "    dice = torch.randperm(k, generator=generator) / max(1, k)\n", "exactly 80 %"),
    (DICE + "    hide = dice < HIDDEN\n    swap = (dice >= HIDDEN) & (dice < HIDDEN + RANDOM)\n",
     "    place = torch.randperm(k, generator=generator)\n    hide = place < int(HIDDEN * k)\n"
     "    swap = ~hide & (place < int((HIDDEN + RANDOM) * k))\n", "a single one never does"),
    (POSITIONS, "    positions = allowed.nonzero().squeeze(1)[:k]\n", "always the ones chosen"),
    (POSITIONS, "    places = allowed.nonzero().squeeze(1)\n    start = int(torch.randint("
     "max(1, n - k + 1), (1,), generator=generator))\n    positions = places[start:start + k]\n",
     "a run of neighbouring tokens"),
    ("    keys[~allowed] = 2.0\n", "    keys[~allowed] = 2.0\n    keys[:2] += 2.0\n",
     "how often each of 6 words is chosen"),
    ("dice < HIDDEN\n", "dice < 1\n", "share shown as [MASK]: yours 0.8"),
    ("mask_id\n", "103\n", "share shown as [MASK]"),
    ("    shown[positions[hide]] = mask_id\n", "    shown[hide.nonzero().squeeze(1)] = mask_id\n",
     "changed"),
    ("    return shown", "    shown", "is a `return` missing"),
    ("~special[input_ids]", "input_ids > 4", "recognised by fixed ids"),
]
