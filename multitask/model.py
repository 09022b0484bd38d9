"""MultitaskBert: one encoder, a head for each task."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

from heads import ARCHITECTURES
from minbert import BertModel, BertTokenizer, fast
from minbert.files import items_of, one_line, sync, user_path, write_tensors
from minbert.sentences import evaluating
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.course import Example
from multitask.system.device import autocast
from multitask.system.distributed import ALONE, Ranks

from .tasks import TASKS, Task

HEADS_FILE = "heads.safetensors"
MODEL_FOLDER = "model"
# examples per batch without gradients; a GPU takes almost as long for either
EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU = 64, 512


class MultitaskBert(nn.Module):
    """Sentiment, paraphrase and similarity from one shared encoder (the paper, Figures 1 and 2).

    Args:
        encoder: the shared BertModel.
        tokenizer: the encoder's own.
        arch: a name from heads.ARCHITECTURES.
        precision: "fp32", or "bf16" for the encoder's matrix products; heads always compute in
            fp32.

    Attributes:
        tasks: name → Task, one head each; at first those of TASKS.
        heads: name → head.
    """

    def __init__(self, encoder: BertModel, tokenizer: BertTokenizer, arch: str,
                 precision: str = "fp32") -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ValueError(f"arch is {arch!r}; choose from {', '.join(ARCHITECTURES)}")
        if tokenizer.vocab_size > encoder.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} pieces, the encoder "
                             f"{encoder.config.vocab_size}: they do not belong together")
        self.encoder, self.tokenizer = encoder, tokenizer
        self.arch, self.precision = arch, precision
        self.architecture = ARCHITECTURES[arch]
        if self.architecture.pairs_joined and encoder.config.type_vocab_size < 2:
            raise ValueError(f"--arch {arch} joins pairs with token types 0 and 1, but this "
                             f"encoder has type_vocab_size {encoder.config.type_vocab_size}; take "
                             "--arch concatA")

        self.tasks: dict[str, Task] = {}
        self.heads = nn.ModuleDict()
        for task in TASKS.values():
            self.add_task(task)

    def add_task(self, task: Task) -> None:
        """Add a fresh head for one more task, with the architecture's pair encoding and depth."""
        self.tasks[task.name] = task
        head = self.architecture.build_head(self.encoder.config.hidden_size, len(task.text_columns),
                                            task.outputs)
        self.heads[task.name] = head.to(self.device)

    @property
    def device(self) -> torch.device:
        return self.encoder.pooler_dense.weight.device

    def tokenize(self, examples: Sequence[Example]) -> TokenizedExamples:
        return TokenizedExamples(examples, self.tokenizer, self.architecture,
                                 self.encoder.config.max_position_embeddings)

    # ------------------------------------------------------------------------ from batch to outputs

    def forward(self, task: str, batch: Batch) -> torch.Tensor:
        """A batch of `task` → its raw outputs, (examples, outputs)."""
        return self.heads[task](self.embed(batch))

    def embed(self, batch: Batch) -> torch.Tensor:
        """A batch → (examples, hidden); (examples, 2·hidden) if pairs are encoded separately."""
        with autocast(self.precision, self.device):
            first = fast.encode_packed(self.encoder, batch.input_ids, batch.token_type_ids,
                                       batch.packing, first_only=True)
        return self.pool(first, batch)

    def pool(self, first: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The last hidden states of [CLS], (sequences, hidden) → what `embed` returns."""
        real = len(first) - batch.dummy_sequences
        with autocast(self.precision, self.device):
            pooled = self.encoder.pool(first[:real]).float()
        # the sequences of an example side by side
        return pooled.reshape(real // batch.sequences_each, -1)

    # --------------------------------------------------------------------------- saving and loading

    def save_pretrained(self, folder: str | Path, aside: Path | None = None) -> None:
        """Write encoder and tokenizer in HuggingFace's layout, and heads.safetensors beside them.

        An older model in the folder is replaced only when the new one is complete.

        Args:
            aside: where the older model goes; nothing may be there yet. By default it is removed.
        """
        folder = user_path(folder)
        fresh = folder.with_name(folder.name + ".new")
        stale = aside or folder.with_name(folder.name + ".old")
        for leftover in (fresh, stale):
            shutil.rmtree(leftover, ignore_errors=True)

        self.encoder.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        heads = {name: value.detach().cpu().contiguous()
                 for name, value in self.heads.state_dict().items() if name.split(".")[0] in TASKS}
        # one entry, since the order of several would change from run to run
        about = json.dumps({"arch": self.arch, "precision": self.precision})
        write_tensors(fresh / HEADS_FILE, heads, {"multitask": about})

        if folder.exists():
            os.replace(folder, stale)
        os.replace(fresh, folder)
        sync(folder.parent)
        if aside is None:
            shutil.rmtree(stale, ignore_errors=True)

    @classmethod
    def from_pretrained(cls, run: str | Path) -> MultitaskBert:
        """Opens what the main job saved, a run folder or its model/ folder, in eval mode.

        Raises:
            FileNotFoundError: the folder holds no trained model.
            ValueError: its heads are damaged, or not those of its encoder.
        """
        folder = user_path(run)
        if (folder / MODEL_FOLDER).is_dir():
            folder = folder / MODEL_FOLDER
        path = folder / HEADS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{run} holds no trained multi-task model: expected "
                                    f"{MODEL_FOLDER}/{HEADS_FILE}, which train_multitask.py writes "
                                    "after its first epoch")
        heads, arch, precision = _read_heads(path)
        model = cls(BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder), arch,
                    precision)

        expected = {name: (value.shape, value.dtype)
                    for name, value in model.heads.state_dict().items()}
        if {name: (value.shape, value.dtype) for name, value in heads.items()} != expected:
            raise ValueError(f"{path} does not fit the encoder beside it: its tensors have other "
                             "names, shapes or types")
        model.heads.load_state_dict(heads)
        return model.eval()

    # ---------------------------------------------------------------------------------- predictions

    def predict_sentiment(self, sentences: Iterable[str]) -> np.ndarray:
        """(n,) classes, 0 very negative … 4 very positive, in input order."""
        return self.answer("sst", [(text,) for text in items_of(sentences, "sentences")])

    def predict_paraphrase(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """(n,) probabilities that the two sentences say the same, in input order."""
        return self.answer("para", pairs)

    def predict_similarity(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """(n,) scores from 0, unrelated, to 5, the same, in input order."""
        return self.answer("sts", pairs)

    def answer(self, task: str, sentences: Iterable[tuple[str, ...]],
               bar: tqdm | None = None) -> np.ndarray:
        """(n,) predictions of any task in its own terms, as the predict_… methods return them."""
        return self.tasks[task].answer(self.predict(task, sentences, bar)).numpy()

    def predict(self, task: str, sentences: Iterable[tuple[str, ...]],
                bar: tqdm | None = None) -> torch.Tensor:
        """Raw outputs (n, outputs) of `task`, in input order, batched, without gradients.

        Several threads may call it at once on a model in eval mode.

        Args:
            sentences: a tuple of one sentence, or a pair, per example.
            bar: a progress bar to advance; without one, its own appears if it takes long.
        """
        width = len(self.tasks[task].text_columns)
        sentences = items_of(sentences, "pairs" if width > 1 else "sentences")
        for number, texts in enumerate(sentences):
            is_right = isinstance(texts, (tuple, list)) and len(texts) == width
            if not is_right or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{task} takes {width} sentence{'s' * (width > 1)} per example; "
                                 f"item {number} is {one_line(repr(texts))}")

        examples = [Example("", tuple(texts), None) for texts in sentences]
        if not examples:
            return torch.zeros(0, self.tasks[task].outputs)
        return self.predict_logits(task, self.tokenize(examples), bar=bar)

    @torch.no_grad()
    def predict_logits(self, task: str, examples: TokenizedExamples, ranks: Ranks = ALONE,
                       bar: tqdm | None = None) -> torch.Tensor:
        """Raw outputs (n, outputs) float32 on the CPU, in the examples' order.

        Args:
            ranks: the processes that share the batches; each returns all outputs.
            bar: see `predict`.
        """
        size = EVALUATION_BATCH if self.device.type == "cpu" else EVALUATION_BATCH_ON_GPU
        batches = ranks.share(examples.by_length(size))
        logits = torch.zeros(len(examples), self.tasks[task].outputs, dtype=torch.float32)
        own_bar = tqdm(total=sum(map(len, batches)), desc=f"  {task}", unit="ex", leave=False,
                       delay=1, disable=bar is not None or not ranks.writes)

        with evaluating(self), own_bar:
            for indices in batches:
                logits[indices] = self(task, examples.batch(indices).to(self.device)).cpu()
                (own_bar if bar is None else bar).update(len(indices))
        ranks.start_sum(logits)()  # each row is zeros in all processes but one
        return logits


def _read_heads(path: Path) -> tuple[dict[str, torch.Tensor], str, str]:
    """Tensors, architecture and precision. Raises ValueError for a file that is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["multitask"])
            arch, precision = about["arch"], about["precision"]
            if arch not in tuple(ARCHITECTURES) or precision not in ("fp32", "bf16"):
                raise ValueError(f"arch {arch!r}, precision {precision!r}")
            heads = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # torch and safetensors raise many kinds
        raise ValueError(f"{path} is not a file of heads that train_multitask.py wrote "
                         f"({one_line(error)})") from None
    return heads, arch, precision
