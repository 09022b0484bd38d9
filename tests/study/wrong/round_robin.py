"""Wrong round robins, as students hand them in."""

ENDLESS = "    while True:\n        yield from shuffle(name)\n"
LOOP = "    for start in range(0, lengths[largest], batch_size):\n"
SHORT = ("            if name == largest:\n"
         "                size = min(batch_size, lengths[largest] - start)\n")
TAKE = "            step[name] = list(islice(examples[name], size))\n"
STREAMS = "    examples = {name: endless(name, shuffle) for name in lengths}\n" + LOOP
BY_PLACE = ("    orders = {name: shuffle(name) for name in lengths}\n"
            "    place = dict.fromkeys(lengths, 0)\n" + LOOP)

WRONG = [
    (ENDLESS, "    order = shuffle(name)\n    while True:\n        yield from order\n",
     "as with itertools.cycle"),
    (TAKE, "            if name != largest:\n                size = min(size, lengths[name] - start % "
     "lengths[name])\n" + TAKE, "examples of sts in each step"),
    (STREAMS + "        step = {}\n        for name in lengths:\n            size = batch_size\n" + SHORT + TAKE,
     BY_PLACE + "        step = {}\n        for name in lengths:\n"
     "            if place[name] >= lengths[name]:\n"
     "                orders[name], place[name] = shuffle(name), 0\n"
     "            step[name] = orders[name][place[name]:place[name] + batch_size]\n"
     "            place[name] += batch_size\n", "cut short where its order ends"),
    (STREAMS + "        step = {}\n        for name in lengths:\n            size = batch_size\n" + SHORT + TAKE,
     BY_PLACE + "        step = {}\n        for name in lengths:\n"
     "            if name != largest and place[name] + batch_size > lengths[name]:\n"
     "                orders[name], place[name] = shuffle(name), 0\n"
     "            step[name] = orders[name][place[name]:place[name] + batch_size]\n"
     "            place[name] += batch_size\n", "because it does not fill a batch"),
    (LOOP, "    start = 0\n    while True:\n", "number of steps: yours 400"),
    (TAKE, "            step[name] = shuffle(name)[:size]\n", "batches of para"),
    ("    largest = max", "    lengths = dict(lengths)\n    largest = max", None),
    ("        yield step\n", "        yield step\n        step.clear()\n", "a step is {}"),
    ("        yield step\n", "        return step\n", "it returned dict; write a generator"),
    ("        yield step\n", "        yield list(step.values())\n", "a step is ["),
    ("        yield step\n", "        for name in lengths:\n            yield name, step[name]\n",
     "a step is ('para'"),
    ("        yield step\n", "        lengths[largest] -= 0.5\n        yield step\n", "ValueError"),
    ("    return {name: max(1, length // n) for name, length in lengths.items()}\n",
     "    for name in lengths:\n        lengths[name] = max(1, lengths[name] // n)\n"
     "    return lengths\n", "lengths afterwards"),
    ("length // n)", "length / n)", "sizes, para: yours 24 (float), expected 24 (int)"),
    ("max(1, length // n)", "LARGEST_BATCH if length == max(lengths.values()) else max(1, length // n)",
     "sizes for "),
    ("max(1, length // n)", "min(LARGEST_BATCH, max(1, length // n))", "sizes for "),
    ("max(1, max(lengths.values()) // LARGEST_BATCH)", "max(lengths.values()) // LARGEST_BATCH",
     "ZeroDivisionError"),
    ("range(number_of_steps(lengths))",
     "range(max(lengths[name] // sizes[name] for name in lengths))", "number of steps"),
    ("range(number_of_steps(lengths))",
     "range(min(lengths[name] // sizes[name] for name in lengths))", "number of steps"),
    ("list(islice(examples[name], sizes[name]))",
     "list(islice(examples[name], min(sizes[name], 24)))", "in each step"),
    ("        yield {name:", "        return {name:", "it returned dict"),
    ("def bd(lengths: Mapping[str, int],\n"
     "       shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:\n",
     "def bd(lengths: Mapping[str, int],\n"
     "       shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:\n"
     "    return wrap(lengths, LARGEST_BATCH, shuffle)\n"
     "    yield\n\n\ndef other(lengths, shuffle):\n", "number of steps: yours 0, expected 2"),
]
