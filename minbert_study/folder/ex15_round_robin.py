"""The two round robins: which examples of each task make up a step (the paper, section 4.3.2).

Every step has one batch of each task, but the datasets differ in size.

wrap: all tasks have the same batch size. An epoch is one pass over the largest dataset, whose last
    batch may be smaller. A smaller dataset is reshuffled and restarted when it is exhausted, even
    in the middle of a batch. So its batches are always full, however small the dataset is.

bd, batches of different size (Eq. 6): all datasets are exhausted together.
        n = ⌊l_max / 24⌋, at least 1            steps per epoch
        b_t = ⌊l_t / n⌋, at least 1             examples of task t per step
    Examples left over after n steps are not used in this epoch. A dataset with fewer than n
    examples is reshuffled and restarted when it is exhausted, as in wrap.

By hand, wrap with a batch size of 2: "para" has 5 examples in the order 3 0 4 1 2, "sts" has 3 in
the orders 2 0 1, then 1 2 0. The three steps are
    para [3, 0], sts [2, 0]        para [4, 1], sts [1, 1]        para [2], sts [2, 0]
Eq. 6 for 240, 60 and 3 examples: n = 10, and the batch sizes are 24, 6 and max(1, 0) = 1.

shuffle(name) returns a new order of a task's examples: a list of the numbers from 0 to l_t − 1.
Call it for each task when the epoch begins, and again whenever a smaller dataset is exhausted.
Otherwise the dataset repeats in the same order, and the model can learn that order.

Read tests/lessons/test_09_round_robins.py. Check: minbert study check . round_robin
"""

from collections.abc import Callable, Iterator, Mapping

LARGEST_BATCH = 24


def wrap(lengths: Mapping[str, int], batch_size: int,
         shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:
    """One epoch, as a generator: `yield` one step after another.

    Args:
        lengths: task → number of examples; one task has more than any other.
        shuffle: task → a new order of its examples.

    Yields:
        task → the numbers of the examples in its batch.
    """
    raise NotImplementedError


def batch_different_sizes(lengths: Mapping[str, int]) -> dict[str, int]:
    """Eq. 6: task → b_t."""
    raise NotImplementedError


def bd(lengths: Mapping[str, int],
       shuffle: Callable[[str], list[int]]) -> Iterator[dict[str, list[int]]]:
    """One epoch with the batch sizes of Eq. 6; the rest is as in `wrap`."""
    raise NotImplementedError
