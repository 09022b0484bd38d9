"""One step of pretraining, its initial weights, and held-out scores."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from minbert import BertForMaskedLM
from minbert.attention import BertSelfAttention
from multitask.system.device import autocast
from multitask.training.optimizing import check_gradient, clip_scale, finite_loss, scaled_step
from optim import AdamW, FlatParameters, split_decayed

from .batches import MaskedBatch

BETAS = (0.9, 0.98)  # Liu et al. 2019, Table 9: in short runs steadier than 0.999
# A small BERT's queries and keys have gradients of 3e-7 per weight: at 1e-6 they would hardly move.
EPS = 1e-9
# with 4 heads of 64 in 256 dimensions: nine tenths of the attention on the neighbour
SHARPNESS = 1.7


@torch.no_grad()
def draw_attentive(model: BertForMaskedLM) -> None:
    """Changes a new model's initial weights, so that it learns early to look at other tokens.

    With N(0, 0.02²) for all weights (Devlin et al.), every token of a narrow model attends to all
    others equally. What it sees hardly reaches its output, and for many million tokens the model
    learns no more than a bag of words does. Here the heads of the first layer begin by looking at
    one neighbour each (`look_at_neighbours`). In the other layers, queries and keys give scores of
    deviation 3. Values, attention's output and the head's transform begin near a multiple of the
    identity, after Trockman and Kolter 2023, "Mimetic initialization of self-attention layers".
    Measurements: docs/log/2026-11-24.md, 19 and 22.
    """
    hidden = model.config.hidden_size
    identity = torch.eye(hidden)

    for layer in model.encoder.layers:
        weight = layer.self_attention.query_key_value.weight
        queries_keys, values = weight.split([2 * hidden, hidden])
        # inputs have deviation 1, so queries and keys have 1.7
        queries_keys.normal_(std=1.7 / math.sqrt(hidden))
        values.add_(identity, alpha=0.7)
        layer.attention_dense.weight.add_(identity, alpha=0.7)

    model.transform_dense.weight.add_(identity)
    look_at_neighbours(model)


@torch.no_grad()
def look_at_neighbours(model: BertForMaskedLM) -> None:
    """Makes the first layer's heads attend to neighbours: 1 before, 1 after, 2 before, and so on.

    Positions p are embedded as sin(ωp) and cos(ωp) for a range of frequencies ω, in two copies.
    Queries read one copy, rotated by ω times the head's shift s; keys read the other. So the score
    of tokens p and p' is a sum of cos ω(p + s - p'), greatest at p' = p + s. One copy alone also
    holds a part of each word: every token would match itself best, and [MASK] every other [MASK].
    """
    config, embeddings = model.config, model.encoder.embeddings

    # radians per position
    frequencies = torch.logspace(math.log10(2), math.log10(0.02), config.hidden_size // 4)
    count = len(frequencies)
    angles = torch.arange(config.max_position_embeddings).unsqueeze(1) * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], 1).repeat(1, 2)

    # 1.5 times the deviation of the words, so that neither hides the other
    scale = 1.5 * math.sqrt(2) * config.initializer_range
    embeddings.position_embeddings.weight[:, :4 * count] = scale * waves
    embeddings.token_type_embeddings.weight.zero_()  # what all tokens have in common

    attention = model.encoder.layers[0].self_attention
    queries, keys, _ = attention.query_key_value.weight.chunk(3)
    queries.normal_(std=config.initializer_range)
    keys.normal_(std=config.initializer_range)

    # rows of a head and, in four blocks of `count`, hidden dimensions
    turned = frequencies[:config.head_dim // 2]
    sines = torch.arange(len(turned))
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
    """Sets every dropout of the model; config keeps the value for fine-tuning."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(module, BertSelfAttention):
            module.dropout = share


class MaskedTrainer:
    """One AdamW step per batch, clipped by the norm of the whole gradient.

    All trained parameters are one vector, their gradient another. Biases and LayerNorm are not
    decayed. The pooler has no gradient here; it is left out, so that weight decay does not shrink
    it.
    """

    def __init__(self, model: BertForMaskedLM, lr: float, weight_decay: float, clip: float,
                 precision: str) -> None:
        self.model, self.clip, self.precision = model, clip, precision

        decayed, undecayed = [
            {name: value for name, value in group.items() if "pooler" not in name}
            for group in split_decayed(model)]
        self.flat = FlatParameters([*decayed.items(), *undecayed.items()])
        self.gradient = torch.zeros_like(self.flat.vector)
        views = self.flat.views(self.gradient)
        for parameter, view in zip(self.flat.parameters.values(), views, strict=True):
            parameter.grad = view  # backward adds to it
        self.device = self.flat.vector.device

        border = sum(value.numel() for value in decayed.values())
        groups = []
        for part, decay in ((slice(0, border), weight_decay), (slice(border, None), 0.0)):
            vector = nn.Parameter(self.flat.vector[part])
            vector.grad = self.gradient[part]
            groups.append({"params": [vector], "weight_decay": decay, "base_lr": lr})
        self.optimizer = AdamW(groups, betas=BETAS, eps=EPS)

    def step(self, batch: MaskedBatch, lr_scale: float = 1.0) -> float:
        """Updates the weights; returns the batch's mean loss before the update.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; nothing is updated then.
        """
        self.model.train()
        self.gradient.zero_()
        with autocast(self.precision, self.device):
            loss = loss_of(self.model, batch)
        loss.backward()

        value = finite_loss("masked tokens", loss.item())
        norm = self.gradient.norm().item()
        check_gradient("masked tokens", value, norm)
        self.gradient.mul_(clip_scale(self.clip, norm))
        scaled_step(self.optimizer, lr_scale)
        return value


def loss_of(model: BertForMaskedLM, batch: MaskedBatch) -> torch.Tensor:
    """The mean cross entropy over the hidden tokens; 0 where none could be hidden."""
    logits = model.masked_logits(*batch)
    if not len(logits):  # the mean of nothing would be NaN
        return logits.sum()
    return F.cross_entropy(logits, batch.masked.labels)


@torch.no_grad()
def evaluate(model: BertForMaskedLM, batches: Sequence[MaskedBatch],
             precision: str) -> dict[str, float]:
    """Perplexity, e^(mean cross entropy), and accuracy over all hidden tokens, without dropout.

    Raises:
        FloatingPointError: the cross entropy is not finite.
    """
    model.eval()
    device = model.decoder_bias.device

    loss, right, count = 0.0, 0, 0
    for on_cpu in batches:
        batch = on_cpu.to(device)
        labels = batch.masked.labels
        with autocast(precision, device):
            logits = model.masked_logits(*batch)

        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
        count += len(labels)

    mean = finite_loss("held-out tokens", loss / count)
    # e to the 700 is the largest power that a float holds, nearly
    return {"perplexity": math.exp(min(mean, 700.0)), "masked_accuracy": right / count}
