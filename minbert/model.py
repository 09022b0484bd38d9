"""BertModel: embeddings, a stack of layers, and the pooler on [CLS]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minbert.fast.packing import Packing, pack

from .checkpoints import pretrained
from .config import BertConfig
from .embeddings import BertEmbeddings
from .layer import BertLayer
from .tokenizer import BertTokenizer

# How encode makes one vector of a sentence: (model, row of tokens, packing) → (batch, hidden). All but the mean are
# given the first tokens alone, (batch, hidden), for a row.
POOLINGS = {
    "mean": lambda model, row, packing: packing.mean_tokens(row),
    "cls": lambda model, row, packing: row,
    "pooler": lambda model, row, packing: model.pool(row),
}


@dataclass
class BertOutput:
    """What BertModel returns, by attribute or by key: out.pooler_output is out["pooler_output"].

    last_hidden_state: (batch, seq, hidden); values at padding positions are unspecified.
    pooler_output: (batch, hidden).
    hidden_states: if asked for, the embeddings and every layer's output, layers + 1 tensors (batch, seq, hidden).
    attentions: if asked for, every layer's attention weights, (batch, heads, seq, seq).
    """

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def keys(self) -> list[str]:
        """The names of what is there."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self.keys():
            raise KeyError(f"{key!r}: BertOutput has {', '.join(self.keys())}")
        return getattr(self, key)

    def __setitem__(self, key: str, value: torch.Tensor) -> None:
        if key not in self.keys():
            raise KeyError(f"{key!r}: BertOutput has {', '.join(self.keys())}")
        setattr(self, key, value)


