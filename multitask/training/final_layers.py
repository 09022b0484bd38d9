"""Final-layer fine-tuning (paper, section 4.3.3): heads on outputs of a frozen encoder.

A frozen encoder in eval mode gives a sentence the same output every time, so each output is
computed once. From then on an epoch costs what the heads cost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from minbert.progress import Progress
from minbert.sentences import evaluating
from multitask.data.batching import TokenizedExamples
from multitask.model import EVALUATION_BATCH, MultitaskBert
from multitask.system.distributed import ALONE, Ranks
from multitask.system.state import load_optimizer_state, optimizer_state
from optim import AdamW

from .optimizing import (
    check_gradient,
    check_length,
    clip_scale,
    finite_loss,
    head_groups,
    scaled_step,
    squared_norm,
)
from .step import StepResult


@dataclass(frozen=True)
class EmbeddedBatch:
    """embeddings: (examples, inputs of the head) float32. labels: (examples,) float32."""

    embeddings: torch.Tensor
    labels: torch.Tensor


class CachedEmbeddings:
    """The frozen encoder's outputs for one task's examples, each computed when it is first needed.

    Memory: examples × sequences of each × hidden × 4 bytes.

    Args:
        name: what the progress bar calls the examples.
        ranks: the processes that share the encoding; all ask for the same examples, and get all.
    """

    def __init__(self, model: MultitaskBert, examples: TokenizedExamples, name: str,
                 ranks: Ranks = ALONE) -> None:
        self.model, self.examples, self.name, self.ranks = model, examples, name, ranks
        width = model.encoder.config.hidden_size * examples.sequences_each
        self._rows = torch.zeros(len(examples), width, device="cpu")
        self._labels = torch.from_numpy(examples.labels)
        self._is_known = torch.zeros(len(examples), dtype=torch.bool, device="cpu")

    def batch(self, indices: Sequence[int]) -> EmbeddedBatch:
        """The examples at these indices, in this order, on the model's device."""
        self.compute(indices)
        device = self.model.device
        return EmbeddedBatch(self._rows[indices].to(device), self._labels[indices].to(device))

    @torch.no_grad()
    def compute(self, indices: Sequence[int]) -> None:
        """Encodes those examples that are not encoded yet, grouped by length."""
        indices = torch.as_tensor(indices, device="cpu")
        missing = indices[~self._is_known[indices]].unique()
        if not len(missing):
            return

        lengths = torch.from_numpy(self.examples.lengths[missing.numpy()])
        longest_first = (-lengths).argsort(stable=True)
        own = self.ranks.share(missing[longest_first].split(EVALUATION_BATCH))
        bar = Progress(total=sum(map(len, own)), desc=f"  encoding {self.name}", unit="ex",
                       leave=False, delay=1, disable=not self.ranks.writes)
        with evaluating(self.model), bar:
            for rows in own:
                batch = self.examples.batch(rows.tolist()).to(self.model.device)
                self._rows[rows] = self.model.embed(batch).cpu()
                bar.update(len(rows))

        if self.ranks.size > 1:
            encoded = self._rows[missing]  # each row is zeros in all processes but one
            self.ranks.start_sum(encoded)()
            self._rows[missing] = encoded
        self._is_known[missing] = True


class HeadTrainer:
    """Embedded batches in, one AdamW step of the heads out; the encoder is not touched.

    Args:
        clip: the largest norm of each head's gradient; 0 is off.
    """

    def __init__(self, model: MultitaskBert, tasks: Sequence[str], lr: float,
                 weight_decay: float = 0.0, clip: float = 0.0) -> None:
        self.model, self.clip = model, clip
        self.heads = nn.ModuleDict({name: model.heads[name] for name in tasks})
        self.optimizer = AdamW(head_groups(self.heads, weight_decay, lr))

    def step(self, batches: Mapping[str, EmbeddedBatch], lr_scale: float = 1.0) -> StepResult:
        """One update of the heads that have a batch; the others rest, weight decay included.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the error names the task, and
                nothing is updated.
        """
        self.optimizer.zero_grad(set_to_none=True)  # without a gradient, AdamW leaves a head alone
        losses = {}
        for name, batch in batches.items():
            head = self.heads[name]
            loss = self.model.tasks[name].loss(head(batch.embeddings), batch.labels)
            losses[name] = finite_loss(name, loss.item())
            loss.backward()

            square = squared_norm(head).item()
            check_gradient(name, losses[name], square)
            scale = clip_scale(self.clip, math.sqrt(square))
            check_length(name, scale**2 * square)
            for parameter in head.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        scaled_step(self.optimizer, lr_scale)
        return StepResult(losses)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Optimizer moments and steps as tensors by name; the weights are the model's."""
        return optimizer_state(self.optimizer)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue exactly where `state_dict` was taken."""
        load_optimizer_state(self.optimizer, state)
