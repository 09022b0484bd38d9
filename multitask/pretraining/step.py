"""What masked-language-model pretraining is made of: the step, held-out scores, what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from minbert import BertForMaskedLM, Masked, Packing
from minbert.attention import BertSelfAttention

from multitask.system.device import autocast
from multitask.system.state import check_like, load_optimizer_state, optimizer_state
from multitask.training.optimizing import finite_loss, scaled_step
from optim import AdamW, FlatParameters, TaskGradients, split_decayed

BETAS = (0.9, 0.98)  # Liu et al. 2019, Table 9: the second steadier than 0.999 in runs of few steps
EPS = 1e-9  # a small BERT's queries and keys have gradients of 3e-7 a weight: at AdamW's 1e-6 they would hardly move
LOSSES = {"loss": "masked tokens", "segment_loss": "segments"}  # what each is of
SHARPNESS = 1.7  # of 4 heads of 64 in 256 dimensions: nine tenths of the attention on the neighbour


class Segments(NamedTuple):
    """token_type_ids: (tokens,) int64. labels: (batch,) int64, 0 if a sequence's two segments belong together; None
    where that is not asked."""

    token_type_ids: torch.Tensor
    labels: torch.Tensor | None


class Batch(NamedTuple):
    masked: Masked
    packing: Packing
    segments: Segments

    def to(self, device: torch.device) -> Batch:
        masked = Masked(*(getattr(self.masked, field.name).to(device) for field in dataclasses.fields(self.masked)))
        types, labels = self.segments
        return Batch(masked, self.packing.to(device),
                     Segments(types.to(device), None if labels is None else labels.to(device)))


def generator_of(*numbers: int) -> torch.Generator:
    """A generator of its own for each tuple of numbers, so that a step's draws do not hang on the steps before it."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed >> 1)


@torch.no_grad()
def draw_attentive(model: BertForMaskedLM) -> None:
    """Weights of a new model from which guessing tokens is soon learnt; the rest as `init_weights` drew it.

    As Devlin et al. draw them, N(0, 0.02²) all, every token of a narrow model looks at all others alike, what it sees
    hardly reaches its output, and training stays for many million tokens at what a bag of words tells. So the heads of
    the first layer begin by looking at a neighbour each (`look_at_neighbours`). In the others, queries and keys are
    drawn such that scores have a deviation of about 3: tokens differ in what they look at. And values, attention's
    output and the head's transform begin at a multiple of the identity: what is looked at is guessed. The last two
    after the idea of Trockman and Kolter 2023, "Mimetic initialization of self-attention layers"; docs/log.md 19 and
    22 tell what was tried and measured.
    """
    hidden = model.config.hidden_size
    identity = torch.eye(hidden, device=model.decoder_bias.device)
    for layer in model.encoder.layers:
        queries_keys, values = layer.self_attention.query_key_value.weight.split([2 * hidden, hidden])
        queries_keys.normal_(std=1.7 / math.sqrt(hidden))  # inputs have a deviation of 1, so queries and keys of 1.7
        values.add_(identity, alpha=0.7)
        layer.attention_dense.weight.add_(identity, alpha=0.7)
    model.transform_dense.weight.add_(identity)
    look_at_neighbours(model)


