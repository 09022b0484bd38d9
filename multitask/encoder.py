"""What is asked of an encoder. minbert.BertModel has it, and so has a BERT of transformers.

Another encoder is trained on padded batches, task by task; only minbert's own has fast forms.
examples/other_encoder.py trains one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


class Config(Protocol):
    """The sizes that heads, tokenizer and batches depend on; the names are HuggingFace's.

    Attributes:
        hidden_size: width of an embedding.
        vocab_size: at least the tokenizer's number of pieces.
        max_position_embeddings: the most tokens in an input.
        type_vocab_size: 2 where pairs can be joined into one input (concatB), else 1.
    """

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int


class Encoder(Protocol):
    """A torch.nn.Module with a config, a pooled output, and a way to save itself.

    All parameters have one dtype and one device. A tied weight is one parameter.
    """

    config: Config

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                 token_type_ids: torch.Tensor) -> Any:
        """All arguments (batch, seq); the mask is true where a token is real.

        Returns:
            An object whose `pooler_output` is (batch, hidden), one embedding per input. An
            architecture with mean pooling reads its `last_hidden_state`, (batch, seq, hidden).
        """

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that are trained; their gradients are the rows of the gradient matrix."""

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and weights into a folder, made if missing."""
