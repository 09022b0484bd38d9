"""Which sequences and which masks make up each step, and the held-out batches."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from minbert import BertTokenizer, Masked, Masking, Packing

from .segments import RunningText
from .settings import PretrainingSettings

EVALUATION_BATCH = 64
# what a generator is for: the first of its numbers
ORDER, MASKS, HELD_OUT_MASKS, SEGMENTS, HELD_OUT_SEGMENTS = range(5)


class MaskedBatch(NamedTuple):
    """A packed row with some tokens hidden; token_type_ids: (tokens,) int64."""

    masked: Masked
    packing: Packing
    token_type_ids: torch.Tensor

    def to(self, device: torch.device) -> "MaskedBatch":
        masked = Masked(self.masked.input_ids.to(device), self.masked.positions.to(device),
                        self.masked.labels.to(device))
        return MaskedBatch(masked, self.packing.to(device), self.token_type_ids.to(device))


def generator_of(*numbers: int) -> torch.Generator:
    """A generator for these numbers, so that a step's draws do not depend on earlier steps."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed >> 1)


class TrainingBatches:
    """The batches to train on, each a function of seed and step alone."""

    def __init__(self, text: RunningText, tokenizer: BertTokenizer,
                 settings: PretrainingSettings) -> None:
        self.text = text
        self.size, self.seed = settings.batch_size, settings.seed
        self.steps_per_epoch = max(1, len(text.sequences) // self.size)
        self._masking = Masking.of(tokenizer, settings.whole_words, settings.mask_share)
        self._order = functools.lru_cache(maxsize=1)(self._order_of)

    def batch(self, step: int) -> MaskedBatch:
        """Sequences and masks of a step."""
        draws = np.random.default_rng((SEGMENTS, self.seed, step))
        row, packing, types = self.text.batch(self.sequences_of(step), draws)
        return MaskedBatch(self._masking(row, generator_of(MASKS, self.seed, step)), packing, types)

    def sequences_of(self, step: int) -> np.ndarray:
        """(sequences,) int64, the numbers of a step's sequences."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[place * self.size:(place + 1) * self.size]

    def _order_of(self, epoch: int) -> np.ndarray:
        generator = generator_of(ORDER, self.seed, epoch)
        count = len(self.text.sequences)
        return torch.randperm(count, generator=generator, device="cpu").numpy()

    def most_frequent(self) -> int:
        """The id of the most frequent piece. Special ones do not count: they are never hidden."""
        pieces = [self.text.corpus.ids[start:end] for start, end in self.text.sequences.tolist()]
        counts = np.bincount(np.concatenate(pieces))
        counts[self._masking.special[:len(counts)].numpy()] = 0
        return int(counts.argmax())


def held_out_batches(text: RunningText, tokenizer: BertTokenizer) -> list[MaskedBatch]:
    """Held-out text with fixed masks of single pieces, even if training masks whole words."""
    masking, masks = Masking.of(tokenizer), generator_of(HELD_OUT_MASKS)
    draws = np.random.default_rng(HELD_OUT_SEGMENTS)
    batches = []
    for start in range(0, len(text.sequences), EVALUATION_BATCH):
        chosen = np.arange(start, min(start + EVALUATION_BATCH, len(text.sequences)))
        row, packing, types = text.batch(chosen, draws)
        batches.append(MaskedBatch(masking(row, masks), packing, types))
    return batches


def made_ahead(make: Callable[[int], MaskedBatch], steps: range,
               pool: ThreadPoolExecutor) -> Iterator[MaskedBatch]:
    """The steps' batches, each made in a thread while the step before it is computed.

    An error while making a batch is raised in that batch's step.
    """
    ahead = pool.submit(make, steps.start)
    for step in steps:
        batch = ahead.result()
        if step + 1 in steps:
            ahead = pool.submit(make, step + 1)
        yield batch