@torch.no_grad()
def look_at_neighbours(model: BertForMaskedLM) -> None:
    """The heads of the first layer look at the tokens 1 before, 1 after, 2 before, 2 after and so on.

    Positions p are embedded as sines and cosines, sin(ωp) and cos(ωp) for a range of frequencies ω, in two copies.
    Queries read the one, turned by ω times the head's shift s, and keys the other, so that the score of tokens p and
    p' is a sum of cos ω(p + s - p'), greatest at p' = p + s. From one copy, which also holds a part of each word,
    every token would match itself best, and [MASK] every other [MASK].
    """
    config, embeddings, device = model.config, model.encoder.embeddings, model.decoder_bias.device
    # radians a position
    frequencies = torch.logspace(math.log10(2), math.log10(0.02), config.hidden_size // 4, device=device)
    count, turned = len(frequencies), frequencies[:config.head_dim // 2]
    angles = torch.arange(config.max_position_embeddings, device=device).unsqueeze(1) * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1).repeat(1, 2)
    # a deviation of 1.5 times that of the words, so that both are seen
    embeddings.position_embeddings.weight[:, :4 * count] = 1.5 * math.sqrt(2) * config.initializer_range * waves
    embeddings.token_type_embeddings.weight.zero_()  # what all tokens have in common

    attention = model.encoder.layers[0].self_attention
    queries, keys, _ = attention.query_key_value.weight.chunk(3)
    queries.normal_(std=config.initializer_range)
    keys.normal_(std=config.initializer_range)
    sines = torch.arange(len(turned))  # of a head's rows and, in four blocks of `count`, of the hidden dimensions
    cosines = sines + len(turned)
    for head in range(config.num_attention_heads):
        shift = (head // 2 + 1) * (-1 if head % 2 == 0 else 1)
        of_head = slice(head * config.head_dim, (head + 1) * config.head_dim)
        query, key = queries[of_head], keys[of_head]
        query[sines, sines] += SHARPNESS * (turned * shift).cos()
        query[sines, sines + count] += SHARPNESS * (turned * shift).sin()
        query[cosines, sines] -= SHARPNESS * (turned * shift).sin()
        query[cosines, sines + count] += SHARPNESS * (turned * shift).cos()
        key[sines, sines + 2 * count] += SHARPNESS
        key[cosines, sines + 3 * count] += SHARPNESS


def set_dropout(model: nn.Module, share: float) -> None:
    """Of every layer and all attention weights; the model's config keeps what fine-tuning is to use."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, BertSelfAttention):
            module.dropout = share


class MaskedTrainer:
    """A batch in, one AdamW step out: clipped by the norm of the whole gradient, biases and LayerNorm not decayed.

    All that is trained is one vector, its gradient another. The pooler is left out where it has no gradient, so that
    weight decay does not shrink it.
    """

    def __init__(self, model: BertForMaskedLM, lr: float, weight_decay: float, clip: float, precision: str) -> None:
        self.model, self.clip, self.precision = model, clip, precision
        decayed, undecayed = ({name: value for name, value in group.items()
                               if model.uses_pooler or "pooler" not in name} for group in split_decayed(model))
        self.flat = FlatParameters([*decayed.items(), *undecayed.items()])
        self.gradients = TaskGradients(self.flat, tasks=1)
        self.device = self.flat.vector.device
        border = sum(value.numel() for value in decayed.values())
        groups = []
        for part, decay in ((slice(0, border), weight_decay), (slice(border, None), 0.0)):
            vector = nn.Parameter(self.flat.vector[part])
            vector.grad = self.gradients.matrix[0][part]
            groups.append({"params": [vector], "weight_decay": decay, "base_lr": lr})
        self.optimizer = AdamW(groups, betas=BETAS, eps=EPS)

    def step(self, batch: Batch, lr_scale: float = 1.0) -> dict[str, float]:
        """The mean losses of the batch before the update, as `losses_of` has them; their sum is what is lowered.

        Raises FloatingPointError for a loss or a gradient that is not finite; nothing is updated then.
        """
        self.model.train()
        with self.gradients.row(0) as gradient:
            with autocast(self.precision, self.device):
                found = losses_of(self.model, batch)
            sum(found.values()).backward()
        values = {name: finite_loss(LOSSES[name], loss.item()) for name, loss in found.items()}
        norm = gradient.norm().item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite, at a loss of {sum(values.values()):.4g}")
        if self.clip and norm > self.clip:
            gradient.mul_(self.clip / norm)
        scaled_step(self.optimizer, lr_scale)
        return values


def scores(model: BertForMaskedLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of the hidden tokens, (masked, vocab), and of what the segments are to each other, (batch, 2); None where
    that is not asked."""
    types, labels = batch.segments
    if labels is None:
        return model.masked_logits(batch.masked, batch.packing, types), None
    return model.packed_logits(batch.masked, batch.packing, types)


def losses_of(model: BertForMaskedLM, batch: Batch) -> dict[str, torch.Tensor]:
    """Mean cross entropies: "loss" over hidden tokens; "segment_loss" over sequences, where the batch has labels."""
    logits, relationship = scores(model, batch)
    found = {"loss": F.cross_entropy(logits, batch.masked.labels)}
    if relationship is not None:
        found["segment_loss"] = F.cross_entropy(relationship, batch.segments.labels)
    return found


@torch.no_grad()
def evaluate(model: BertForMaskedLM, batches: Sequence[Batch], precision: str) -> dict[str, float]:
    """Without dropout: over all masked tokens of the batches perplexity, e to the mean cross entropy, and accuracy;
    over all sequences "segment_accuracy", where the batches have labels."""
    model.eval()
    device = model.decoder_bias.device
    loss, right, count, segments_right, sequences = 0.0, 0, 0, 0, 0
    for batch in batches:
        batch = batch.to(device)
        labels = batch.masked.labels
        with autocast(precision, device):
            logits, relationship = scores(model, batch)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)
        if relationship is not None:
            segments_right += int((relationship.argmax(1) == batch.segments.labels).sum())
            sequences += len(relationship)
    found = {"perplexity": math.exp(min(loss / count, 700.0)), "masked_accuracy": right / count}
    return found | ({"segment_accuracy": segments_right / sequences} if sequences else {})


def state_of(trainer: MaskedTrainer) -> dict[str, torch.Tensor]:
    """Weights and moments, by name, for a checkpoint."""
    weights = {f"model.{name}": value.detach() for name, value in trainer.model.named_parameters()}
    return {**weights, **optimizer_state(trainer.optimizer)}


@torch.no_grad()
def restore(trainer: MaskedTrainer, tensors: dict[str, torch.Tensor]) -> None:
    """Weights and moments as they were when `state_of` was taken. Raises ValueError for those of another model."""
    check_like(tensors, {f"model.{name}": value for name, value in trainer.model.named_parameters()})
    for name, value in trainer.model.named_parameters():
        value.copy_(tensors[f"model.{name}"])
    load_optimizer_state(trainer.optimizer, tensors)
