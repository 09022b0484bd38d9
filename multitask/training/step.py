"""One step of multi-task training with gradient surgery (the paper, section 4.3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from minbert.embeddings import sparse_embedding_gradients
from minbert.fast.layer import gradients_in_place
from minbert.fast.linear import weights_cast_once
from multitask.data.batching import LEAST, Batch, Pieces
from multitask.model import MultitaskBert
from multitask.system.device import PRODUCT_DTYPES
from multitask.system.distributed import ALONE, Ranks
from multitask.system.state import load_optimizer_state, optimizer_state, set_generator
from optim import SURGERY, AdamW, FlatParameters, TaskGradients, norm_of_combination, split_decayed

from . import all_at_once as together
from .cuda_graphs import BackwardGraphs

TABLE = "embeddings.word_embeddings.weight"  # the encoder's parameter of which a step touches a few rows only

Surgery = Callable[..., torch.Tensor]  # (tasks, tasks) Gram matrix, generator=… → (tasks,) weights


@dataclass(frozen=True)
class StepResult:
    """losses: task → mean loss. gram: (tasks, tasks), products of the encoder's gradients. weights: (tasks,).

    The last two are None where the encoder is frozen.
    """

    losses: dict[str, float]
    gram: torch.Tensor | None = None
    weights: torch.Tensor | None = None


class SurgeryTrainer:
    """Batches of all tasks in, one AdamW step out.

    The encoder's parameters are one vector, the tasks' gradients of it the rows of one matrix (and, for the word
    embeddings, the few rows that were looked up); surgery sees nothing else. Each head's gradient is that of its own
    task, as backward leaves it.
    """

    def __init__(self, model: MultitaskBert, surgery: str | Surgery, lr: float, weight_decay: float = 0.0,
                 clip: float = 0.0, seed: int = 0, tasks: Sequence[str] | None = None,
                 head_lr: float | None = None, ranks: Ranks = ALONE) -> None:
        """surgery: a name from optim.SURGERY, or a function of the Gram matrix like those. clip: the largest norm of
        the whole gradient, encoder and heads; 0 is off. seed: of surgery's order. tasks: those that are trained, in
        the order of the gradient matrix's rows; all of the model's if not given. head_lr: of the heads; `lr` if not
        given. ranks: the processes that share each batch."""
        self.ranks = ranks
        self.model, self.clip = model, clip
        self.tasks = tuple(model.tasks) if tasks is None else tuple(tasks)
        self.heads = nn.ModuleDict({name: model.heads[name] for name in self.tasks})
        self.surgery = SURGERY[surgery] if isinstance(surgery, str) else surgery
        self.generator = torch.Generator().manual_seed(seed)
        fills, device = model.encoder.config.max_position_embeddings >= LEAST, model.device.type
        self._graphs = BackwardGraphs(self._backward_pieces, self.heads) if fills and device == "cuda" else None
        # the library of products keeps memory for each shape that it has met, and holes are left by ever other sizes
        self._fills = fills and device == "cpu"
        decayed, undecayed = split_decayed(model.encoder)
        self.flat = FlatParameters([*decayed.items(), *undecayed.items()])
        # only on a CPU does backward leave the table's gradient sparse (sparse_embedding_gradients), and a sum over
        # processes needs rows of one layout
        compact = model.device.type == "cpu" and ranks.size == 1
        self.gradients = TaskGradients(self.flat, len(self.tasks), TABLE if compact else None)
        table = decayed.pop(TABLE)
        first, *parts = self.flat.vector.split([sum(value.numel() for value in values) for values in (
            [table], decayed.values(), undecayed.values())])
        self.vectors = [nn.Parameter(part) for part in (first.view_as(table), *parts)]
        self.optimizer = AdamW([{"params": self.vectors[:2], "weight_decay": weight_decay, "base_lr": lr},
                                {"params": self.vectors[2:], "weight_decay": 0.0, "base_lr": lr},
                                *head_groups(self.heads, weight_decay, lr if head_lr is None else head_lr)])

    def step(self, batches: Mapping[str, Batch | Pieces], lr_scale: float = 1.0) -> StepResult:
        """A gradient for each task, surgery, one update, the same in every process.

        A batch is whole, or what this process computes of it. The tasks' forwards and backwards are one where
        `together.applies`, else one after another; while the next task is computed, a task's gradient is summed over
        the processes.

        Raises FloatingPointError, naming the task, for a loss or a gradient that is not finite; nothing is updated
        then.
        """
        self.heads.zero_grad(set_to_none=True)  # an earlier step may have stopped half-way
        with weights_cast_once(self.model.encoder, PRODUCT_DTYPES[self.model.precision]):
            values = self._backward([_pieces(batches[name]) for name in self.tasks])
        gram = self.gradients.gram()  # first of all that a GPU's answer is waited for
        losses = self._losses(values)
        squares = dict(zip(self.tasks, torch.stack([*map(squared_norm, self.heads.values())]).tolist(), strict=True))
        for row, name in enumerate(self.tasks):
            check_gradient(name, losses[name], float(gram[row, row]), squares[name])
        weights = self.surgery(gram, generator=self.generator)
        norm = norm_of_combination(gram, weights)
        scale = self._clip_scale(norm, squares)
        check_length("all tasks together", (scale * norm)**2, *(scale**2 * square for square in squares.values()))
        self._take(*self.gradients.combine_(weights * scale))
        for parameter in self.heads.parameters():
            parameter.grad.mul_(scale)
        scaled_step(self.optimizer, lr_scale)
        return StepResult(losses, gram, weights)

    def _backward(self, shares: Sequence[Pieces]) -> list[torch.Tensor]:
        """Fills the gradient matrix from each task's share; returns what the shares add to the tasks' mean losses."""
        if self.ranks.size == 1 and self._graphs is None and all(map(_is_whole, shares)):
            wholes = {name: pieces.batches[0] for name, pieces in zip(self.tasks, shares, strict=True)}
            if together.applies(self.model, wholes):
                return together.backward(self.model, self.gradients, {
                    name: self._prepared(batch) for name, batch in wholes.items()})
        values, waits = [], []
        for row, (name, pieces) in enumerate(zip(self.tasks, shares, strict=True)):
            graphed = self._graphs is not None and len(pieces.batches) == 1
            values.append(self._graphs(row, name, *pieces.batches, pieces.examples) if graphed else
                          self._backward_pieces(row, name, pieces))
            waits.append(self.ranks.start_sum(self.gradients.matrix[row]))
        for wait in waits:
            wait()
        return values

    def _backward_pieces(self, row: int, name: str, pieces: Pieces) -> torch.Tensor:
        encoder = self.model.encoder
        with (self.gradients.row(row), sparse_embedding_gradients(encoder),
              gradients_in_place(encoder, [self.gradients.views(row)])):
            values = [self._backward_piece(name, piece, pieces.examples) for piece in pieces.batches]
        return sum(values, torch.zeros((), device=self.model.device))

    def _backward_piece(self, name: str, piece: Batch, examples: int) -> torch.Tensor:
        """Adds the gradient of a piece's share of the mean over `examples`; its graph is gone when this returns."""
        piece = self._prepared(piece)
        mean = self.model.tasks[name].loss(self.model(name, piece), piece.labels)
        loss = mean * (len(piece.labels) / examples)
        loss.backward()
        return loss.detach()

    def _prepared(self, piece: Batch) -> Batch:
        return piece.in_few_lengths() if self._fills else piece.to(self.model.device)

    def _losses(self, values: Sequence[torch.Tensor]) -> dict[str, float]:
        """Completes the losses and the heads' gradients with those of the other processes.

        Raises FloatingPointError, in every process, for a loss that is not finite.
        """
        losses = torch.stack(list(values))
        for parameter in self.heads.parameters():
            if parameter.grad is None:  # a process with no examples of a task
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.sum([losses, *(parameter.grad for parameter in self.heads.parameters())])
        return {name: finite_loss(name, loss) for name, loss in zip(self.tasks, losses.tolist(), strict=True)}

    def _take(self, row: torch.Tensor, table: torch.Tensor | None) -> None:
        """Makes the combined gradient that of the optimizer's vectors; `row` is without the table's part if that is
        given."""
        vectors = self.vectors
        if table is not None:
            vectors[0].grad, vectors = table, vectors[1:]
        for vector, part in zip(vectors, row.split([vector.numel() for vector in vectors]), strict=True):
            vector.grad = part.view_as(vector)

    def _clip_scale(self, encoder_norm: float, head_squares: Mapping[str, float]) -> float:
        """min(1, clip / ‖gradient‖) over encoder and heads together (Pascanu et al. 2013)."""
        if not self.clip:
            return 1.0
        return min(1.0, self.clip / max(math.sqrt(encoder_norm**2 + sum(head_squares.values())), 1e-12))

    @property
    def learning_rate(self) -> float:
        """Of the last step; the encoder's where it is trained, else the heads'."""
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Optimizer moments and steps, and surgery's generator, as tensors by name; the weights are the model's."""
        return {**optimizer_state(self.optimizer), "surgery.generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on exactly where `state_dict` was taken."""
        load_optimizer_state(self.optimizer, state)
        set_generator(self.generator, state["surgery.generator"])


