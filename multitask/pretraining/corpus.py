"""Running text → one long array of token ids → sequences of full length within one passage.

A passage is the text between blank lines: a chapter, an article. Its lines are tokenized one by one
and joined; [CLS] and [SEP] are added when a batch is made.
"""

import functools
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minbert import BertTokenizer
from minbert.files import one_line, replacing
from minbert.progress import Progress
from multitask.data.examples import file_of, read_examples
from multitask.data.multinli import FILES, read_multinli
from multitask.tasks import TASKS

TOKENIZE_AT_ONCE = 4096  # lines; bounds the memory of the tokenizer's results
HELD_OUT_SEED = 0        # chooses the same passages in every run

# a file's ending → how it is opened; anything else is plain text
OPENERS: dict[str, Callable[..., IO]] = {".gz": gzip.open, ".xz": lzma.open}


def read_passages(path: Path) -> list[list[str]]:
    """The text's passages, each a list of its non-empty lines.

    Args:
        path: plain UTF-8 text, .gz or .xz; or a folder with the course's data
            (`training_passages`).

    Raises:
        FileNotFoundError, ValueError: the text cannot be read or has fewer than two passages.
    """
    if not path.exists():
        raise FileNotFoundError(f"--text {path}: no such file; name a text, plain or .gz or .xz, "
                                "or a folder with the course's data")

    passages = training_passages(path) if path.is_dir() else _passages_of_file(path)
    if len(passages) < 2:
        raise ValueError(f"--text {path} holds {len(passages)} passages, but at least 2 are "
                         "needed, one of them held out: separate them by blank lines")
    return passages


def _passages_of_file(path: Path) -> list[list[str]]:
    passages: list[list[str]] = [[]]
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    passages[-1].append(line.strip())
                elif passages[-1]:
                    passages.append([])
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {path} is not UTF-8 ({error}); convert it, for example with "
                         "iconv") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"--text {path} cannot be read ({error}); is it complete, and is its "
                         "ending right?") from None
    return [passage for passage in passages if passage]


def training_passages(folder: Path) -> list[list[str]]:
    """The tasks' training sentences, one passage per example; MultiNLI's too, if it is there.

    Dev and test files are not read. A repeated sentence is left out, so held-out text is never
    trained on. Raises FileNotFoundError or ValueError, naming the file.
    """
    examples = []
    for task in TASKS.values():
        path = file_of(folder, task, "train")
        if not path.is_file():
            raise FileNotFoundError(f"--text {folder}: {path} is missing; name a text, or a folder "
                                    "with the course's data")
        examples += read_examples(path, task)
    with suppress(FileNotFoundError):
        examples += read_multinli(folder, FILES["train"])

    seen = {""}
    passages = []
    for example in examples:
        passage = []
        for sentence in map(str.strip, example.sentences):
            if sentence not in seen:
                seen.add(sentence)
                passage.append(sentence)
        if passage:
            passages.append(passage)
    return passages


def split_passages(count: int, held_out: float) -> tuple[list[int], list[int]]:
    """Numbers of the training passages and of the held-out ones, at least one of each."""
    order = np.random.default_rng(HELD_OUT_SEED).permutation(count).tolist()
    held = min(count - 1, max(1, round(held_out * count)))
    return sorted(order[held:]), sorted(order[:held])


@dataclass(frozen=True)
class Corpus:
    """Passages as token ids, without special tokens.

    Attributes:
        ids: (tokens,) uint16, or int32 for a vocabulary that needs it.
        ends: (passages,) int64, where each passage ends.
    """

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def tokenize(cls, passages: Sequence[Sequence[str]], tokenizer: BertTokenizer) -> "Corpus":
        """Tokenizes the passages' lines, with a progress bar if it takes long."""
        dtype = np.uint16 if max(tokenizer.vocabulary.values()) < 1 << 16 else np.int32
        lines = [line for passage in passages for line in passage]
        ids, lengths = [np.empty(0, dtype)], []

        with Progress(total=len(lines), desc="tokenize", unit="line", delay=1, leave=False) as bar:
            for start in range(0, len(lines), TOKENIZE_AT_ONCE):
                encodings = tokenizer.encode(lines[start:start + TOKENIZE_AT_ONCE])
                found = [np.array(encoding.ids[1:-1], dtype) for encoding in encodings]
                ids.append(np.concatenate(found))
                lengths += [len(line) for line in found]
                bar.update(len(encodings))

        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(np.concatenate(ids), ends[np.cumsum([len(passage) for passage in passages])])

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        with replacing(path) as partial:
            save_file({"ids": self.ids, "ends": self.ends}, partial)

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """Raises ValueError, naming the file, if it is missing or damaged."""
        try:
            with safe_open(path, framework="numpy") as file:
                return cls(file.get_tensor("ids"), file.get_tensor("ends"))
        # safetensors raises KeyError, TypeError or AttributeError for formats that numpy lacks
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{path} is missing or damaged ({one_line(error)}); start again with "
                             "another --out") from None

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over ids and ends."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ids))
        digest.update(np.ascontiguousarray(self.ends))
        return digest.hexdigest()

    def cut(self, passages: Sequence[int], length: int) -> np.ndarray:
        """Cuts passages into sequences of `length` tokens, [CLS] and [SEP] included.

        Every token is in exactly one sequence; only a passage's last one is shorter.

        Returns:
            (sequences, 2) int64, each sequence's first place in `ids` and the one after its last.
        """
        starts = np.concatenate([[0], self.ends[:-1]])
        spans = [np.empty((0, 2), np.int64)]
        for passage in passages:
            begins = np.arange(starts[passage], self.ends[passage], length - 2)
            ends = np.minimum(begins + length - 2, self.ends[passage])
            spans.append(np.stack([begins, ends], axis=1))
        return np.concatenate(spans)
