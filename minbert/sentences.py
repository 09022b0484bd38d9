"""One vector per sentence: BertModel.encode."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from . import fast
from .files import check_count
from .progress import Progress
from .tokenizer import BertTokenizer

# pooling → function (model, row of token vectors, packing) → (batch, hidden). All but the mean
# get the first tokens alone, (batch, hidden), for a row.
POOLINGS = {
    "mean": lambda model, row, packing: packing.mean_tokens(row),
    "cls": lambda model, first_tokens, packing: first_tokens,
    "pooler": lambda model, first_tokens, packing: model.pool(first_tokens),
}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the whole model is in eval mode; then each of its parts has its own mode again."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@torch.no_grad()
def encode(model: nn.Module, sentences: Iterable[str], tokenizer: BertTokenizer, pooling: str,
           batch_size: int | None, max_length: int | None = None) -> torch.Tensor:
    """See BertModel.encode. Sentences of similar length share a batch."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} pieces, the model "
                         f"{model.config.vocab_size}: they do not belong together")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; choose from {', '.join(POOLINGS)}")

    device = next(model.parameters()).device
    if batch_size is None:
        batch_size = 64 if device.type == "cpu" else 512
    check_count("batch_size", batch_size)

    positions = model.config.max_position_embeddings
    max_length = positions if max_length is None else max_length
    encodings = tokenizer.encode(sentences, max_length=min(max_length, positions))
    longest_first = sorted(range(len(encodings)), key=lambda index: -len(encodings[index].ids))
    vectors = torch.empty(len(encodings), model.config.hidden_size, dtype=torch.float32,
                          device="cpu")
    progress = Progress(total=len(encodings), desc="encode", unit="sentence", delay=1, leave=False)

    with evaluating(model), progress:
        for start in range(0, len(encodings), batch_size):
            indices = longest_first[start:start + batch_size]
            input_ids, token_type_ids, packing = fast.pack(
                [encodings[index].ids for index in indices],
                [encodings[index].type_ids for index in indices])

            packing = packing.to(device)
            row = fast.encode_packed(model, input_ids.to(device), token_type_ids.to(device),
                                     packing, first_only=pooling != "mean")
            vectors[indices] = POOLINGS[pooling](model, row, packing).float().cpu()
            progress.update(len(indices))
    return vectors
