"""Everything that decides what a run computes, as one frozen record that is saved with it."""

import dataclasses
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from heads import ARCHITECTURES
from minbert.files import Saved, one_line
from multitask.data.sampling import ANNEAL, ROUND_ROBINS
from multitask.description import SAMPLE, tasks_from
from multitask.system.command import flag_of
from multitask.system.device import DEVICES, PRECISIONS
from multitask.tasks import TASKS, Task
from multitask.training.step import ENCODER, layers_at_once
from optim import SCHEDULES, SURGERY, Method

DEFAULT_ARCH = "concatB"
NO_SURGERY_STAGE = "none"
STOP, SKIP = "stop", "skip"  # what to do about a loss or a gradient that is not finite
NONFINITE_ADVICE = f"--on-nonfinite {SKIP} skips such steps, a lower --lr may avoid them"
LARGEST = 1e15  # of a learning rate, weight decay or clip norm: float32 holds the product of two
# by --resume: what was computed stays valid. Data may have moved; their content is compared.
CHANGEABLE = ("on_nonfinite", "checkpoint_every", "accumulate", "data", "tensorboard", "device")
PLAIN_VARIABLE = "MINBERT_PLAIN"  # environment variable; 1 chooses the plain forms, as --plain does

# setting → the values that it can take, which train_multitask.py offers
CHOICES = {
    "arch": ARCHITECTURES, "gs": (*ROUND_ROBINS, ANNEAL, NO_SURGERY_STAGE), "schedule": SCHEDULES,
    "device": DEVICES, "precision": PRECISIONS, "on_nonfinite": (STOP, SKIP),
}
HINT = ", or name the file that defines it with --import FILE.py"
# settings, what they may be, and what an error says of other values
RANGES = (
    (("epochs", "batch_size", "accumulate", "max_steps", "eval_limit", "checkpoint_every"),
     lambda value: value >= 1, "must be at least 1"),
    (("lr", "head_lr", "clip", "weight_decay"),
     lambda value: 0 <= value <= LARGEST, f"must be 0 or more, and at most {LARGEST:g}"),
    (("warmup",), lambda value: 0 <= value < 1, "must be a share of all steps, from 0 to below 1"),
    (("seed",), lambda value: 0 <= value < 2**63, "must be from 0 to 2^63 - 1"),
    (("max_length",), lambda value: value >= 3,
     "must be at least 3, since [CLS] and [SEP] take two tokens"),
)


def try_method(surgery: str, tasks: int) -> None:
    """Raises ValueError for a method that does not exist, or fails on so many tasks."""
    method = Method(surgery)
    if tasks > 1:  # else it is not used
        method(torch.eye(tasks), torch.Generator(), torch.ones(tasks))


