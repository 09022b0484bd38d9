"""Held-out text with what the model puts in the place of a hidden piece."""

from typing import NamedTuple

import torch

from minbert import BertForMaskedLM, BertTokenizer
from multitask.system.device import autocast

from .batches import MaskedBatch

LIKELIEST = 3  # pieces of one guess
AROUND = 8     # pieces shown before and after the hidden one


class Guess(NamedTuple):
    """A hidden piece, the text around it as the model saw it, and the likeliest pieces."""

    before: str
    hidden: str
    after: str
    likely: list[tuple[str, float]]  # with their probabilities

    @property
    def guesses(self) -> str:
        return ", ".join(f"{piece} {share:.2f}" for piece, share in self.likely)

    def __str__(self) -> str:
        return f"… {self.before} <{self.hidden}> {self.after} …  guesses: {self.guesses}"


@torch.no_grad()
def guess_hidden(model: BertForMaskedLM, batch: MaskedBatch, tokenizer: BertTokenizer,
                 precision: str, count: int) -> list[Guess]:
    """Guesses for one hidden piece in each of the batch's first `count` sequences."""
    device = model.decoder_bias.device
    model.eval()
    with autocast(precision, device):
        likely = model.masked_logits(*batch.to(device)).softmax(1).topk(LIKELIEST)

    masked, row = batch.masked, batch.masked.input_ids
    is_hidden = row[masked.positions] == tokenizer.vocabulary["[MASK]"]
    found = []
    end = 0
    for length in batch.packing.lengths.tolist()[:count]:
        start, end = end, end + length
        # between [CLS] and [SEP]
        inside = (masked.positions > start) & (masked.positions < end - 1)
        hidden = (inside & is_hidden).nonzero().squeeze(1).tolist()
        if not hidden:
            continue

        number = hidden[len(hidden) // 2]  # the middle one has text on both sides
        place = int(masked.positions[number])
        pieces = [tokenizer.decode([piece]) for piece in likely.indices[number].tolist()]
        found.append(Guess(
            before=tokenizer.decode(row[max(start + 1, place - AROUND):place].tolist()),
            hidden=tokenizer.decode([int(masked.labels[number])]),
            after=tokenizer.decode(row[place + 1:min(end - 1, place + 1 + AROUND)].tolist()),
            likely=list(zip(pieces, likely.values[number].tolist(), strict=True))))
    return found
