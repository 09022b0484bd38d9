"""The encoder with the head that guesses hidden tokens (Devlin et al. 2018, section 3.1)."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from . import fast
from .activations import ACTIVATIONS
from .checkpoints import hub
from .checkpoints.pretrained import config_of, read_tensor, tensors_of, write_checkpoint
from .checkpoints.weights import Readers, find_weights, open_weights
from .config import BertConfig
from .fast import Packing
from .files import check_count, items_of
from .masking import Masked
from .model import BertModel
from .output import Output
from .tokenizer import BertTokenizer

# Our parameters of the head → the file's tensors.
HEAD_NAMES = {
    "transform_dense.weight": "cls.predictions.transform.dense.weight",
    "transform_dense.bias": "cls.predictions.transform.dense.bias",
    "transform_layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform_layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "decoder_bias": "cls.predictions.bias",
}
# Tied tensors that a file stores twice: the copy → what it must equal.
TIED_NAMES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
NO_LABEL = -100  # in `labels`: a position that is not to be guessed, as in transformers


@dataclass
class MaskedLMOutput(Output):
    """What BertForMaskedLM returns, by attribute, by key, or by index as in transformers.

    Attributes:
        loss: a number; None without labels.
        logits: (batch, seq, vocab). Values at padding positions are unspecified.
    """

    loss: torch.Tensor | None
    logits: torch.Tensor


torch.export.register_dataclass(MaskedLMOutput, serialized_type_name="minbert.MaskedLMOutput")


class BertForMaskedLM(nn.Module):
    """Scores every piece of the vocabulary for every token, equal to transformers' to 1e-5.

        logits = LayerNorm(act(h W + b)) Eᵀ + c        E: the word embeddings, shared with the input

    The encoder keeps its pooler, which guessing tokens neither uses nor trains. It comes from the
    checkpoint, or is random, for fine-tuning to train.

    >>> config = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16)
    >>> BertForMaskedLM(config).eval()(torch.tensor([[2, 4, 3]])).logits.shape
    torch.Size([1, 3, 10])
    """

    def __init__(self, config: BertConfig, encoder: BertModel | None = None) -> None:
        """Random weights as in BertModel, except for an encoder that is given. In training mode."""
        super().__init__()
        self.config = config
        self.encoder = BertModel(config) if encoder is None else encoder
        self.transform_dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.transform_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.encoder.init_weights(self.transform_dense)

    # --------------------------------------------------------------------------- from ids to logits

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
                token_type_ids: torch.Tensor | None = None,
                labels: torch.Tensor | None = None) -> MaskedLMOutput:
        """Logits of all positions; inputs as in BertModel.forward.

        Args:
            labels: (batch, seq) int64, the true piece where one is to be guessed, NO_LABEL
                elsewhere. The loss is the mean over the former.
        """
        logits = self.score(self.encoder(input_ids, attention_mask,
                                         token_type_ids).last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)
        return MaskedLMOutput(loss, logits)

    def score(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The encoder's outputs → logits: (…, hidden) → (…, vocab)."""
        transformed = self.activation(self.transform_dense(hidden_states))
        transformed = self.transform_layer_norm(transformed)
        return F.linear(transformed, self.encoder.embeddings.word_embeddings.weight,
                        self.decoder_bias)

    def masked_logits(self, masked: Masked, packing: Packing,
                      token_type_ids: torch.Tensor) -> torch.Tensor:
        """Logits of the hidden tokens of a packed row, and of nothing else.

        The fast way to train: with 15 % masked, the head's products are 15 % of those of `forward`.

        Args:
            token_type_ids: (tokens,) int64.

        Returns:
            (masked, vocab) float32.
        """
        states = fast.encode_packed(self.encoder, masked.input_ids, token_type_ids, packing)
        return self.score(states[masked.positions]).float()

    @torch.no_grad()
    def fill_masks(self, sentences: Sequence[str], tokenizer: BertTokenizer,
                   count: int = 5) -> list[list[list[tuple[str, float]]]]:
        """The likeliest pieces for each [MASK] in the sentences. Call it in eval mode.

        Args:
            sentences: all in one batch.
            count: how many pieces, at least 1; the whole vocabulary at most.

        Returns:
            For each sentence, for each of its masks, up to `count` pairs (piece, probability),
            likeliest first.

        Raises:
            ValueError: a sentence has no [MASK], or the tokenizer does not know it.

        >>> model = BertForMaskedLM.from_pretrained("minbert-mini")
        >>> tokenizer = BertTokenizer.from_pretrained("minbert-mini")
        >>> sentence = "He opened the [MASK] and went in."
        >>> [[guesses]] = model.fill_masks([sentence], tokenizer, count=1)
        >>> [piece for piece, probability in guesses]
        ['door']
        """
        mask_id = tokenizer.vocabulary.get("[MASK]")
        if mask_id is None:
            raise ValueError("the vocabulary lacks [MASK], so nothing can be guessed with it")
        check_count("count", count)
        count = min(count, self.config.vocab_size)
        sentences = items_of(sentences, "sentences")
        inputs = {name: value.to(self.decoder_bias.device)
                  for name, value in tokenizer(sentences).items()}
        is_mask = inputs["input_ids"] == mask_id
        masks = is_mask.sum(1).tolist()
        if 0 in masks:
            raise ValueError(f"nothing to guess in {sentences[masks.index(0)]!r}: put [MASK] where "
                             "a word is wanted")

        states = self.encoder(**inputs).last_hidden_state[is_mask]
        likely = self.score(states).softmax(-1).topk(count)
        pieces = {number: piece for piece, number in tokenizer.vocabulary.items()}
        guesses = []
        for numbers, shares in zip(likely.indices.tolist(), likely.values.tolist(), strict=True):
            guesses.append([(pieces.get(number, "?"), share)
                            for number, share in zip(numbers, shares, strict=True)])
        rest = iter(guesses)
        return [list(itertools.islice(rest, number)) for number in masks]

    # --------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path,
                        revision: str = "main") -> "BertForMaskedLM":
        """Load a checkpoint in HuggingFace's layout, with this head or without; in eval mode.

        Without one, the head is random, with a warning.

        Raises:
            OSError, ValueError: as BertModel.from_pretrained; also for a head that is incomplete or
                not tied.
        """
        folder = hub.resolve(name_or_folder, revision)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* has no pooler")
            encoder = BertModel.from_pretrained(folder)
        model = cls(encoder.config, encoder).to("cpu", torch.float32)  # whatever the defaults are
        model._load_head(find_weights(folder))
        return model.eval()

    @torch.no_grad()
    def _load_head(self, path: Path) -> None:
        with open_weights(path) as readers:
            missing = [name for name in HEAD_NAMES.values() if name not in readers]
            if len(missing) == len(HEAD_NAMES):
                warnings.warn(f"{path} has no masked-language-model head: it starts from random "
                              "weights", stacklevel=3)
                return
            if missing:
                raise ValueError(f"{path} lacks {len(missing)} tensors of the "
                                 f"masked-language-model head, among them {missing[0]}")
            _check_tied(readers, path)
            for name, file_name in HEAD_NAMES.items():
                target = self.get_parameter(name)
                target.copy_(read_tensor(readers[file_name], file_name, target.shape, path))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors, which our BertModel and transformers open.

        Args:
            dtype: of the tensors in the file; fp16 halves it.
        """
        tensors = {f"bert.{name}": value for name, value in tensors_of(self.encoder).items()}
        for name, file_name in HEAD_NAMES.items():
            tensors[file_name] = self.get_parameter(name).detach().cpu().clone()
        tensors = {name: value.to(dtype) for name, value in tensors.items()}

        config = {**config_of(self.encoder), "architectures": [type(self).__name__],
                  "tie_word_embeddings": True}
        write_checkpoint(folder, tensors, config)


def _check_tied(readers: Readers, path: Path) -> None:
    """Raises ValueError if a tensor of TIED_NAMES is stored twice and differs."""
    for copy, original in TIED_NAMES.items():
        if copy not in readers:
            continue
        value = readers[original]()
        found = read_tensor(readers[copy], copy, value.shape, path)
        if not torch.equal(found.float(), value.float()):
            raise ValueError(f"{path}: {copy} differs from {original}, but only a tied head is "
                             "supported")