def _pieces(batch: Batch | Pieces) -> Pieces:
    return Pieces([batch], len(batch.labels)) if isinstance(batch, Batch) else batch


def _is_whole(pieces: Pieces) -> bool:
    return [len(batch.labels) for batch in pieces.batches] == [pieces.examples]


def head_groups(heads: nn.Module, weight_decay: float, lr: float) -> list[dict]:
    """The heads' parameters for AdamW, biases without decay; `base_lr` is what the schedule scales."""
    decayed, undecayed = split_decayed(heads)
    return [{"params": list(decayed.values()), "weight_decay": weight_decay, "base_lr": lr},
            {"params": list(undecayed.values()), "weight_decay": 0.0, "base_lr": lr}]


def scaled_step(optimizer: AdamW, lr_scale: float) -> None:
    """One update at lr_scale times each group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_scale
    optimizer.step()


def finite_loss(name: str, loss: float) -> float:
    """The loss. Raises FloatingPointError, naming the task, if it is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of {name} is {loss}")
    return loss


def squared_norm(module: nn.Module) -> torch.Tensor:
    """‖gradient‖², a number in float64, where the square of one that float32 holds never overflows."""
    return sum(parameter.grad.double().square().sum() for parameter in module.parameters())


def check_gradient(name: str, loss: float, *squares: float) -> None:
    """Raises FloatingPointError, naming the task, for a squared norm that is not finite."""
    if not all(map(math.isfinite, squares)):
        raise FloatingPointError(f"the gradient of {name} is not finite, at a loss of {loss:.4g}")


def check_length(name: str, *squares: float) -> None:
    """Raises FloatingPointError for a gradient whose square AdamW's second moment, in float32, cannot hold: the
    moment would be infinite, and the parameters would stand still from then on without a word."""
    if not max(squares) <= torch.finfo(torch.float32).max:
        raise FloatingPointError(f"the gradient of {name} has length {math.sqrt(max(squares)):.3g}, whose square "
                                 "float32 does not hold; --clip shortens it")
