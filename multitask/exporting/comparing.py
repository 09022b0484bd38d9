"""What formats share: padded batches of examples, and the answers of the run itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from minbert import BertModel, BertOutput
from multitask.data.examples import Example
from multitask.model import MultitaskBert
from multitask.tasks import Task

AT_ONCE = 32  # examples per padded batch of a comparison


def padded_batches(model: MultitaskBert,
                   examples: Sequence[Example]) -> Iterator[dict[str, torch.Tensor]]:
    """input_ids, attention_mask, token_type_ids: (rows, seq) int64.

    An example is one row; a pair that is encoded apart is two rows, one after the other.
    """
    tokens = model.tokenize(examples)
    for start in range(0, len(examples), AT_ONCE):
        yield tokens.batch(range(start, min(start + AT_ONCE, len(examples)))).padded()


def written_outputs(folder: Path, model: MultitaskBert, examples: Sequence[Example],
                    ) -> Iterator[tuple[BertOutput, torch.Tensor]]:
    """What the written encoder makes of the examples, in padded batches, and their masks."""
    encoder = BertModel.from_pretrained(folder)
    for inputs in padded_batches(model, examples):
        yield encoder(**inputs), inputs["attention_mask"]


def mean_of(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(rows, seq, hidden), (rows, seq) → (rows, hidden): the mean over each row's real tokens."""
    mask = mask.unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1)


def run_answers(model: MultitaskBert, task: Task, examples: Sequence[Example],
                pooling: str) -> torch.Tensor:
    """(n, classes) probabilities, or (n, 1) numbers on the scale, by the run's model."""
    return answers(task, model.predict_logits(task.name, model.tokenize(examples)))


def answers(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Logits (n, outputs) → (n, classes) probabilities, or (n, 1) numbers on the scale."""
    return task.probabilities(logits) if task.classes else task.decode(logits)[:, None]
