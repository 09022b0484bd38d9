"""transformers' Trainer with gradient surgery: one shared encoder, one head per task.

    pip install transformers accelerate
    python examples/hf_trainer.py
    torchrun --nproc_per_node=2 examples/hf_trainer.py

MultitaskTrainer is all that is special here. Accumulation, clipping, mixed precision, schedules and
several processes are the Trainer's own. Any encoder with a pooler_output will do, for example
transformers.AutoModel.from_pretrained("bert-base-uncased").
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import Trainer, TrainingArguments

from minbert import BertModel, BertTokenizer
from multitask.data import load_dataset
from multitask.data.examples import Example
from multitask.data.sample import write_sample
from multitask.tasks import TASKS
from optim import average_gradients, multitask_backward


class OneEncoder(nn.Module):
    """A task and its padded batch in, the task's loss out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({
            name: nn.Linear(encoder.config.hidden_size, task.outputs)
            for name, task in TASKS.items()})

    def forward(self, task: str, labels: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        pooled = self.encoder(**inputs).pooler_output
        return TASKS[task].loss(self.heads[task](pooled).float(), labels)


class MultitaskTrainer(Trainer):
    """A Trainer whose batches are task → inputs, and whose model has an encoder and heads.

    With several processes, each task's gradient is averaged over them before surgery. This is exact
    where all processes have equally many examples of a task.
    """

    def __init__(self, *args, method: str = "pcgrad", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.method = method
        self.generator = torch.Generator().manual_seed(self.args.seed)  # the same in all processes

    def training_step(self, model: nn.Module, inputs: Mapping[str, Mapping[str, torch.Tensor]],
                      num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        model.train()
        # DistributedDataParallel would average after surgery, and only once per forward pass.
        model = self.accelerator.unwrap_model(model)
        scaler = self.accelerator.scaler  # None except for float16
        group = dist.group.WORLD if self.args.world_size > 1 else None
        # older versions of transformers lack the first
        accumulated = getattr(self, "current_gradient_accumulation_steps",
                              self.args.gradient_accumulation_steps)

        def losses() -> Iterator[torch.Tensor]:
            for task, batch in self._prepare_inputs(inputs).items():
                loss = model(task, **batch) / accumulated
                yield loss if scaler is None else scaler.scale(loss)

        result = multitask_backward(losses(), model.encoder.parameters(), self.method,
                                    self.generator, group=group,
                                    scale=1.0 if scaler is None else scaler.get_scale())
        if group is not None:
            average_gradients(model.heads.parameters(), group)
        total = result.losses.sum()
        return total if scaler is None else total / scaler.get_scale()


def rows_of(examples: Mapping[str, Sequence[Example]]) -> list[dict[str, Example]]:
    """Row i has example i of every task; smaller tasks start again."""
    longest = max(map(len, examples.values()))
    return [{task: items[i % len(items)] for task, items in examples.items()}
            for i in range(longest)]


def collate(tokenizer: BertTokenizer, rows: Sequence[Mapping[str, Example]],
            max_length: int | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """Rows → task → input_ids, attention_mask, token_type_ids, (batch, seq), and labels.

    What is longer than max_length tokens is cut.
    """
    batch = {}
    for task in rows[0]:
        columns = zip(*(row[task].sentences for row in rows), strict=True)  # one, or two for pairs
        labels = torch.tensor([row[task].label for row in rows])
        batch[task] = {**tokenizer(*columns, max_length=max_length), "labels": labels}
    return batch


def main() -> None:
    """Fifty steps on the bundled sample."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(write_sample(Path(folder)))
    torch.manual_seed(0)  # the heads' first weights
    model = OneEncoder(BertModel.from_pretrained("minbert-mini"))
    tokenizer = BertTokenizer.from_pretrained("minbert-mini")
    arguments = TrainingArguments(
        "hf-trainer", max_steps=50, per_device_train_batch_size=16, learning_rate=2e-4,
        logging_steps=10, save_strategy="no", report_to=[], remove_unused_columns=False)
    positions = model.encoder.config.max_position_embeddings
    MultitaskTrainer(
        model, arguments, data_collator=lambda rows: collate(tokenizer, rows, positions),
        train_dataset=rows_of({task: splits["train"] for task, splits in dataset.items()})).train()


if __name__ == "__main__":
    main()
