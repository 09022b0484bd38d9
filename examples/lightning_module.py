"""A Lightning module with gradient surgery: minbert's own model under somebody else's trainer.

    pip install 'minbert[lightning]'
    python examples/lightning_module.py

The optimization is manual, since Lightning's own makes one backward pass per step. Devices,
precision, loggers and checkpoints stay Lightning's.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from minbert import BertModel, BertTokenizer
from multitask import MultitaskBert
from multitask.data import load_dataset
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.sample import write_sample
from optim import AdamW, average_gradients, multitask_backward


class MultitaskModule(lightning.LightningModule):
    """A MultitaskBert, whose batches are task → Batch.

    With several processes, each task's gradient is averaged over them before surgery. This is exact
    where all processes have equally many examples of a task.
    """

    def __init__(self, model: MultitaskBert, lr: float = 2e-4, method: str = "pcgrad",
                 clip: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.lr, self.method, self.clip = model.train(), lr, method, clip
        self.generator = torch.Generator().manual_seed(seed)  # the same in all processes

    def training_step(self, batches: Mapping[str, Batch], step: int) -> None:
        group = dist.group.WORLD if self.trainer.world_size > 1 else None

        def losses() -> Iterator[torch.Tensor]:
            for name, batch in batches.items():
                loss = self.model.tasks[name].loss(self.model(name, batch), batch.labels)
                self.log(name, loss, prog_bar=True, batch_size=len(batch.labels))
                yield self.trainer.precision_plugin.pre_backward(loss, self)  # scales for float16

        optimizer, scaler = self.optimizers(), self.trainer.scaler  # None unless float16
        optimizer.zero_grad()
        multitask_backward(losses(), self.model.encoder.parameters(), self.method, self.generator,
                           group=group, scale=1.0 if scaler is None else scaler.get_scale())
        if group is not None:
            average_gradients(self.model.heads.parameters(), group)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip)  # after the scaler's unscale_

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return AdamW(self.model.parameters(), lr=self.lr)


def loader(tokens: Mapping[str, TokenizedExamples], batch_size: int) -> DataLoader:
    """Shuffled batches of every task; smaller tasks start again."""
    longest = max(map(len, tokens.values()))
    return DataLoader(range(longest), batch_size, shuffle=True, collate_fn=lambda rows: {
        name: examples.batch([row % len(examples) for row in rows])
        for name, examples in tokens.items()})


def main() -> None:
    """Fifty steps on the bundled sample."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_dataset(write_sample(Path(folder)))
    lightning.seed_everything(0)
    model = MultitaskBert(BertModel.from_pretrained("minbert-mini"),
                          BertTokenizer.from_pretrained("minbert-mini"), arch="concatB")
    tokens = {name: model.tokenize(splits["train"]) for name, splits in dataset.items()}
    trainer = lightning.Trainer(max_steps=50, logger=False, enable_checkpointing=False)
    trainer.fit(MultitaskModule(model), loader(tokens, 16))


if __name__ == "__main__":
    main()
