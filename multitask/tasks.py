"""What a task is: its kind, its columns and labels, its files. All of it is data, so that a run can
describe itself (model/tasks.json), and a task can come from a file (task_file.py).
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, get_args, get_origin
from unicodedata import bidirectional

import numpy as np
import torch
from torch import nn

from .kinds import KINDS, SCALE_TOP, Metric

MOST_LABELS = 10_000
NAMED = 8  # labels that an error lists before it only counts them


@dataclass(frozen=True)
class Task:
    """One task of the multi-task model. The names are the keys of a task file, and of tasks.json.

    Attributes:
        kind: a name in KINDS.
        text: the columns with the text; one for single sentences, two for pairs.
        label: the column with the label.
        labels: with classes, their names in order; with yes_no, the words for no and for yes; on a
            scale, optionally, what its two ends mean.
        range: the ends of a scale.
        train, dev, test: files; a relative name is one in the folder of --data. `test` may be
            missing there, and needs no labels.
        dev_share: without `dev`, the share of `train` that is drawn for it.
        id: the column with the example's id; "" numbers the rows.
        metric: a name in the kind's metrics; "" is the first of them.
        weight: a factor of the loss.
        title: the name for reports; "" is `name`.
        prediction_column: of the prediction file in the course's format; not in a task file.

    Raises:
        ValueError: a value is not allowed; the message names the key and says what is expected.
    """

    name: str
    kind: str
    text: tuple[str, ...]
    label: str
    train: str
    labels: tuple[str, ...] = ()
    range: tuple[float, float] = (0.0, SCALE_TOP)
    dev: str = ""
    dev_share: float = 0.0
    test: str = ""
    id: str = ""
    metric: str = ""
    weight: float = 1.0
    title: str = ""
    prediction_column: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            self._set(field.name, _checked(field.name, field.type, getattr(self, field.name)))
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name):
            raise ValueError(f"a task's name is {self.name!r}; expected letters, digits and _, a "
                             "letter first")
        if hasattr(nn.ModuleDict(), self.name) or self.name in ("average", "overall"):
            raise ValueError(f"a task's name is {self.name!r}, a word that torch or a run's scores "
                             "use: choose another")
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose from {', '.join(KINDS)}, or name "
                             "the file that defines it with --import FILE.py; in Python, import "
                             "it first")
        if self.kind == "yes_no" and not self.labels:
            self._set("labels", ("no", "yes"))
        self._check_labels()

        if len(self.text) not in (1, 2) or "" in self.text:
            raise ValueError(f"text is {list(self.text)}; expected the name of one column, or of "
                             "two for pairs")
        if not self.label or not self.train:
            raise ValueError("label and train are required: a column, and a file")
        if self.dev and self.dev_share:
            raise ValueError("give dev or dev_share, not both")
        if not self.dev and not self.dev_share:
            raise ValueError("dev is missing: name a file, or give dev_share = 0.1 for a tenth of "
                             "train")
        if not 0 <= self.dev_share < 1:
            raise ValueError(f"dev_share is {self.dev_share:g}; expected a share between 0 and 1")
        if not 0 < self.weight <= 1e6:
            raise ValueError(f"weight is {self.weight:g}; expected a number above 0, at most 1e6")

        fitting = KINDS[self.kind].metrics
        self._set("metric", self.metric or next(iter(fitting)))
        if self.metric not in fitting:
            raise ValueError(f"metric is {self.metric!r}; for kind {self.kind} choose from "
                             f"{', '.join(fitting)}")
        self._set("title", self.title or self.name)
        self._set("prediction_column", self.prediction_column or f"Predicted_{self.name}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the record is frozen for everybody else

    def _check_labels(self) -> None:
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"{len(self.labels):,} labels; at most {MOST_LABELS:,} are expected")
        if len(set(self.labels)) < len(self.labels) or "" in map(str.strip, self.labels):
            raise ValueError(f"labels are {list(self.labels)}; expected names that differ, none "
                             "of them empty")
        if self.kind == "yes_no" and len(self.labels) != 2:
            raise ValueError(f"labels are {list(self.labels)}; expected two, the words for no and "
                             "for yes")
        if KINDS[self.kind].probabilities and len(self.labels) < 2:
            raise ValueError(f"labels are {list(self.labels)}; expected two names or more")
        if self.kind == "scale" and len(self.labels) not in (0, 2):
            raise ValueError(f"labels are {list(self.labels)}; a scale takes none, or two words "
                             "for its ends")
        low, high = self.range if len(self.range) == 2 else (0, 0)
        if not -1e9 <= low < high <= 1e9:
            raise ValueError(f"range is {list(self.range)}; expected the two ends, the lower first")

    @property
    def has_own_files(self) -> bool:
        """Whether its files lie at paths of their own, not in the folder of --data."""
        # on whatever system the run was trained
        return (PurePosixPath(self.train).is_absolute()
                or PureWindowsPath(self.train).is_absolute())

    # What follows from the kind

    @property
    def outputs(self) -> int:
        """How many numbers the head gives."""
        return KINDS[self.kind].outputs(self)

    @property
    def classes(self) -> int:
        """The number of classes, with labels 0, 1, …; 0 for numbers on a scale."""
        return len(self.labels) if KINDS[self.kind].probabilities else 0

    @property
    def meaning(self) -> str:
        """What the labels mean, in words: "0 no, 1 yes", "0 unrelated to 5 the same"."""
        if self.classes:
            # a left-to-right mark keeps a number before its Arabic or Hebrew name
            mark = "\u200e" if {"R", "AL"} & set(map(bidirectional, "".join(self.labels))) else ""
            return f", {mark}".join(f"{number} {name}" for number, name in enumerate(self.labels))
        ends = [f"{end:g}" for end in self.range]
        return " to ".join(" ".join(words) for words in zip(ends, self.labels, strict=True)
                           ) if self.labels else " to ".join(ends)

    @property
    def example(self) -> tuple[str, ...]:
        """A text, or a pair, to try the task with."""
        if self.name not in BUILT_IN:
            return ("Your text.",) if len(self.text) == 1 else ("One text.", "Another text.")
        if len(self.text) == 1:
            return ("A film worth seeing twice.",)
        return "A dog runs.", "A dog is running."

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (batch, outputs), labels (batch,) → mean loss of the batch, times `weight`."""
        loss = KINDS[self.kind].loss(self, logits, labels)
        return loss if self.weight == 1 else self.weight * loss

    def decode(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (n, outputs) → (n,) predictions, as the metric and the prediction file take them.
        """
        return KINDS[self.kind].decode(self, logits)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Logits (n, outputs) → (n, classes); None on a scale."""
        of = KINDS[self.kind].probabilities
        return None if of is None else of(logits)

    @property
    def measure(self) -> Metric:
        """The metric: (predictions, labels) → score, or None where it is undefined."""
        return KINDS[self.kind].metrics[self.metric]

    def score(self, predictions: np.ndarray, labels: np.ndarray) -> float | None:
        """What the metric gives; None, with a warning, where that is not a finite number."""
        value = self.measure(predictions, labels)
        if value is not None and not np.isfinite(value):
            warnings.warn(f"the {self.metric} of {self.name} is {value}; it counts as 0",
                          stacklevel=2)
            return None
        return None if value is None else float(value)

    def format_prediction(self, value: float) -> str:
        """A prediction as the prediction file writes it."""
        return KINDS[self.kind].form.format(value)

    def parse_label(self, text: str) -> float:
        """A label as a file writes it → a class or a number.

        >>> SST.parse_label("positive"), SST.parse_label("3"), STS.parse_label("2.5")
        (3.0, 3.0, 2.5)

        Raises:
            ValueError: it is not a label of this task; the message says what is expected.
        """
        value = _number(text)
        if not self.classes:
            low, high = self.range
            if value is None or not low <= value <= high:
                is_comma = "," in text and _number(text.replace(",", ".")) is not None
                hint = "; write a decimal point" if is_comma else ""
                raise ValueError(f"expected a number from {low:g} to {high:g}{hint}")
            return value

        if text in self.labels:
            return float(self.labels.index(text))
        numbers = [_number(name) for name in self.labels]
        if value is not None and value in numbers:  # 1.0 for the name "1"
            return float(numbers.index(value))
        has_numbers = any(number is not None for number in numbers)
        if value in range(len(self.labels)) and not has_numbers:
            return float(value)

        for name in self.labels:
            if name.casefold() == text.casefold():
                raise ValueError(f"expected {name}; labels are case-sensitive")
        if text in ("false", "true") and (self.kind == "yes_no" or self.labels == ("0", "1")):
            return self.parse_label(str(int(text == "true")))  # JSON's
        names = ", ".join(self.labels[:NAMED])
        if len(self.labels) > NAMED:
            names += f", … ({len(self.labels)} labels)"
        indices = "" if has_numbers else f", or a whole number from 0 to {len(self.labels) - 1}"
        raise ValueError(f"expected one of {names}{indices}")


def _checked(name: str, declared: Any, value: Any) -> Any:
    """A value of the declared type, lists as tuples; else ValueError."""
    if get_origin(declared) is tuple:
        value = (value,) if isinstance(value, str) else value
        inner = get_args(declared)[0]
        if isinstance(value, (list, tuple)):
            return tuple(_checked(name, inner, item) for item in value)
        expected = f"a list of {'numbers' if inner is float else 'texts'}"
    elif declared is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        expected = "a number"
    else:
        if isinstance(value, str):
            return value
        expected = "a text in quotes"
    raise ValueError(f"{name} is {value!r}; expected {expected}")


def _number(text: str) -> float | None:
    try:
        value = float(text) if "_" not in text else float("nan")  # Python reads 1_0 as 10
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _of_the_course(name: str, stem: str, **values: Any) -> Task:
    return Task(name=name, train=f"{stem}-train.csv", dev=f"{stem}-dev.csv",
                test=f"{stem}-test-student.csv", id="id", **values)


SENTENCES = ("sentence1", "sentence2")
SST = _of_the_course(
    "sst", "ids-sst", title="sentiment (SST)", kind="classes", text=("sentence",),
    label="sentiment", prediction_column="Predicted_Sentiment",
    labels=("very negative", "negative", "neutral", "positive", "very positive"))
PARA = _of_the_course(
    "para", "quora", title="paraphrase (Quora)", kind="yes_no", text=SENTENCES,
    label="is_duplicate", prediction_column="Predicted_Is_Paraphrase",
    labels=("not a duplicate", "duplicate"))
STS = _of_the_course(
    "sts", "sts", title="similarity (STS)", kind="scale", text=SENTENCES, label="similarity",
    labels=("unrelated", "the same"),
    prediction_column="Predicted_Similiary")  # spelt so by the course, whose checker reads it
CFIMDB = _of_the_course(
    "cfimdb", "ids-cfimdb", title="film reviews (CFIMDB)", kind="classes", text=("sentence",),
    label="sentiment", prediction_column="Predicted_Sentiment", labels=("negative", "positive"))

# What --nli trains the encoder on first; its head is dropped afterwards.
NLI = Task(
    name="nli", title="inference (MultiNLI)", kind="classes", text=SENTENCES, label="gold_label",
    labels=("entailment", "neutral", "contradiction"), id="pairID",
    train="multinli_1.0_train.jsonl", dev="multinli_1.0_dev_matched.jsonl")

# The paper's tasks in its order, which is that of the gradient matrix's rows; the default.
TASKS = {task.name: task for task in (SST, PARA, STS)}
# What --tasks knows by name. A file named by --import may add to it.
BUILT_IN = {**TASKS, CFIMDB.name: CFIMDB}


def are_the_papers(names: Iterable[str]) -> bool:
    """Whether these are the paper's three tasks: only then its scores and averages apply."""
    return sorted(names) == sorted(TASKS)