class BertModel(nn.Module):
    """The encoder of Devlin et al. 2018, equal to transformers' BertModel to 1e-5 on the same weights.

    >>> config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...                     intermediate_size=16)
    >>> out = BertModel(config).eval()(torch.tensor([[2, 5, 3], [2, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    >>> out.last_hidden_state.shape, out["pooler_output"].shape
    (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, config: BertConfig) -> None:
        """Random weights: N(0, initializer_range²), biases 0, LayerNorm 1 and 0. In training mode, like any module."""
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(
            config.vocab_size, config.hidden_size, config.max_position_embeddings, config.type_vocab_size,
            config.layer_norm_eps, config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            BertLayer(config.hidden_size, config.num_attention_heads, config.intermediate_size, config.hidden_act,
                      config.layer_norm_eps, config.hidden_dropout_prob, config.attention_probs_dropout_prob)
            for _ in range(config.num_hidden_layers))
        self.pooler_dense = nn.Linear(config.hidden_size, config.hidden_size)
        if not self.pooler_dense.weight.is_meta:
            self.init_weights(self)

    def init_weights(self, part: nn.Module) -> None:
        """Draws the weights of the model, or of a part of it, anew (Devlin et al. 2018's own initialisation)."""
        for module in part.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, revision: str = "main") -> BertModel:
        """Reads config.json and the weights, in any form of minbert/checkpoints/weights.py; returns the model in eval mode.

        name_or_folder: a folder, or a name on the hub, looked up and fetched as minbert/checkpoints/hub.py says. revision: a
        branch, tag or commit of that name.
        Strict both ways: every tensor of the file is used or on the ignore list, every parameter is filled exactly
        once, all shapes agree. Raises OSError (FileNotFoundError, HubError) or ValueError, naming file and tensor.
        """
        return pretrained.load(cls, name_or_folder, revision).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors, which transformers.AutoModel opens with the same outputs."""
        pretrained.save(self, folder)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                token_type_ids: torch.Tensor | None = None, *, output_hidden_states: bool = False,
                output_attentions: bool = False) -> BertOutput:
        """All three (batch, seq) integers; attention_mask 1 = real token (default: all), token types default 0."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        self._check_inputs(input_ids, attention_mask, token_type_ids)
        packing = Packing.from_mask(attention_mask)
        rows: list[torch.Tensor] = []
        last = packing.pad(self.encode_packed(packing.unpad(input_ids), packing.unpad(token_type_ids), packing,
                                               layer_inputs=rows))
        out = BertOutput(last, self.pool(last[:, 0]))
        if output_hidden_states:
            out.hidden_states = (*(packing.pad(row) for row in rows), last)
        if output_attentions:
            out.attentions = tuple(layer.self_attention.weights(row, packing)
                                   for layer, row in zip(self.layers, rows, strict=True))
        return out

    def encode_packed(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, packing: Packing, *,
                      layer_inputs: list[torch.Tensor] | None = None, first_only: bool = False) -> torch.Tensor:
        """The encoder on a row of real tokens: two (tokens,) int64 tensors → (tokens, hidden).

        This is the fast way in, without padding; `forward` wraps it for padded batches. layer_inputs: a list that
        receives what each layer was given, the embeddings first, each (tokens, hidden). first_only: of each sentence
        the first token alone, [CLS], which is all that the pooler reads: (batch, hidden). On a CPU the last layer then
        leaves out what nobody asks for, five sixths of its work.
        """
        return self.layers_packed(self.embeddings(input_ids, token_type_ids, packing.position_ids), packing,
                                  layer_inputs=layer_inputs, first_only=first_only)

    def layers_packed(self, hidden_states: torch.Tensor, packing: Packing, *,
                      layer_inputs: list[torch.Tensor] | None = None, first_only: bool = False) -> torch.Tensor:
        """What `encode_packed` does after the embeddings: (tokens, hidden) → (tokens, hidden), or (batch, hidden)."""
        for layer in self.layers:
            if layer_inputs is not None:
                layer_inputs.append(hidden_states)
            hidden_states = layer(hidden_states, packing, first_only and layer is self.layers[-1])
        return hidden_states

    def pool(self, cls_states: torch.Tensor) -> torch.Tensor:
        """tanh(W h_[CLS] + b): (batch, hidden) → (batch, hidden)."""
        return torch.tanh(self.pooler_dense(cls_states))

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], tokenizer: BertTokenizer, pooling: str = "mean",
               batch_size: int | None = None) -> torch.Tensor:
        """One vector a sentence, (n, hidden) float32 on the CPU, in input order; a progress bar if it takes long.

        pooling: "mean" over a sentence's tokens, "cls", the last hidden state of [CLS], or "pooler", pooler_output.
        batch_size: 64 on a CPU, 512 elsewhere, if not given.
        Sentences of like length go together, without dropout and gradients; the model's mode is kept. What is longer
        than max_position_embeddings is truncated. Raises ValueError for another pooling, one string for a list, or a
        tokenizer that knows more pieces than the model.
        """
        if tokenizer.vocab_size > self.config.vocab_size:
            raise ValueError(f"the tokenizer knows {tokenizer.vocab_size} pieces, the model {self.config.vocab_size}: "
                             "they do not belong together")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; choose from {', '.join(POOLINGS)}")
        encodings = tokenizer.encode(sentences, max_length=self.config.max_position_embeddings)
        order = sorted(range(len(encodings)), key=lambda index: -len(encodings[index].ids))
        vectors = torch.empty(len(encodings), self.config.hidden_size)
        device, was_training = self.pooler_dense.weight.device, self.training
        batch_size = batch_size or (64 if device.type == "cpu" else 512)
        self.eval()
        try:
            with tqdm(total=len(encodings), desc="encode", unit="sentence", delay=1, leave=False) as bar:
                for start in range(0, len(order), batch_size):
                    indices = order[start:start + batch_size]
                    ids, types, packing = pack([np.array(encodings[index].ids) for index in indices],
                                               [np.array(encodings[index].type_ids) for index in indices])
                    packing = packing.to(device)
                    row = self.encode_packed(ids.to(device), types.to(device), packing, first_only=pooling != "mean")
                    vectors[indices] = POOLINGS[pooling](self, row, packing).float().cpu()
                    bar.update(len(indices))
        finally:
            self.train(was_training)
        return vectors

    def _check_inputs(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                      token_type_ids: torch.Tensor) -> None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (batch, seq), got shape {tuple(input_ids.shape)}")
        if not input_ids.numel():
            raise ValueError(f"an empty batch of shape {tuple(input_ids.shape)}: give at least one sentence")
        for name, tensor in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if tensor.shape != input_ids.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, input_ids {tuple(input_ids.shape)}: "
                                 "they must agree")
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(f"sequences of {input_ids.shape[1]} tokens, but max_position_embeddings is "
                             f"{self.config.max_position_embeddings}: truncate with the tokenizer's max_length")
        if input_ids.device.type != "cpu":
            return  # looking at values would make an accelerator wait
        for name, ids, size in (("input_ids", input_ids, self.config.vocab_size),
                                ("token_type_ids", token_type_ids, self.config.type_vocab_size)):
            if ids.min() < 0 or ids.max() >= size:
                raise ValueError(f"{name} must lie in [0, {size}), found {int(ids.min())} to {int(ids.max())}: "
                                 "do tokenizer and model come from one checkpoint?")
