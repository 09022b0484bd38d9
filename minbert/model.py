"""BertModel: embeddings, a stack of layers, and the pooler on [CLS]."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from . import fast
from .checkpoints import pretrained
from .config import BertConfig
from .embeddings import BertEmbeddings
from .layer import BertLayer
from .output import Output
from .sentences import encode
from .tokenizer import BertTokenizer


@dataclass
class BertOutput(Output):
    """What BertModel returns, by attribute or by key: out.pooler_output is out["pooler_output"].

    By index too, and unpacked: last, pooled = bert(input_ids).

    Attributes:
        last_hidden_state: (batch, seq, hidden). Values at padding positions are unspecified.
        pooler_output: (batch, hidden).
        hidden_states: on request, the embeddings and every layer's output, layers + 1 tensors of
            (batch, seq, hidden).
        attentions: on request, every layer's attention weights, (batch, heads, seq, seq).
    """

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


# DistributedDataParallel and torch.export find its tensors only if it is registered.
torch.export.register_dataclass(BertOutput, serialized_type_name="minbert.BertOutput")


class BertModel(nn.Module):
    """The encoder of Devlin et al. 2018; equals transformers' BertModel to 1e-5.

    >>> config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16)
    >>> input_ids, mask = torch.tensor([[2, 5, 3], [2, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    >>> out = BertModel(config).eval()(input_ids, mask)
    >>> out.last_hidden_state.shape, out["pooler_output"].shape
    (torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, config: BertConfig) -> None:
        """Random weights N(0, initializer_range²), biases 0, LayerNorm 1 and 0; training mode."""
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(
            config.vocab_size, config.hidden_size, config.max_position_embeddings,
            config.type_vocab_size, config.layer_norm_eps, config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            BertLayer(config.hidden_size, config.num_attention_heads, config.intermediate_size,
                      config.hidden_act, config.layer_norm_eps, config.hidden_dropout_prob,
                      config.attention_probs_dropout_prob)
            for _ in range(config.num_hidden_layers))
        self.pooler_dense = nn.Linear(config.hidden_size, config.hidden_size)

        if not self.pooler_dense.weight.is_meta:
            self.init_weights(self)

    def init_weights(self, part: nn.Module) -> None:
        """Draw the weights of the model, or of a part of it, as Devlin et al. 2018 do."""
        for module in part.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, revision: str = "main") -> "BertModel":
        """Load a checkpoint in HuggingFace's layout; the model is in eval mode.

        Loading is strict: every tensor of the file is used or known to be unneeded, every parameter
        is filled exactly once, and all shapes agree.

        Args:
            name_or_folder: "minbert-mini", a folder, or a name on the hub (checkpoints/hub.py).
            revision: a branch, tag or commit of a name on the hub.

        Raises:
            OSError: there is no such checkpoint (FileNotFoundError), or the hub fails (HubError).
            ValueError: it is not a BERT encoder; the error names file and tensor.
        """
        return pretrained.load(cls, name_or_folder, revision).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which transformers.AutoModel opens."""
        tensors, config = pretrained.tensors_of(self), pretrained.config_of(self)
        pretrained.write_checkpoint(folder, tensors, config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                token_type_ids: torch.Tensor | None = None, *, output_hidden_states: bool = False,
                output_attentions: bool = False) -> BertOutput:
        """Encode a padded batch.

        Args:
            input_ids: (batch, seq) integers.
            attention_mask: (batch, seq), nonzero = real token; by default all are.
            token_type_ids: (batch, seq) integers, by default 0.
            output_hidden_states, output_attentions: return these as well (see BertOutput).

        Raises:
            ValueError: shapes disagree, ids are out of range, or the sequences are too long.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        self._check_inputs(input_ids, attention_mask, token_type_ids)
        mask = attention_mask != 0

        # The one switch between this page and the fast forms: same numbers, padding skipped.
        if fast.applies(self) and not (output_hidden_states or output_attentions):
            last = fast.encode_padded(self, input_ids, token_type_ids, mask)
            return BertOutput(last, self.pool(last[:, 0]))

        position_ids = torch.arange(input_ids.shape[1],
                                    device=input_ids.device).expand_as(input_ids)
        # (batch, seq, hidden)
        hidden_states = self.embeddings(input_ids, token_type_ids, position_ids)
        all_states, all_weights = [hidden_states], []
        for layer in self.layers:
            if output_attentions:
                all_weights.append(layer.self_attention.weights(hidden_states, mask))
            hidden_states = layer(hidden_states, mask)
            if output_hidden_states:
                all_states.append(hidden_states)

        out = BertOutput(hidden_states, self.pool(hidden_states[:, 0]))
        if output_hidden_states:
            out.hidden_states = tuple(all_states)
        if output_attentions:
            out.attentions = tuple(all_weights)
        return out

    def pool(self, cls_states: torch.Tensor) -> torch.Tensor:
        """tanh(W h_[CLS] + b): (batch, hidden) → (batch, hidden)."""
        return torch.tanh(self.pooler_dense(cls_states))

    def encode(self, sentences: Iterable[str], tokenizer: BertTokenizer, pooling: str = "mean",
               batch_size: int | None = None, max_length: int | None = None) -> torch.Tensor:
        """One vector per sentence, in input order, without dropout and gradients.

        Args:
            sentences: longer ones are truncated to max_length tokens.
            tokenizer: the model's own.
            pooling: "mean" over a sentence's tokens, "cls" for the last hidden state of [CLS], or
                "pooler" for pooler_output.
            batch_size: by default 64 on a CPU, 512 elsewhere.
            max_length: by default, and at most, max_position_embeddings.

        Returns:
            (n, hidden) float32 on the CPU.

        Raises:
            ValueError: unknown pooling, one string instead of a list, or a tokenizer of another
                model.
        """
        return encode(self, sentences, tokenizer, pooling, batch_size, max_length)

    def _check_inputs(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                      token_type_ids: torch.Tensor) -> None:
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids must be (batch, seq), got shape {tuple(input_ids.shape)}")
        if not input_ids.numel():
            raise ValueError(f"an empty batch of shape {tuple(input_ids.shape)}: "
                             "give at least one sentence")
        for name, tensor in (("attention_mask", attention_mask),
                             ("token_type_ids", token_type_ids)):
            if tensor.shape != input_ids.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, input_ids "
                                 f"{tuple(input_ids.shape)}: they must agree")

        longest = self.config.max_position_embeddings
        if input_ids.shape[1] > longest:
            raise ValueError(f"sequences of {input_ids.shape[1]} tokens, but "
                             f"max_position_embeddings is {longest}: truncate with the "
                             "tokenizer's max_length")

        if input_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return  # an accelerator would have to wait for the values; a traced graph has none
        if attention_mask.is_floating_point() and attention_mask.min() < 0:
            raise ValueError("attention_mask has negative numbers: expected 1 for real tokens and "
                             "0 for padding, not a mask that is added to scores")
        for name, ids, size in (("input_ids", input_ids, self.config.vocab_size),
                                ("token_type_ids", token_type_ids, self.config.type_vocab_size)):
            if ids.min() < 0 or ids.max() >= size:
                raise ValueError(f"{name} must lie in [0, {size}), found {int(ids.min())} to "
                                 f"{int(ids.max())}: do tokenizer and model come from one "
                                 f"checkpoint?")
