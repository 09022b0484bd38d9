"""One step of multi-task training with gradient surgery (the paper, section 4.3.2)."""

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from minbert import BertModel, fast
from multitask.data.batching import LEAST, Batch, MicroBatches
from multitask.model import MultitaskBert
from multitask.system.device import PRODUCT_DTYPES
from multitask.system.distributed import ALONE, Ranks
from multitask.system.state import load_optimizer_state, optimizer_state, set_generator
from optim import (
    AdamW,
    FlatParameters,
    Method,
    TaskGradients,
    norm_of_combination,
    split_decayed,
)

from . import all_at_once
from .cuda_graphs import BackwardGraphs
from .optimizing import (
    check_gradient,
    check_length,
    clip_scale,
    finite_loss,
    head_groups,
    scaled_step,
    squared_norm,
)

ENCODER = "encoder"  # surgery_by: one Gram matrix for all of it
GENERATOR, STATE = "surgery.generator", "surgery.state."  # names in a checkpoint
TABLE = "embeddings.word_embeddings.weight"  # of which a step touches a few rows only

Surgery = Callable[..., torch.Tensor]  # (tasks, tasks) Gram matrix, generator=… → (tasks,) weights


@dataclass(frozen=True)
class StepResult:
    """What a step was.

    Attributes:
        losses: task → mean loss.
        gram: (tasks, tasks), products of the tasks' encoder gradients; None if it is frozen.
        weights: (tasks,), what surgery multiplied them by, the mean over groups of parameters;
            None if it is frozen.
    """

    losses: dict[str, float]
    gram: torch.Tensor | None = None
    weights: torch.Tensor | None = None


def _is_trained(part: nn.Parameter | nn.Module | None) -> bool:
    """Whether it is a parameter, or a module that has some."""
    if isinstance(part, nn.Module):
        return next(part.parameters(), None) is not None
    return part is not None