@dataclass(frozen=True)
class Settings(Saved):
    """One run of the main job; the names are the flags of train_multitask.py.

    Under torchrun each process takes batch_size examples of a task; all share batch_sizes.

    Args:
        recipe: the name of the settings that flags changed, in runs.recipes; None is none.
        model: None takes the default model of the data.
        start: the run whose model is started from, in place of `model`.
        tasks: those that are trained, in the order of the gradient matrix's rows.
        data: folder of the built-in tasks' files; None takes those of the embedded sample.
        surgery: a name in optim.SURGERY, with options: "cagrad:c=0.4".
        surgery_by: see SurgeryTrainer.
        head_lr: of the heads, in every stage; None is `lr`.
        batch_size: None is the paper's: 16 for wrap and NLI, 8 for FL.
        max_length: tokens at which inputs are cut; None is the encoder's number of positions.
        batch_sizes: task → size for bd; empty is the paper's rule (Eq. 6).
        accumulate: the number of pieces in which the encoder's batches are computed.
        checkpoint_every: in steps; None spaces checkpoints to take 1 % of the time.
        plain: every computation by the plain forms.
        tensorboard: write the log's numbers for TensorBoard too.

    Raises:
        ValueError: a value is out of range; the message names its flag.
    """

    arch: str
    gs: str
    nli: bool = False
    fl: bool = False
    surgery: str = "pcgrad"
    surgery_by: str = ENCODER
    recipe: str | None = None
    model: str | None = None
    start: str | None = None
    tasks: tuple[Task, ...] = dataclasses.field(default_factory=lambda: tuple(TASKS.values()))
    data: str | None = None
    max_length: int | None = None
    epochs: int = 10
    lr: float = 1e-5
    head_lr: float | None = None
    batch_size: int | None = None
    batch_sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    accumulate: int = 1
    warmup: float = 0.0
    schedule: str = "constant"
    clip: float = 0.0
    weight_decay: float = 0.0
    seed: int = 11711
    max_steps: int | None = None
    eval_limit: int | None = None
    on_nonfinite: str = STOP
    checkpoint_every: int | None = None
    device: str = "auto"
    precision: str = "auto"
    plain: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tasks_from(self.tasks))
        check_values(self, CHOICES, RANGES)
        try:
            try_method(self.surgery, len(self.tasks))
        except ValueError as error:
            hint = "" if self.surgery.split(":")[0] in SURGERY else HINT
            raise ValueError(f"--surgery {self.surgery}: {one_line(error)}{hint}") from None
        layers_at_once(self.surgery_by)
        sizes, names = self.batch_sizes, [task.name for task in self.tasks]
        if sizes and (set(sizes) != set(names) or min(sizes.values()) < 1):
            raise ValueError(f"--batch-sizes: give a size of 1 or more for each of "
                             f"{', '.join(names)}, for example sst=1,para=24,sts=1")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in their order; without any of the three, the paper's baseline."""
        wanted = {"nli": self.nli, "gs": self.gs != NO_SURGERY_STAGE, "fl": self.fl}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted) or ("baseline",)

    @property
    def chain(self) -> str:
        """The stages in one word, as flags name them: nli+wrap+fl, and none for the baseline."""
        return "+".join(stage if stage in ("nli", "fl") else self.gs for stage in self.stages)

    @property
    def has_surgery(self) -> bool:
        """Whether tasks' gradients are combined by the surgery method."""
        return self.gs in ROUND_ROBINS and len(self.tasks) > 1

    @property
    def uses_sample(self) -> bool:
        return is_on_sample(self.data, self.tasks)

    @property
    def data_title(self) -> str:
        """The data in words."""
        return self.data or (SAMPLE if self.uses_sample else "the tasks' own files")


def is_on_sample(data: str | None, tasks: Sequence[Task]) -> bool:
    """Whether a task's examples come from the embedded sample."""
    return data is None and not all(task.has_own_files for task in tasks)


def check_values(settings: object, choices: Mapping[str, Collection[str]],
                 ranges: Sequence[tuple]) -> None:
    """Raises ValueError, naming the flag, for a wrong type, choice or range; None has no range.

    Args:
        choices: as CHOICES.
        ranges: as RANGES.
    """
    for field in dataclasses.fields(settings):
        if field.name != "tasks":
            check_type(field.name, getattr(settings, field.name), field.type)
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            hint = HINT if name == "arch" else ""
            raise ValueError(f"{flag_of(name)} {value}: choose from {', '.join(known)}{hint}")
    for names, fits, expected in ranges:
        for name in names:
            value = getattr(settings, name)
            if value is not None and not fits(value):
                raise ValueError(f"{flag_of(name)} {reprlib.repr(value)}: {expected}")


def check_type(name: str, value: object, declared: Any) -> None:
    """Raises ValueError for types that a file can hold and a flag cannot: "1" for 1, 1.5 epochs."""
    accepted = {float: int | float, float | None: int | float | None, dict[str, int]: dict}
    right = isinstance(value, accepted.get(declared, declared))
    right = right and (declared is bool or not isinstance(value, bool))  # True is an int
    if right and isinstance(value, dict):
        right = all(type(size) is int for size in value.values())
    if not right:
        expected = declared.__name__ if type(declared) is type else declared
        raise ValueError(f"{flag_of(name)} {reprlib.repr(value)}: expected {expected}")


def parse_batch_sizes(text: str) -> dict[str, int]:
    """sst=1,para=24,sts=1 → {"sst": 1, "para": 24, "sts": 1}."""
    sizes = {}
    try:
        for item in text.split(","):
            name, size = item.split("=")
            sizes[name.strip()] = int(size)
    except ValueError:
        expected = "expected for example sst=1,para=24,sts=1"
        raise ValueError(f"--batch-sizes {text}: {expected}") from None
    return sizes
