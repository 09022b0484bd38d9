"""One vector per sentence: BertModel.encode."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from . import fast
from .files import check_count, check_texts, items_of
from .progress import Progress
from .tokenizer import BertTokenizer

TOKENIZE_AT_ONCE = 4096
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
    sentences = items_of(sentences, "sentences")
    check_texts([text if isinstance(text, (tuple, list)) else (text,) for text in sentences])
    ids, types = [], []  # kept as arrays, since an Encoding takes some kilobytes
    for start in range(0, len(sentences), TOKENIZE_AT_ONCE):
        for encoding in tokenizer.encode(sentences[start:start + TOKENIZE_AT_ONCE],
                                         max_length=min(max_length, positions)):
            ids.append(np.array(encoding.ids, np.int32))
            types.append(np.array(encoding.type_ids, np.int8))

    longest_first = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    vectors = torch.empty(len(sentences), model.config.hidden_size, dtype=torch.float32,
                          device="cpu")
    progress = Progress(total=len(sentences), desc="encode", unit="sentence", delay=1, leave=False)

    with evaluating(model), progress:
        for start in range(0, len(sentences), batch_size):
            indices = longest_first[start:start + batch_size]
            input_ids, token_type_ids, packing = fast.pack([ids[index] for index in indices],
                                                           [types[index] for index in indices])

            packing = packing.to(device)
            row = fast.encode_packed(model, input_ids.to(device), token_type_ids.to(device),
                                     packing, first_only=pooling != "mean")
            vectors[indices] = POOLINGS[pooling](model, row, packing).float().cpu()
            progress.update(len(indices))
    return vectors