class SurgeryTrainer:
    """Batches of all tasks in, one AdamW step out.

    The encoder's parameters are one vector and the tasks' gradients of it the rows of one matrix
    (and, for the word embeddings, the few rows that were looked up). The losses are never added:
    these gradients are, after surgery. Each head keeps the gradient of its own task.

    A schedule goes through `lr_scale` of `step`, not through torch's schedulers: each step sets the
    optimizer's learning rates. Before you pickle the model, call `flat.release()`: pickle would
    write the whole vector once per parameter. It ends the training; torch.save needs no release.

    Args:
        surgery: a name from optim.SURGERY, with options if need be, or a function of the Gram
            matrix like those. With one task the gradient stays as it is.
        surgery_by: the groups of encoder parameters that have a Gram matrix and weights of their
            own: "encoder" is one for all, "layer" one per layer, "block=3" one per three layers.
        lr, weight_decay: of AdamW; biases and LayerNorm have no decay.
        clip: the largest norm of the whole gradient, encoder and heads; 0 is off.
        seed: of surgery's order.
        tasks: those that are trained, in the order of the matrix's rows; by default the model's.
        head_lr: learning rate of the heads; by default `lr`.
        ranks: the processes that share each batch.
        at_once: how many of the tasks a step has; by default all. The heads of the others rest.

    Attributes:
        epoch: its number, for methods that ask for it.
    """

    def __init__(self, model: MultitaskBert, surgery: str | Surgery, lr: float,
                 weight_decay: float = 0.0, clip: float = 0.0, seed: int = 0,
                 tasks: Sequence[str] | None = None, head_lr: float | None = None,
                 ranks: Ranks = ALONE, surgery_by: str = ENCODER,
                 at_once: int | None = None) -> None:
        self.model, self.clip, self.ranks = model, clip, ranks
        self.tasks = tuple(model.tasks) if tasks is None else tuple(tasks)
        self.heads = nn.ModuleDict({name: model.heads[name] for name in self.tasks})
        self.epoch = 0
        self.generator = torch.Generator().manual_seed(seed)

        # The encoder as one vector, the table of word embeddings first.
        decayed, undecayed = split_decayed(model.encoder)
        self.flat = FlatParameters([*decayed.items(), *undecayed.items()])
        self._frozen = self.flat.frozen()  # they stay where they are: no gradient, no decay
        if self._frozen and weight_decay:
            raise ValueError(f"{self._frozen[0]} is frozen, but weight decay would move it: take "
                             "weight_decay=0")
        # Only a CPU leaves the table's gradient sparse, and a sum over processes needs whole rows.
        has_fast_forms = isinstance(model.encoder, BertModel) and not fast.is_plain()
        is_sparse = (has_fast_forms and ranks.size == 1
                     and next(iter(self.flat.parameters)) == TABLE
                     and fast.can_be_sparse(model.encoder.embeddings.word_embeddings))
        self.at_once = at_once or len(self.tasks)
        self.gradients = TaskGradients(self.flat, self.at_once, TABLE if is_sparse else None,
                                       watched=False)
        self.groups = self.gradients.groups(lambda name: group_of(name, surgery_by))
        chosen = surgery if self.at_once > 1 else "sum"
        # each has its own state
        self.methods = {name: Method(copy.deepcopy(chosen)) for name in self.groups}

        # What AdamW updates: three parts of that vector (the first parameter, for minbert the
        # table, by itself), and the heads.
        first = decayed.pop(next(iter(decayed)))
        sizes = [sum(value.numel() for value in values)
                 for values in ([first], decayed.values(), undecayed.values())]
        parts = self.flat.vector.split(sizes)
        self.vectors = [nn.Parameter(part) for part in (parts[0].view_as(first), *parts[1:])]
        self.optimizer = AdamW([
            {"params": self.vectors[:2], "weight_decay": weight_decay, "base_lr": lr},
            {"params": self.vectors[2:], "weight_decay": 0.0, "base_lr": lr},
            *head_groups(self.heads, weight_decay, lr if head_lr is None else head_lr)])

        # On a GPU a task's forward and backward are launched as one graph. On a CPU the library of
        # products keeps memory for every shape that it meets, so rows are filled up to a few
        # lengths.
        positions = model.encoder.config.max_position_embeddings
        fills = has_fast_forms and positions >= LEAST and fast.applies(model.encoder)
        self._fills = fills and model.device.type == "cpu"
        self._graphs = None
        if fills and model.device.type == "cuda":
            self._graphs = BackwardGraphs(self._backward_task, self.heads)

        # What the model is made of: `step` looks whether it still is.
        self._made_of = [(model._modules, "encoder", model.encoder)]
        self._made_of += [(model.heads._modules, name, head) for name, head in self.heads.items()]
        for part in (*model.encoder.modules(), *self.heads.modules()):
            for held in (part._parameters, part._modules):
                self._made_of += [(held, name, value) for name, value in held.items()
                                  if _is_trained(value)]

    def step(self, batches: Mapping[str, Batch | MicroBatches],
             lr_scale: float = 1.0) -> StepResult:
        """A gradient for each task, surgery, one update; the same update in every process.

        Args:
            batches: task → its batch, whole, or as micro-batches of what this process computes of
                it. Of `at_once` tasks.
            lr_scale: factor of the learning rates, from the schedule.

        Raises:
            FloatingPointError: a loss or gradient is not finite; the error names the task, and
                nothing is updated.
            SurgeryError: a surgery method of one's own failed.
            ValueError: since the trainer was made, parameters were frozen, released, moved, cast or
                replaced; or the batches are of other, more or fewer tasks.
        """
        if self.flat.frozen() != self._frozen:
            raise ValueError("parameters were frozen or released since the trainer was made, and "
                             "their moments would move them: make a new trainer")
        if self.flat.moved() or any(held.get(name) is not value
                                    for held, name, value in self._made_of):
            raise ValueError("parts of the model were moved, cast, copied or replaced since the "
                             "trainer was made, and it would not train them: make a new trainer")
        shares = {name: MicroBatches.of(batches[name]) for name in self.tasks if name in batches}
        if not len(batches) == len(shares) == self.at_once:
            raise ValueError(f"batches of {', '.join(batches)}; a step takes {self.at_once} of "
                             f"{', '.join(self.tasks)}")
        # An earlier step may have stopped half-way. Without a gradient AdamW leaves a head alone.
        self.heads.zero_grad(set_to_none=True)
        heads = nn.ModuleDict({name: self.heads[name] for name in shares})
        with (torch.autocast(self.model.device.type, enabled=False),  # the caller's
              fast.weights_cast_once(self.model.encoder, PRODUCT_DTYPES[self.model.precision])):
            values = self._backward(shares)

        # Surgery: the weights of the tasks' gradients, from their Gram matrix.
        grams = self.gradients.grams(self.groups)  # before anything else waits for a GPU's answer
        gram = sum(grams.values())
        losses = self._sum_over_ranks(heads, values)
        squares = self._check(heads, losses, gram)
        seen = {"generator": self.generator, "epoch": self.epoch,
                "losses": gram.new_tensor(list(losses.values()))}
        weights = {name: method(grams[name], **seen) for name, method in self.methods.items()}

        # Clipping: encoder and heads together.
        norm = math.hypot(*(norm_of_combination(grams[name], weights[name]) for name in grams))
        scale = clip_scale(self.clip, math.sqrt(norm**2 + sum(squares.values())))
        head_squares = [scale**2 * square for square in squares.values()]
        check_length("all tasks together", (scale * norm)**2, *head_squares)

        # The update.
        scaled = {name: scale * values for name, values in weights.items()}
        self._set_encoder_gradient(*self.gradients.combine_groups_(self.groups, scaled))
        for parameter in heads.parameters():
            parameter.grad.mul_(scale)
        scaled_step(self.optimizer, lr_scale)
        self._observe(shares)
        return StepResult(losses, gram, torch.stack(list(weights.values())).mean(0))

    def _backward(self, shares: Mapping[str, MicroBatches]) -> list[torch.Tensor]:
        """Fill the gradient matrix; return each share's part of its task's mean loss."""
        is_alone = self.ranks.size == 1 and self._graphs is None
        if is_alone and all(share.is_whole for share in shares.values()):
            whole = {name: share.batches[0] for name, share in shares.items()}
            if all_at_once.applies(self.model, whole):
                prepared = {name: self._prepared(batch) for name, batch in whole.items()}
                return all_at_once.backward(self.model, self.gradients, prepared)

        values, waits = [], []
        has_graphs = self._graphs is not None and self._graphs.hold_for(self.model)
        for row, (name, share) in enumerate(shares.items()):
            is_graphed = has_graphs and len(share.batches) == 1
            backward = self._graphs if is_graphed else self._backward_task
            values.append(backward(row, name, share))
            # While the next task is computed, this row is summed over the processes.
            waits.append(self.ranks.start_sum(self.gradients.matrix[row]))
        for wait in waits:
            wait()
        return values

    def _backward_task(self, row: int, name: str, share: MicroBatches) -> torch.Tensor:
        """The gradient of one task into its row, each graph freed before the next is built."""
        encoder = self.model.encoder
        total = torch.zeros((), device=self.model.device)
        with (self.gradients.row(row), fast.sparse_embedding_gradients(encoder),
              fast.accumulate_into([self.gradients.views(row)])):
            for loss in self._losses(name, share):
                loss.backward()
                total = total + loss.detach()
        return total

    def _losses(self, name: str, share: MicroBatches) -> Iterator[torch.Tensor]:
        """What each micro-batch adds to the task's mean loss."""
        for batch in map(self._prepared, share.batches):
            mean = self.model.tasks[name].loss(self.model(name, batch), batch.labels)
            yield mean * (len(batch.labels) / share.examples)

    def _prepared(self, batch: Batch) -> Batch:
        return batch.in_few_lengths() if self._fills else batch.to(self.model.device)

    def _observe(self, shares: Mapping[str, MicroBatches]) -> None:
        """Shows the losses on the same batches, after the update, to methods that ask for them."""
        observers = [method.observe for method in self.methods.values() if method.observe]
        if not observers:
            return
        losses = torch.zeros(len(shares), device=self.model.device)
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            for row, (name, share) in enumerate(shares.items()):
                for loss in self._losses(name, share):
                    losses[row] += loss
        self.ranks.sum([losses])
        if torch.isfinite(losses).all():  # else the next step says so, and nothing is learnt of it
            for observe in observers:
                observe(losses.cpu())

    def _sum_over_ranks(self, heads: nn.ModuleDict,
                        values: Sequence[torch.Tensor]) -> dict[str, float]:
        """Complete the losses and the heads' gradients with those of the other processes.

        Raises FloatingPointError, in every process, for a loss that is not finite.
        """
        losses = torch.stack(list(values))
        for parameter in heads.parameters():
            if parameter.grad is None:  # a process with no examples of a task
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.sum([losses, *(parameter.grad for parameter in heads.parameters())])

        named = zip(heads, losses.tolist(), strict=True)
        return {name: finite_loss(name, loss) for name, loss in named}

    def _check(self, heads: nn.ModuleDict, losses: Mapping[str, float],
               gram: torch.Tensor) -> dict[str, float]:
        """The squared norms of the heads' gradients, after a look at all norms."""
        squares = [squared_norm(head) for head in heads.values()]
        squares = torch.stack([square.to(squares[0].device) for square in squares]).tolist()
        for row, name in enumerate(heads):
            check_gradient(name, losses[name], float(gram[row, row]), squares[row])
        return dict(zip(heads, squares, strict=True))

    def _set_encoder_gradient(self, row: torch.Tensor, table: torch.Tensor | None) -> None:
        """Gives the optimizer the combined gradient; `row` lacks a table's part."""
        vectors = self.vectors
        if table is not None:
            vectors[0].grad, vectors = table, vectors[1:]
        parts = row.split([vector.numel() for vector in vectors])
        for vector, part in zip(vectors, parts, strict=True):
            vector.grad = part.view_as(vector)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments, step count, surgery's generator and state; the weights are the model's."""
        state = {f"{STATE}{group}.{name}": value for group, method in self.methods.items()
                 for name, value in method.state.items()}
        return {**optimizer_state(self.optimizer), GENERATOR: self.generator.get_state(), **state}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue exactly where `state_dict` was taken."""
        load_optimizer_state(self.optimizer, state)
        set_generator(self.generator, state, GENERATOR)
        for group, method in self.methods.items():
            start = f"{STATE}{group}."
            method.load_state({name.removeprefix(start): value for name, value in state.items()
                               if name.startswith(start)})


def group_of(name: str, surgery_by: str) -> str:
    """The group of an encoder parameter: "encoder", "layer 3", or "embeddings".

    >>> group_of("layers.5.attention_dense.weight", "block=3")
    'layers 3 to 5'
    >>> group_of("pooler_dense.bias", "layer"), group_of("pooler_dense.bias", "encoder")
    ('pooler', 'encoder')
    """
    size = layers_at_once(surgery_by)
    if size is None:
        return ENCODER
    found = re.search(r"(?:^|\.)layers?\.(\d+)\.", name)  # transformers: encoder.layer.3.
    if found is None:
        return "embeddings" if "embeddings" in name else "pooler"
    start = int(found[1]) // size * size
    return f"layer {start}" if size == 1 else f"layers {start} to {start + size - 1}"


def layers_at_once(surgery_by: str) -> int | None:
    """How many layers share weights; None is the whole encoder. ValueError for another text."""
    if surgery_by == ENCODER:
        return None
    kind, _, count = surgery_by.partition("=")
    if kind == "layer" and not count:
        return 1
    if kind == "block" and count.isdecimal() and int(count) > 0:
        return int(count)
    raise ValueError(f"--surgery-by {surgery_by}: expected encoder, layer, or block=K, K layers "
                     "each")
