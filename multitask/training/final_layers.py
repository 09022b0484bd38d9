"""Final-layer fine-tuning (the paper, section 4.3.3): heads trained on the outputs of a frozen encoder.

A frozen encoder in eval mode gives a sentence the same output every time, so each is computed once; from then on an
epoch costs what the heads cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from multitask.data.batching import TokenizedExamples
from multitask.model import EVALUATION_BATCH, MultitaskBert
from multitask.system.distributed import ALONE, Ranks
from multitask.system.state import check_like, load_optimizer_state, optimizer_state
from optim import AdamW

from .step import (
    StepResult,
    check_gradient,
    check_length,
    finite_loss,
    head_groups,
    scaled_step,
    squared_norm,
)


@dataclass(frozen=True)
class EmbeddedBatch:
    """embeddings: (examples, inputs of the head) float32. labels: (examples,) float32."""

    embeddings: torch.Tensor
    labels: torch.Tensor


class Embeddings:
    """The frozen encoder's outputs for one task's examples, each computed when it is first asked for.

    Memory: examples × hidden × 4 bytes, twice that where the sentences of a pair go in apart.
    """

    def __init__(self, model: MultitaskBert, examples: TokenizedExamples, name: str, ranks: Ranks = ALONE) -> None:
        """name: what the progress bar calls them. ranks: the processes that share the encoding; all ask for the same
        examples, and all have all outputs."""
        self.model, self.examples, self.name, self.ranks = model, examples, name, ranks
        width = model.encoder.config.hidden_size * examples.sequences_each
        self._rows = torch.zeros(len(examples), width)
        self.calls = torch.zeros(len(examples), dtype=torch.int32)  # in which call of `compute`, from 1; 0: not yet
        self._labels = torch.from_numpy(examples.labels)

    def batch(self, indices: Sequence[int]) -> EmbeddedBatch:
        """The examples at these indices, in this order, on the model's device."""
        self.compute(indices)
        device = self.model.device
        return EmbeddedBatch(self._rows[indices].to(device), self._labels[indices].to(device))

    @torch.no_grad()
    def compute(self, indices: Sequence[int]) -> None:
        """Encodes those of the examples that have not been encoded yet, sentences of like length together."""
        indices = torch.as_tensor(indices)
        missing = indices[self.calls[indices] == 0].unique()
        if not len(missing):
            return
        was_training = self.model.training
        self.model.eval()
        order = missing[torch.from_numpy(-self.examples.lengths[missing.numpy()]).argsort(stable=True)]
        own = self.ranks.share(order.split(EVALUATION_BATCH))
        with tqdm(total=sum(map(len, own)), desc=f"  encoding {self.name}", unit="ex", leave=False, delay=1,
                  disable=not self.ranks.writes) as bar:
            for rows in own:
                batch = self.examples.batch(rows.tolist()).to(self.model.device)
                self._rows[rows] = self.model.embed(batch).cpu()
                bar.update(len(rows))
        if self.ranks.size > 1:
            encoded = self._rows[missing]  # of which each row is another's zeros
            self.ranks.start_sum(encoded)()
            self._rows[missing] = encoded
        self.calls[missing] = self.calls.max() + 1
        self.model.train(was_training)

    def restore(self, calls: torch.Tensor) -> None:
        """Encodes again what `calls` says had been encoded, in the same batches: others would give other last bits.

        Raises ValueError if it says what no calls leave: each encodes at least one example.
        """
        check_like({"calls": calls}, {"calls": self.calls})
        if not 0 <= calls.min() <= calls.max() <= len(calls):
            raise ValueError(f"the calls that encoded {self.name} are said to be {int(calls.min())} to "
                             f"{int(calls.max())}, expected 0 to {len(calls)} at most")
        for call in range(1, int(calls.max()) + 1):
            self.compute(torch.nonzero(calls == call).flatten())


class HeadTrainer:
    """Embedded batches of some tasks in, one AdamW step of their heads out; the encoder is not touched."""

    def __init__(self, model: MultitaskBert, tasks: Sequence[str], lr: float, weight_decay: float = 0.0,
                 clip: float = 0.0) -> None:
        """clip: the largest norm of each head's gradient; 0 is off."""
        self.model, self.clip = model, clip
        self.heads = nn.ModuleDict({name: model.heads[name] for name in tasks})
        self.optimizer = AdamW(head_groups(self.heads, weight_decay, lr))

    def step(self, batches: Mapping[str, EmbeddedBatch], lr_scale: float = 1.0) -> StepResult:
        """One update of the heads that have a batch; the others rest, weight decay included.

        Raises FloatingPointError, naming the task, for a loss or a gradient that is not finite; nothing is updated
        then.
        """
        self.optimizer.zero_grad(set_to_none=True)  # without a gradient, AdamW leaves a head alone
        losses = {}
        for name, batch in batches.items():
            loss = self.model.tasks[name].loss(self.heads[name](batch.embeddings), batch.labels)
            losses[name] = finite_loss(name, loss.item())
            loss.backward()
            square = squared_norm(self.heads[name]).item()
            check_gradient(name, losses[name], square)
            scale = min(1.0, self.clip / max(math.sqrt(square), 1e-12)) if self.clip else 1.0
            check_length(name, scale**2 * square)
            if scale < 1:
                for parameter in self.heads[name].parameters():
                    parameter.grad.mul_(scale)
        scaled_step(self.optimizer, lr_scale)
        return StepResult(losses)

    @property
    def learning_rate(self) -> float:
        """Of the last step; the encoder's where it is trained, else the heads'."""
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Optimizer moments and steps as tensors by name; the weights are the model's."""
        return optimizer_state(self.optimizer)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on exactly where `state_dict` was taken."""
        load_optimizer_state(self.optimizer, state)
