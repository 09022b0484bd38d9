"""The two round robins of the paper."""

import math
from collections.abc import Iterable
from itertools import islice

import torch

from minbert_study.exercise import Exercise, check
from minbert_study.worker import Fault
from multitask.data.sampling import BATCH_DIFFERENT, WRAP, RoundRobin, batch_different_sizes

MOST_STEPS = 400  # more than any epoch here has


def wrap(lengths, batch_size, shuffle):
    """RoundRobin's scheme "wrap", for one epoch; take, below, fills a batch."""
    largest = max(lengths, key=lengths.get)
    orders = {name: shuffle(name) for name in lengths}
    for _ in range(math.ceil(lengths[largest] / batch_size)):
        yield {name: take(name, batch_size, orders, shuffle, name == largest) for name in lengths}


def bd(lengths, shuffle):
    """RoundRobin's scheme "bd", for one epoch."""
    sizes = batch_different_sizes(lengths)
    orders = {name: shuffle(name) for name in lengths}
    for _ in range(max(1, max(lengths.values()) // 24)):
        yield {name: take(name, sizes[name], orders, shuffle, False) for name in lengths}


def take(name, size, orders, shuffle, is_one_pass):
    """The next examples of a task, which leave its order; at its end comes a new one."""
    batch = []
    while len(batch) < size:
        if not orders[name]:
            if is_one_pass:
                break
            orders[name] = list(shuffle(name))
        missing = size - len(batch)
        batch += orders[name][:missing]
        orders[name] = orders[name][missing:]
    return batch


class OneEpoch(RoundRobin):
    """The library's own, with given orders."""

    def __init__(self, lengths, batch_sizes, scheme, shuffle):
        self.order_of = shuffle
        super().__init__(lengths, batch_sizes, scheme, seed=0)

    def _shuffle(self, name):
        return torch.tensor(self.order_of(name))

    def steps(self):
        for _ in range(self.steps_per_epoch):
            yield self.next_step()


LIBRARY = {
    "wrap": lambda lengths, size, shuffle: OneEpoch(lengths, dict.fromkeys(lengths, size), WRAP,
                                                    shuffle).steps(),
    "bd": lambda lengths, shuffle: OneEpoch(lengths, batch_different_sizes(lengths),
                                            BATCH_DIFFERENT, shuffle).steps()}


def given(**orders: list[list[int]]):
    """A shuffle that gives these orders, one after another."""
    left = {name: iter(of_task) for name, of_task in orders.items()}
    return lambda name: list(next(left[name], orders[name][-1]))


def random(lengths: dict[str, int]):
    """A shuffle whose orders of a task depend on how often it was called for that task alone."""
    seed = int(torch.randint(2**31, ()))
    drawn = {name: torch.Generator().manual_seed(seed + number)
             for number, name in enumerate(lengths)}
    return lambda name: torch.randperm(lengths[name], generator=drawn[name]).tolist()


def steps_of(found: Iterable, lengths: dict[str, int]) -> list[dict]:
    """All steps of an epoch; Fault if they are none."""
    if isinstance(found, dict) or not hasattr(found, "__iter__"):
        raise Fault(f"it returned {type(found).__name__}; write a generator: `yield` each step "
                    "instead of returning")
    steps = list(islice(found, MOST_STEPS))
    for step in steps:
        if not isinstance(step, dict) or set(step) != set(lengths):
            raise Fault(f"a step is {step!r:.80}; expected a dict with a batch for each of "
                        f"{', '.join(lengths)}")
    return steps


def seen(found: Iterable, lengths: dict[str, int]) -> dict[str, object]:
    """The number of steps, then each task's batches, by size and by content."""
    before = dict(lengths)
    steps = steps_of(found, before)
    batches = {name: [step[name] for step in steps] for name in before}
    return {"number of steps": len(steps),
            **{f"examples of {name} in each step": [len(batch) for batch in each]
               for name, each in batches.items()},
            **{f"batches of {name}": each for name, each in batches.items()},
            "lengths afterwards": dict(lengths)}


def told(lengths: dict[str, int]) -> str:
    return ", ".join(f"{name} {length}" for name, length in lengths.items())


@check(against=LIBRARY)
def wrap_by_hand(part):
    """wrap: 5 and 3 examples in batches of 2 make three steps; the 5 end with a batch of 1."""
    lengths = {"para": 5, "sts": 3}
    shuffle = given(para=[[3, 0, 4, 1, 2], [4, 3, 2, 1, 0]],
                    sts=[[2, 0, 1], [1, 2, 0], [0, 2, 1], [1, 0, 2]])
    return seen(part.wrap(lengths, 2, shuffle), lengths)


@check(against=LIBRARY)
def wrap_epoch(part):
    """wrap: an epoch is one pass over the largest dataset, even if no examples are left over."""
    found = {}
    for lengths, size in (({"sts": 3, "para": 12}, 4), ({"para": 13, "sts": 12}, 4),
                          ({"para": 3, "sts": 2}, 8)):
        steps = steps_of(part.wrap(lengths, size, random(lengths)), lengths)
        para = [index for step in steps for index in step["para"]]
        about = f", {lengths['para']} and {lengths['sts']} in batches of {size}"
        found[f"number of steps{about}"] = len(steps)
        found[f"examples of para, sorted{about}"] = sorted(para)
    return found


@check(against=LIBRARY)
def wrap_restarts(part):
    """wrap: a smaller dataset is used up before an example repeats; then its order is new."""
    lengths = {"sst": 5, "para": 43, "sts": 2}
    steps = steps_of(part.wrap(lengths, 4, random(lengths)), lengths)
    found = {}
    for name in ("sst", "sts"):
        found[f"examples of {name} in each step"] = [len(step[name]) for step in steps]
        indices = [index for step in steps for index in step[name]]
        length = lengths[name]
        passes = [indices[start:start + length]
                  for start in range(0, len(indices) - length + 1, length)]
        found[f"every pass over {name} has each example once"] = all(
            sorted(each) == list(range(length)) for each in passes)
        found[f"the passes over {name} come in several orders"] = len(set(map(tuple, passes))) > 1
        found[f"the first pass over {name}"] = passes[:1]
        found[f"the second pass over {name}"] = passes[1:2]
    return found


@check(against=LIBRARY)
def wrap_as_library(part):
    """wrap: every step equals the library's, for many lengths and batch sizes."""
    found = {}
    for lengths, size in (({"sst": 10, "para": 37, "sts": 7}, 4), ({"sst": 1, "para": 5}, 3),
                          ({"para": 8}, 3), ({"c": 19, "d": 7, "b": 20, "a": 2}, 5),
                          ({"sst": 4, "para": 9}, 1), ({"sts": 2, "para": 4}, 10)):
        name = f"{told(lengths)}, in batches of {size}"
        found[name] = seen(part.wrap(lengths, size, random(lengths)), lengths)
    return found


@check()
def sizes_by_hand(part):
    """Eq. 6: 240, 60 and 3 examples give 10 steps and batches of 24, 6 and 1."""
    lengths = {"para": 240, "sst": 60, "sts": 3}
    return {"sizes": part.batch_different_sizes(lengths), "lengths afterwards": lengths}


@check(against={"batch_different_sizes": lambda lengths: {
    name: max(1, length // max(1, max(lengths.values()) // 24))
    for name, length in lengths.items()}})
def sizes(part):
    """Eq. 6: the paper's datasets, lengths with a remainder, and sets smaller than a batch."""
    found = {}
    for lengths in ({"sst": 8544, "para": 141498, "sts": 6040},
                    {"sst": 8544, "para": 40515, "sts": 6040}, {"a": 23, "b": 5}, {"a": 1},
                    {"a": 47, "b": 24, "c": 1}, {"a": 71, "b": 49, "c": 3}, {"a": 4, "b": 100},
                    {"nli": 392702, "sts": 5749}):
        found[f"sizes for {told(lengths)}"] = part.batch_different_sizes(lengths)
    return found


@check(against=LIBRARY)
def bd_by_hand(part):
    """bd: 49 and 5 examples make two steps, of 24 and 2; the last of each is not used."""
    lengths = {"para": 49, "sts": 5}
    shuffle = given(para=[[*range(48, -1, -1)], [*range(49)]],
                    sts=[[2, 0, 3, 1, 4], [4, 3, 2, 1, 0]])
    return seen(part.bd(lengths, shuffle), lengths)


@check(against=LIBRARY)
def bd_as_library(part):
    """bd: every step equals the library's; sets with fewer examples than steps restart."""
    found = {}
    for lengths in ({"sst": 48, "para": 245, "sts": 3}, {"para": 23, "sts": 7}, {"a": 1, "b": 71},
                    {"sst": 19, "sts": 8, "para": 190}):
        found[told(lengths)] = seen(part.bd(lengths, random(lengths)), lengths)
    return found


EXERCISE = Exercise(
    title="the two round robins",
    places=("minbert_study.exercises.round_robin:wrap",
            "multitask.data.sampling:batch_different_sizes",
            "minbert_study.exercises.round_robin:bd"),
    mistakes=(
        ("when a smaller dataset repeats in the same order, as with itertools.cycle. Call shuffle "
         "at every restart.", "    batch = []\n",
         "    first = orders.setdefault((name, 'first'), orders[name])\n"
         "    shuffle = {name: first}.get\n    batch = []\n"),
        ("when a batch of a smaller dataset is cut short where its order ends. Fill it from the "
         "next order.", "            if is_one_pass:\n", "            if is_one_pass or batch:\n"),
        ("when the end of an order is thrown away because it does not fill a batch. Use it first, "
         "then fill the batch from the next order.", "    batch = []\n",
         "    if len(orders[name]) < size and not is_one_pass:\n"
         "        orders[name] = list(shuffle(name))\n    batch = []\n"),
        ("when a batch is filled from one new order at most. A dataset smaller than a batch may "
         "need several: use while, not if.", "    batch = []\n    while len(batch) < size:\n",
         "    batch, orders[name] = orders[name][:size], orders[name][size:]\n"
         "    for _ in range(len(batch) < size):\n"),
        ("when smaller datasets are not restarted.", "shuffle, name == largest)", "shuffle, True)"),
        ("when the last batch of the largest dataset is filled up with examples already used in "
         "this epoch. It must be smaller.", "shuffle, name == largest)", "shuffle, False)"),
        ("when the epoch has one step too many if nothing is left over. Round up; do not add 1.",
         "range(math.ceil(lengths[largest] / batch_size))",
         "range(lengths[largest] // batch_size + 1)"),
        ("when the largest dataset's leftover examples are lost. They make a smaller last batch.",
         "range(math.ceil(lengths[largest] / batch_size))",
         "range(lengths[largest] // batch_size)"),
        ("when the epoch of wrap ends with the smallest dataset. It must end with the largest.",
         "max(lengths, key=lengths.get)", "min(lengths, key=lengths.get)"),
        ("when max(lengths) picks the name that comes last in the alphabet. Use max(lengths, "
         "key=lengths.get).", "max(lengths, key=lengths.get)", "max(lengths)"),
        ("when the first dataset is taken for the largest.",
         "max(lengths, key=lengths.get)", "list(lengths)[0]"),
        ("when the last dataset is taken for the largest.",
         "max(lengths, key=lengths.get)", "list(lengths)[-1]"),
        ("when every step shuffles again, so some examples come often and others never.",
         "    for _ in range(math.ceil(lengths[largest] / batch_size)):\n"
         "        yield {name: take(name, batch_size, orders, ",
         "    for start in range(0, lengths[largest], batch_size):\n"
         "        if start:\n"
         "            orders = {name: shuffle(name) for name in lengths}\n"
         "        yield {name: take(name, batch_size if name != largest else\n"
         "                          min(batch_size, lengths[name] - start), orders, "),
        ("when every step is the same dict, which the next step overwrites. Make a new dict in the "
         "loop.",
         "        yield {name: take(name, batch_size, orders, shuffle, name == largest) "
         "for name in lengths}\n",
         "        step = orders.setdefault('step', {})\n"
         "        step.update({name: take(name, batch_size, orders, shuffle, name == "
         "largest) for name in lengths})\n        yield step\n"),
        ("when every step takes the first examples of the order again.",
         "        orders[name] = orders[name][missing:]\n", ""),
        ("when the examples are not shuffled: they come as 0, 1, 2, …", "    batch = []\n",
         "    length = len(shuffle(name))\n"
         "    shuffle = {name: range(length)}.get\n"
         "    if (name, 'begun') not in orders:\n"
         "        orders[name], orders[name, 'begun'] = list(range(length)), True\n"
         "    batch = []\n"),
        ("when b_t is rounded up. Round down.",
         "max(1, length // steps)", "max(1, -(-length // steps))"),
        ("when b_t is rounded to the nearest number. Round down.",
         "max(1, length // steps)", "max(1, round(length / steps))"),
        ("when a dataset with fewer examples than steps gets no examples. b_t must be at least 1.",
         "max(1, length // steps)", "length // steps"),
        ("when b_t is ⌊24 l_t/l_max⌋. Round n down before you divide by it.",
         "    return {name: max(1, length // steps)",
         "    return {name: max(1, LARGEST_BATCH * length // max(lengths.values()))"),
        ("when n is rounded up. Round down.",
         "max(lengths.values()) // LARGEST_BATCH)", "-(-max(lengths.values()) // LARGEST_BATCH))"),
        ("when n is rounded to the nearest number. Round down.",
         "max(lengths.values()) // LARGEST_BATCH)",
         "round(max(lengths.values()) / LARGEST_BATCH))"),
        ("when n comes from the smallest dataset. It must come from the largest.",
         "steps = max(1, max(lengths", "steps = max(1, min(lengths"),
        ("when n comes from all examples together. It must come from the largest dataset.",
         "steps = max(1, max(lengths", "steps = max(1, sum(lengths"),
        ("when bd has one step too many, made of leftover examples. An epoch must have n steps.",
         "range(max(1, max(lengths.values()) // 24))", "range(-(-max(lengths.values()) // 24))"),
        ("when bd has no step for datasets smaller than 24. n must be at least 1.",
         "range(max(1, max(lengths.values()) // 24))", "range(max(lengths.values()) // 24)"),
        ("when a dataset with fewer examples than steps runs out in bd. Restart it in a new order, "
         "as in wrap.", "shuffle, False)", "shuffle, True)"),
    ),
    hints=(
        "When a smaller dataset's order ends in the middle of a batch, how many examples are "
        "missing, and where do they come from?",
        "For each task, keep the unused part of its order. Fill a batch in a loop: take at most "
        "what is missing. When nothing is left, shuffle again, unless it is the largest dataset in "
        "wrap. Both schemes can share the function that fills a batch.",
        "while len(batch) < size: if not rest[name]: if name == largest: break; rest[name] = "
        "list(shuffle(name)); missing = size - len(batch); batch += rest[name][:missing]; "
        "rest[name] = rest[name][missing:]. wrap has math.ceil(l_max / batch_size) steps, bd "
        "max(1, l_max // 24).",
    ),
)
