"""BertModel: embeddings, a stack of layers, and the pooler on [CLS]."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from . import pretrained
from .config import BertConfig
from .embeddings import BertEmbeddings
from .layer import BertLayer
from .packing import Packing


@dataclass
class BertOutput:
    """What BertModel returns, by attribute or by key: out.pooler_output is out["pooler_output"].

    last_hidden_state: (batch, seq, hidden); values at padding positions are unspecified.
    pooler_output: (batch, hidden).
    """

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor

    def keys(self) -> list[str]:
        return [field.name for field in fields(self)]

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
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> BertModel:
        """Reads config.json and model.safetensors in HuggingFace's layout; returns the model in eval mode.

        Strict both ways: every tensor of the file is used or on the ignore list, every parameter is filled
        exactly once, all shapes agree. Raises FileNotFoundError or ValueError, naming file and tensor.
        """
        model = pretrained.load(cls, folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors, which transformers.AutoModel opens with the same outputs."""
        pretrained.save(self, folder)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                token_type_ids: torch.Tensor | None = None) -> BertOutput:
        """All three (batch, seq) integers; attention_mask 1 = real token (default: all), token types default 0."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        self._check_inputs(input_ids, attention_mask, token_type_ids)
        packing = Packing.from_mask(attention_mask)
        row = self.encode_packed(packing.unpad(input_ids), packing.unpad(token_type_ids), packing)
        hidden_states = packing.pad(row)
        return BertOutput(hidden_states, self.pool(hidden_states[:, 0]))

    def encode_packed(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """The encoder on a row of real tokens: two (tokens,) int64 tensors → (tokens, hidden).

        This is the fast way in, without padding; `forward` wraps it for padded batches.
        """
        hidden_states = self.embeddings(input_ids, token_type_ids, packing.position_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, packing)
        return hidden_states

    def pool(self, cls_states: torch.Tensor) -> torch.Tensor:
        """tanh(W h_[CLS] + b): (batch, hidden) → (batch, hidden)."""
        return torch.tanh(self.pooler_dense(cls_states))

    def _check_inputs(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                      token_type_ids: torch.Tensor) -> None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (batch, seq), got shape {tuple(input_ids.shape)}")
        for name, tensor in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
            if tensor.shape != input_ids.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, input_ids {tuple(input_ids.shape)}: "
                                 "they must agree")
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(f"sequences of {input_ids.shape[1]} tokens, but max_position_embeddings is "
                             f"{self.config.max_position_embeddings}: truncate with the tokenizer's max_length")
        if input_ids.device.type != "cpu" or not input_ids.numel():
            return  # looking at values would make an accelerator wait
        for name, ids, size in (("input_ids", input_ids, self.config.vocab_size),
                                ("token_type_ids", token_type_ids, self.config.type_vocab_size)):
            if ids.min() < 0 or ids.max() >= size:
                raise ValueError(f"{name} must lie in [0, {size}), found {int(ids.min())} to {int(ids.max())}: "
                                 "do tokenizer and model come from one checkpoint?")
