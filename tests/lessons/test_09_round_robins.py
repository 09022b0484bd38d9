"""Lesson 9: which examples make up a step, when the datasets differ in size.

SST has 8,544 sentences, and the paper's Quora has over 16 times as many pairs. You learn the
paper's two answers, that Eq. 7 is just the mean loss up to a common factor, and why
`itertools.cycle(loader)` is a mistake.

Write it yourself: minbert study, ex15_round_robin.py.
"""

from collections import Counter

import pytest
import torch

from multitask.data.sampling import RoundRobin, batch_different_sizes
from multitask.tasks import TASKS

LENGTHS = {"sst": 10, "para": 37, "sts": 7}


def epoch(sampler):
    sampler.start_epoch()
    return [sampler.next_step() for _ in range(sampler.steps_per_epoch)]


def drawn(steps, name):
    """A task's examples in these steps, in order."""
    return [index for step in steps for index in step[name]]


def wrap(seed=0):
    return RoundRobin(LENGTHS, dict.fromkeys(LENGTHS, 4), "wrap", seed)


def test_wrap_epoch():
    """With `wrap`, an epoch is one pass over the largest dataset."""
    sampler = wrap()
    for _ in range(3):
        steps = epoch(sampler)
        assert len(steps) == 10  # ⌈37 / 4⌉
        assert sorted(drawn(steps, "para")) == list(range(37))
        assert [len(step["para"]) for step in steps] == [4] * 9 + [1]
        assert all(len(step[name]) == 4 for step in steps for name in ("sst", "sts"))


def test_wrap_uses_up_first():
    """With `wrap`, a smaller dataset repeats an example only after using all of them."""
    indices = drawn(epoch(wrap()), "sst")
    for start in range(0, 40, 10):
        assert sorted(indices[start:start + 10]) == list(range(10))


def test_wrap_reshuffles():
    """Every pass over a dataset has a new order.

    itertools.cycle(loader) would repeat the first pass for ever.
    """
    sampler = wrap()
    indices = drawn(epoch(sampler) + epoch(sampler), "sst")
    passes = [tuple(indices[start:start + 10]) for start in range(0, 80, 10)]
    assert len(set(passes)) == 8
    assert len({tuple(drawn(epoch(sampler), "para")) for _ in range(3)}) == 3


@pytest.mark.parametrize(("lengths", "sizes", "steps"), [
    # the paper's
    ({"sst": 8544, "para": 141498, "sts": 6040}, {"sst": 1, "para": 24, "sts": 1}, 5895),
    ({"sst": 8544, "para": 40515, "sts": 6040}, {"sst": 5, "para": 24, "sts": 3}, 1688),
    ({"sst": 3, "para": 240, "sts": 60}, {"sst": 1, "para": 24, "sts": 6}, 10),
])
def test_bd_sizes_by_eq_6(lengths, sizes, steps):
    """Eq. 6 gives the batch sizes and the number of steps."""
    assert batch_different_sizes(lengths) == sizes
    assert RoundRobin(lengths, sizes, "bd", 0).steps_per_epoch == steps


def test_bd_ends_together():
    """With `bd`, an epoch of n steps uses no example twice, unless a dataset is smaller than n."""
    lengths = {"sst": 48, "para": 240, "sts": 3}
    sampler = RoundRobin(lengths, batch_different_sizes(lengths), "bd", 0)
    for _ in range(2):
        steps = epoch(sampler)
        assert len(steps) == 10
        sst = drawn(steps, "sst")
        assert len(sst) == len(set(sst)) == 40  # 4 per step, none twice
        assert sorted(drawn(steps, "para")) == list(range(240))
        counts = Counter(drawn(steps, "sts"))  # a set smaller than n wraps
        assert sorted(counts.values()) == [3, 3, 4]


def test_bd_reshuffles():
    """With `bd`, every epoch has a new order of every dataset."""
    lengths = {"sst": 48, "para": 240, "sts": 30}
    sampler = RoundRobin(lengths, batch_different_sizes(lengths), "bd", 0)
    first, second = epoch(sampler), epoch(sampler)
    assert all(drawn(first, name) != drawn(second, name) for name in lengths)


def test_mean_losses_are_eq_7():
    """Eq. 7 rescales *summed* losses by b_min / b, which is b_min times each mean."""
    sizes = {"sst": 5, "para": 24, "sts": 3}
    smallest = min(sizes.values())
    labels = {"sst": torch.randint(5, (5,)).float(), "para": torch.randint(2, (24,)).float(),
              "sts": torch.rand(3) * 5}
    for name, task in TASKS.items():
        logits = torch.randn(sizes[name], task.outputs, dtype=torch.float64)
        one_by_one = [task.loss(logits[i:i + 1], labels[name][i:i + 1]) for i in range(sizes[name])]
        eq_7 = sum(one_by_one) * smallest / sizes[name]
        # the losses compute in float32
        torch.testing.assert_close(task.loss(logits, labels[name]), eq_7 / smallest, atol=1e-6,
                                   rtol=1e-5)


def test_seed_decides_batches():
    """The seed alone decides the batches; torch's global generator does not."""
    torch.manual_seed(1)
    first = epoch(wrap(1))
    torch.manual_seed(2)
    assert epoch(wrap(1)) == first
    assert epoch(wrap(2)) != first


def test_sampler_resumes():
    """A sampler resumes in the middle of an epoch, and refuses the state of other data."""
    straight, stopped = wrap(), wrap()
    for sampler in (straight, stopped):
        sampler.start_epoch()
        for _ in range(3):
            sampler.next_step()
    resumed = wrap(seed=99)
    resumed.load_state_dict(stopped.state_dict())
    assert [straight.next_step() for _ in range(7)] == [resumed.next_step() for _ in range(7)]
    assert epoch(straight) == epoch(resumed)
    other = RoundRobin({**LENGTHS, "sst": 11}, dict.fromkeys(LENGTHS, 4), "wrap", 0)
    with pytest.raises(ValueError, match="other data"):
        other.load_state_dict(stopped.state_dict())


def test_no_such_scheme():
    """A scheme that does not exist is refused, and the error lists those that do."""
    with pytest.raises(ValueError, match="scheme is 'warp'; choose from wrap, bd"):
        RoundRobin(LENGTHS, dict.fromkeys(LENGTHS, 4), "warp", 0)


def test_a_task_without_examples():
    """A task without examples is refused by name."""
    with pytest.raises(ValueError, match="sst has no examples"):
        RoundRobin({**LENGTHS, "sst": 0}, dict.fromkeys(LENGTHS, 4), "wrap", 0)
