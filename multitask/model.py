"""MultitaskBert: one encoder, a head for each task."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from heads import ARCHITECTURES
from minbert import BertModel, BertTokenizer
from minbert.files import one_line, replacing, sync
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.course import Example
from multitask.system.device import autocast
from multitask.system.distributed import ALONE, Ranks

from .tasks import TASKS, Task

HEADS_FILE = "heads.safetensors"
MODEL_FOLDER = "model"
EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU = 64, 512  # a GPU takes as long for either, almost


class MultitaskBert(nn.Module):
    """Sentiment, paraphrase and similarity from one shared encoder (the paper, Figures 1 and 2).

    encoder: the shared BertModel. tokenizer: the encoder's own. arch: a name from heads.ARCHITECTURES.
    precision: "fp32", or "bf16" for the encoder's matrix products; the heads always compute in fp32.
    tasks: name → Task, one head each; at first those of TASKS.
    """

    def __init__(self, encoder: BertModel, tokenizer: BertTokenizer, arch: str, precision: str = "fp32") -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ValueError(f"arch is {arch!r}; choose from {', '.join(ARCHITECTURES)}")
        if tokenizer.vocab_size > encoder.config.vocab_size:
            raise ValueError(f"the tokenizer knows {tokenizer.vocab_size} pieces, the encoder "
                             f"{encoder.config.vocab_size}: they do not belong together")
        self.encoder, self.tokenizer, self.arch, self.precision = encoder, tokenizer, arch, precision
        self.architecture = ARCHITECTURES[arch]
        if self.architecture.pairs_joined and encoder.config.type_vocab_size < 2:
            raise ValueError(f"--arch {arch} joins pairs with token types 0 and 1, but this encoder has "
                             f"type_vocab_size {encoder.config.type_vocab_size}; take --arch concatA")
        self.tasks: dict[str, Task] = {}
        self.heads = nn.ModuleDict()
        for task in TASKS.values():
            self.add_task(task)

    def add_task(self, task: Task) -> None:
        """A fresh head for one more task, of the architecture's own pair encoding and depth."""
        self.tasks[task.name] = task
        self.heads[task.name] = self.architecture.build_head(
            self.encoder.config.hidden_size, len(task.text_columns), task.outputs).to(self.device)

    def remove_task(self, name: str) -> None:
        del self.tasks[name], self.heads[name]

    @property
    def device(self) -> torch.device:
        return self.encoder.pooler_dense.weight.device

    def tokenize(self, examples: Sequence[Example]) -> TokenizedExamples:
        return TokenizedExamples(examples, self.tokenizer, self.architecture,
                                 self.encoder.config.max_position_embeddings)

    def forward(self, task: str, batch: Batch) -> torch.Tensor:
        """A batch of `task` → its raw outputs, (examples, outputs)."""
        return self.heads[task](self.embed(batch))

    def embed(self, batch: Batch) -> torch.Tensor:
        """A batch → (examples, hidden), or (examples, 2·hidden) where the sentences of a pair go in apart."""
        with autocast(self.precision, self.device):
            first = self.encoder.encode_packed(batch.input_ids, batch.token_type_ids, batch.packing, first_only=True)
        return self.pool(first, batch)

    def pool(self, first: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The last hidden states of a batch's first tokens, (sequences, hidden) → what `embed` returns."""
        with autocast(self.precision, self.device):
            pooled = self.encoder.pool(first[:len(first) - batch.fillers]).float()
        return pooled.reshape(len(pooled) // batch.sequences_each, -1)

    def save_pretrained(self, folder: str | Path, aside: Path | None = None) -> None:
        """The encoder and tokenizer in HuggingFace's layout, and heads.safetensors beside them.

        An older model in the folder is replaced only when the new one is complete, and goes to `aside`, if that is
        given; nothing may be there yet.
        """
        folder = Path(folder)
        fresh, stale = folder.with_name(folder.name + ".new"), aside or folder.with_name(folder.name + ".old")
        for leftover in (fresh, stale):
            shutil.rmtree(leftover, ignore_errors=True)
        self.encoder.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        heads = {name: value.detach().cpu().contiguous() for name, value in self.heads.state_dict().items()
                 if name.split(".")[0] in TASKS}
        # one entry, since the order of several would change from run to run
        about = json.dumps({"arch": self.arch, "precision": self.precision})
        with replacing(fresh / HEADS_FILE) as partial:
            save_file(heads, partial, metadata={"multitask": about})
        if folder.exists():
            os.replace(folder, stale)
        os.replace(fresh, folder)
        sync(folder.parent)
        if aside is None:
            shutil.rmtree(stale, ignore_errors=True)

    @classmethod
    def from_pretrained(cls, run: str | Path) -> MultitaskBert:
        """Opens what the main job saved: a run folder, or its model/ folder. Returns the model in eval mode."""
        folder = Path(run)
        if (folder / MODEL_FOLDER).is_dir():
            folder = folder / MODEL_FOLDER
        if not (folder / HEADS_FILE).is_file():
            raise FileNotFoundError(f"{run} holds no trained multi-task model: expected {MODEL_FOLDER}/{HEADS_FILE}, "
                                    "which train_multitask.py writes after its first epoch")
        path = folder / HEADS_FILE
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["multitask"])
                arch, precision = about["arch"], about["precision"]
                if arch not in tuple(ARCHITECTURES) or precision not in ("fp32", "bf16"):
                    raise ValueError(f"arch {arch!r}, precision {precision!r}")
                heads = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:  # torch and safetensors raise many kinds
            reason = one_line(error)
            raise ValueError(f"{path} is not a file of heads that train_multitask.py wrote ({reason})") from None
        model = cls(BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder), arch, precision)
        expected = {name: (value.shape, value.dtype) for name, value in model.heads.state_dict().items()}
        if {name: (value.shape, value.dtype) for name, value in heads.items()} != expected:
            raise ValueError(f"{path} does not fit the encoder beside it: its tensors have other names, shapes or "
                             "types")
        model.heads.load_state_dict(heads)
        return model.eval()

    def predict_sentiment(self, sentences: Sequence[str]) -> np.ndarray:
        """(n,) classes, 0 very negative … 4 very positive, in input order."""
        return self.answer("sst", [(sentence,) for sentence in _sequence(sentences)])

    def predict_paraphrase(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) probabilities that the two sentences say the same, in input order."""
        return self.answer("para", _sequence(pairs))

    def predict_similarity(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """(n,) scores from 0, unrelated, to 5, the same, in input order."""
        return self.answer("sts", _sequence(pairs))

    def answer(self, task: str, sentences: Sequence[tuple[str, ...]], bar: tqdm | None = None) -> np.ndarray:
        """(n,) answers of any task in its own terms, in input order: what the predict_… methods return."""
        return self.tasks[task].answer(self.predict(task, sentences, bar)).numpy()

    def predict(self, task: str, sentences: Sequence[tuple[str, ...]], bar: tqdm | None = None) -> torch.Tensor:
        """Raw outputs (n, outputs) of `task` for sentences or pairs, in input order, batched, without gradients."""
        width = len(self.tasks[task].text_columns)
        for number, texts in enumerate(sentences):
            if isinstance(texts, str) or len(texts) != width or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{task} takes {width} sentence{'s' * (width > 1)} an example; "
                                 f"item {number} is {texts!r}")
        examples = [Example("", tuple(texts), None) for texts in sentences]
        if not examples:
            return torch.zeros(0, self.tasks[task].outputs)
        return self.predict_logits(task, self.tokenize(examples), bar=bar)

    @torch.no_grad()
    def predict_logits(self, task: str, examples: TokenizedExamples, ranks: Ranks = ALONE,
                       bar: tqdm | None = None) -> torch.Tensor:
        """Raw outputs (n, outputs) float32 on the CPU, in the examples' own order; the model's mode is kept.

        ranks: the processes that share the batches, those that one process would predict; all of them return all.
        bar: a progress bar to move on; without one, its own appears if it takes long.
        """
        was_training = self.training
        self.eval()
        logits = torch.zeros(len(examples), self.tasks[task].outputs)
        size = EVALUATION_BATCH if self.device.type == "cpu" else EVALUATION_BATCH_ON_GPU
        batches = ranks.share(examples.by_length(size))
        try:
            own = tqdm(total=sum(map(len, batches)), desc=f"  {task}", unit="ex", leave=False, delay=1,
                       disable=bar is not None or not ranks.writes)
            with own:
                for indices in batches:
                    logits[indices] = self(task, examples.batch(indices).to(self.device)).cpu()
                    (own if bar is None else bar).update(len(indices))
        finally:
            self.train(was_training)
        ranks.start_sum(logits)()  # of which each row is another's zeros
        return logits


def _sequence(items: Sequence) -> Sequence:
    if isinstance(items, str):
        raise ValueError("expected a list, got one string: put it in a list")
    return items
