"""MultitaskBert: one encoder, a head for each task."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from heads import ARCHITECTURES
from minbert import BertModel, BertTokenizer, fast
from minbert.files import counted, items_of, one_line, rename_folder, sync, user_path, write_tensors
from minbert.progress import Progress
from minbert.sentences import evaluating
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.examples import Example
from multitask.system.device import autocast
from multitask.system.distributed import ALONE, Ranks

from .description import SAMPLE, TASKS_FILE, Description
from .tasks import NLI, TASKS, Task

HEADS_FILE, ENSEMBLE_FILE = "heads.safetensors", "ensemble.json"
MODEL_FOLDER = "model"
# examples per batch without gradients; a GPU takes almost as long for either
EVALUATION_BATCH, EVALUATION_BATCH_ON_GPU = 64, 512


class Predictions(NamedTuple):
    """What MultitaskBert.predict returns, in input order.

    Attributes:
        labels: (n,), the names of the classes; float32 numbers on a scale.
        probabilities: (n, classes) float32, in the order of the task's `labels`; None on a scale.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None


class MultitaskBert(nn.Module):
    """Several tasks from one shared encoder (the paper, Figures 1 and 2).

    Args:
        encoder: the shared BertModel, or a module that can stand in for it, such as a BERT of
            transformers. It is called with input_ids, attention_mask (true where a token is real)
            and token_type_ids, (batch, seq) each, and returns an object with `pooler_output`,
            (batch, hidden), and for mean pooling `last_hidden_state`, (batch, seq, hidden). Its
            parameters share one dtype and device. Its `config` has hidden_size, vocab_size,
            max_position_embeddings and type_vocab_size, and `save_pretrained(folder)` writes it.
        tokenizer: the encoder's own.
        arch: a name from heads.ARCHITECTURES.
        precision: "fp32", or "bf16" for the encoder's matrix products; heads compute in fp32.
        tasks: one head each; by default those of the paper.
        max_length: tokens at which inputs are cut; by default the encoder's number of positions.
        data: what it is trained on, for tasks.json.

    Attributes:
        tasks: name → Task.
        heads: name → head.
    """

    def __init__(self, encoder: nn.Module, tokenizer: BertTokenizer, arch: str,
                 precision: str = "fp32", tasks: Iterable[Task] | None = None,
                 max_length: int | None = None, data: str = "") -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ValueError(f"arch is {arch!r}; choose from {', '.join(ARCHITECTURES)}")
        if tokenizer.vocab_size > encoder.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} pieces, the encoder "
                             f"{encoder.config.vocab_size}: they do not belong together")
        self.encoder, self.tokenizer = encoder, tokenizer
        self.arch, self.precision, self.data = arch, precision, data
        self.architecture = ARCHITECTURES[arch]
        positions = encoder.config.max_position_embeddings
        self.max_length = max_length or positions
        if self.max_length > positions:
            raise ValueError(f"--max-length {max_length}: the encoder has only {positions} "
                             "positions")

        self.tasks: dict[str, Task] = {}
        self.heads = nn.ModuleDict()
        for task in TASKS.values() if tasks is None else tasks:
            self.add_task(task)

    def add_task(self, task: Task) -> None:
        """Add a fresh head for one more task, with the architecture's pair encoding and depth."""
        joins = self.architecture.pairs_joined and len(task.text) > 1
        if joins and self.encoder.config.type_vocab_size < 2:
            raise ValueError(f"--arch {self.arch} joins pairs with token types 0 and 1, but this "
                             f"encoder has type_vocab_size {self.encoder.config.type_vocab_size}; "
                             "take --arch concatA")
        self.tasks[task.name] = task
        head = self.architecture.build_head(self.encoder.config.hidden_size, len(task.text),
                                            task.outputs)
        self.heads[task.name] = head.to(self.device, torch.float32)

    def take_heads(self, other: "MultitaskBert") -> "MultitaskBert":
        """Take over the trained heads of the tasks that both models have alike; returns self."""
        for name, task in self.tasks.items():
            theirs = other.tasks.get(name)
            if theirs and (theirs.kind, theirs.labels, len(theirs.text)) == (
                    task.kind, task.labels, len(task.text)):
                self.heads[name] = other.heads[name]
        return self

    @property
    def sample_tasks(self) -> list[str]:
        """The tasks that were trained on the embedded sample: sentences made up by rule."""
        return [name for name, task in self.tasks.items()
                if self.data == SAMPLE and not task.has_own_files]

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def tokenize(self, examples: Sequence[Example]) -> TokenizedExamples:
        return TokenizedExamples(examples, self.tokenizer, self.architecture, self.max_length)

    # ------------------------------------------------------------------------ from batch to outputs

    def forward(self, task: str, batch: Batch) -> torch.Tensor:
        """A batch of `task` → its raw outputs, (examples, outputs)."""
        return self.heads[task](self.embed(batch))

    def embed(self, batch: Batch) -> torch.Tensor:
        """A batch → (examples, hidden · sequences of each)."""
        with_mean = self.architecture.mean_pooling
        with autocast(self.precision, self.device):
            if isinstance(self.encoder, BertModel) and fast.applies(self.encoder):
                states = fast.encode_packed(self.encoder, batch.input_ids, batch.token_type_ids,
                                            batch.packing, first_only=not with_mean)
                return self.pool(states, batch)
            out = self.encoder(**batch.padded())
            if with_mean:
                return self.pool(batch.packing.unpad(out.last_hidden_state), batch)
        return self._side_by_side(out.pooler_output, batch)

    def pool(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Last hidden states → what `embed` returns.

        Args:
            states: of all tokens, (tokens, hidden), for mean pooling; else of [CLS] alone,
                (sequences, hidden).
        """
        with autocast(self.precision, self.device):
            if self.architecture.mean_pooling:
                pooled = batch.packing.mean_tokens(states)
            else:
                pooled = self.encoder.pool(states)
        return self._side_by_side(pooled, batch)

    def _side_by_side(self, pooled: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(sequences, hidden) → (examples, sequences of each · hidden), in the heads' dtype."""
        dtype = next((value.dtype for value in self.heads.parameters()), torch.float32)
        pooled = pooled[:batch.packing.batch - batch.dummy_sequences]
        return pooled.to(dtype).reshape(len(pooled) // batch.sequences_each, -1)

    # --------------------------------------------------------------------------- saving and loading

    def save_pretrained(self, folder: str | Path, aside: Path | None = None) -> None:
        """Write encoder and tokenizer in HuggingFace's layout, heads and tasks.json beside them.

        An older model in the folder is replaced only when the new one is complete.

        Args:
            aside: where the older model goes, in place of what is there. By default it is removed.

        Raises:
            ValueError: the folder holds something else, such as a whole run, or is the current one.
        """
        folder = user_path(folder).resolve()  # a link stays one
        fresh = folder.with_name(f".{folder.name}.new")
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        is_model = (folder / HEADS_FILE).is_file() or (fresh / TASKS_FILE).is_file()  # or was one
        if folder == Path.cwd() or not (is_free or is_model):
            raise ValueError(f"{folder} holds no model that may be replaced, or is the current "
                             "folder: name a new folder")
        stale = aside or folder.with_name(f".{folder.name}.old")
        shutil.rmtree(fresh, ignore_errors=True)

        self.encoder.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh, self.max_length)
        tasks = tuple(task for name, task in self.tasks.items() if name != NLI.name)
        heads = {name: value.detach().cpu() for name, value in self.heads.state_dict().items()
                 if name.split(".")[0] != NLI.name}
        write_tensors(fresh / HEADS_FILE, heads)
        about = Description(self.arch, self.precision, tasks, self.max_length, self.data)
        about.save(fresh / TASKS_FILE)

        if folder.exists():
            rename_folder(folder, stale)
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
        sync(folder.parent)
        if aside is None:
            shutil.rmtree(stale, ignore_errors=True)

    @classmethod
    def from_pretrained(cls, run: str | Path, encoder: nn.Module | None = None) -> "MultitaskBert":
        """Opens what the main job saved, a run folder or its model/ folder, in eval mode.

        Args:
            encoder: the trained encoder, if it is another than minbert's.

        Raises:
            FileNotFoundError: the folder holds no trained model.
            ValueError: its heads are damaged, or not those of its encoder.
        """
        folder = user_path(run)
        if (folder / MODEL_FOLDER).is_dir():
            folder = folder / MODEL_FOLDER
        path = folder / HEADS_FILE
        if not folder.is_dir():
            raise FileNotFoundError(f"{run}: there is no such folder")
        if (folder / ENSEMBLE_FILE).is_file():
            raise FileNotFoundError(f"{run} is an ensemble, without a model: name one of its runs")
        if not path.is_file():
            raise FileNotFoundError(f"{run} holds no trained multi-task model: expected "
                                    f"{MODEL_FOLDER}/{HEADS_FILE}, which train_multitask.py writes "
                                    "after its first epoch")
        heads, about = _read_heads(path)
        encoder = encoder or BertModel.from_pretrained(folder)
        tokenizer = BertTokenizer.from_pretrained(folder)
        try:
            model = cls(encoder, tokenizer, about.arch, about.precision, about.tasks,
                        about.max_length, about.data)
        except ValueError as error:
            raise ValueError(f"{path.parent / TASKS_FILE} does not fit the encoder beside it "
                             f"({one_line(error)})") from None

        if _kinds(heads) != _kinds(model.heads.state_dict()):
            raise ValueError(f"{path} does not fit the encoder and the {TASKS_FILE} beside it: its "
                             "tensors have other names, shapes or types")
        model.heads.load_state_dict(heads)
        return model.eval()

    # ---------------------------------------------------------------------------------- predictions

    def predict_sentiment(self, sentences: Iterable[str]) -> np.ndarray:
        """(n,) classes, 0 very negative … 4 very positive, in input order."""
        return self.predict("sst", sentences).probabilities.argmax(1)

    def predict_paraphrase(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """(n,) probabilities that the two sentences say the same, in input order."""
        return self.predict("para", pairs).probabilities[:, 1]

    def predict_similarity(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """(n,) scores from 0, unrelated, to 5, the same, in input order."""
        return self.predict("sts", pairs).labels

    def predict(self, task: str, texts: Iterable[str | tuple[str, ...]]) -> Predictions:
        """Labels and probabilities of any task, batched, without gradients, in input order.

        Several threads may call it at once on a model in eval mode.

        Args:
            texts: a sentence per example, or a pair of them, as the task takes.

        Raises:
            ValueError: the model has no such task, or an item is of another form.
        """
        return self.predictions_of(task, self.logits(task, texts))

    def logits(self, task: str, texts: Iterable[str | tuple[str, ...]]) -> torch.Tensor:
        """The raw outputs behind `predict`, (n, outputs)."""
        return self.predict_logits(task, self.tokenize(self.examples_of(task, texts)))

    def predictions_of(self, task: str, logits: torch.Tensor) -> Predictions:
        """Raw outputs (n, outputs) → predictions."""
        found = self.task(task).decode(logits).numpy()
        probabilities = self.task(task).probabilities(logits)
        if probabilities is None:
            return Predictions(found, None)
        names = np.array(self.task(task).labels)
        return Predictions(names[found.astype(int)], probabilities.numpy())

    def task(self, name: str | None) -> Task:
        """The task of that name; None is its only task. ValueError if there is no such task."""
        if name is None:
            if len(self.tasks) > 1:
                raise ValueError(f"--task is missing; the run's tasks are {', '.join(self.tasks)}")
            [name] = self.tasks
        if name not in self.tasks:
            raise ValueError(f"the model has no task {name!r}; its tasks are "
                             f"{', '.join(self.tasks)}")
        return self.tasks[name]

    def examples_of(self, task: str, texts: Iterable[str | tuple[str, ...]]) -> list[Example]:
        """Texts as `predict` takes them → examples without labels."""
        width = len(self.task(task).text)
        examples = []
        for number, item in enumerate(items_of(texts, "pairs" if width > 1 else "sentences")):
            parts = (item,) if width == 1 and isinstance(item, str) else item
            is_right = isinstance(parts, (tuple, list)) and len(parts) == width
            if not is_right or not all(isinstance(text, str) for text in parts):
                raise ValueError(f"{task} takes {counted(width, 'sentence')} per example; "
                                 f"item {number} is {one_line(repr(item))}")
            examples.append(Example("", tuple(parts), None))
        return examples

    @torch.no_grad()
    def predict_logits(self, task: str, examples: TokenizedExamples, ranks: Ranks = ALONE,
                       bar: Progress | None = None, batch_size: int | None = None) -> torch.Tensor:
        """Raw outputs (n, outputs) float32 on the CPU, in the examples' order.

        Args:
            ranks: the processes that share the batches; each returns all outputs.
            bar: a progress bar to advance; without one, its own appears if it takes long.
            batch_size: examples at once, at most; by default what suits the device.
        """
        usual = EVALUATION_BATCH if self.device.type == "cpu" else EVALUATION_BATCH_ON_GPU
        batches = ranks.share(examples.by_length(batch_size or usual))
        logits = torch.zeros(len(examples), self.tasks[task].outputs, dtype=torch.float32,
                             device="cpu")
        own_bar = Progress(total=sum(map(len, batches)), desc=f"  {task}", unit="ex", leave=False,
                           delay=1, disable=bar is not None or not ranks.writes)

        with evaluating(self), own_bar:
            for indices in batches:
                batch = examples.batch(indices).to(self.device)
                logits[indices] = self(task, batch).float().cpu()
                (own_bar if bar is None else bar).update(len(indices))
        ranks.start_sum(logits)()  # each row is zeros in all processes but one
        return logits


def _kinds(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple]:
    """What must agree for the tensors to be loaded; a model may be saved in half precision."""
    return {name: (value.shape, value.is_floating_point()) for name, value in tensors.items()}


def _read_heads(path: Path) -> tuple[dict[str, torch.Tensor], Description]:
    """Tensors, and what tasks.json says. Raises ValueError for a file that is something else."""
    description = path.parent / TASKS_FILE
    about = Description.load(description) if description.is_file() else None
    try:
        with safe_open(path, framework="pt") as file:
            heads = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if about is None:  # of an earlier run: the paper's tasks
                about = Description(**json.loads((file.metadata() or {})["multitask"]))
    except Exception as error:  # torch and safetensors raise many kinds
        raise ValueError(f"{path} is not a file of heads that train_multitask.py wrote "
                         f"({one_line(error)})") from None
    return heads, about
