"""model/tasks.json: what a saved model is. It is all that a command needs to open a run.

A run folder never makes a command execute code: an architecture or a kind of task that Python
defines is named again by --import.
"""

from dataclasses import dataclass

from heads import ARCHITECTURES
from minbert.files import Saved, check_count

from .tasks import TASKS, Task

TASKS_FILE = "tasks.json"
SAMPLE = "the embedded sample"


@dataclass(frozen=True)
class Description(Saved):
    """What a model is besides its weights.

    Attributes:
        arch: a name in heads.ARCHITECTURES.
        precision: "fp32" or "bf16".
        tasks: those with a head.
        max_length: tokens at which inputs are cut; None is the encoder's number of positions.
        data: what it was trained on: SAMPLE, a folder, or "" where that is not known.

    Raises:
        ValueError: a value is not allowed.
    """

    arch: str
    precision: str = "fp32"
    tasks: tuple[Task, ...] = tuple(TASKS.values())
    max_length: int | None = None
    data: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tasks_from(self.tasks))
        if self.arch not in tuple(ARCHITECTURES):
            raise ValueError(f"arch is {self.arch!r}; choose from {', '.join(ARCHITECTURES)}, or "
                             "name the file that defines it with --import FILE.py; in Python, "
                             "import it first")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; expected fp32 or bf16")
        if self.max_length is not None:
            check_count("max_length", self.max_length, least=3)
        if not isinstance(self.data, str):
            raise ValueError(f"data is {self.data!r}; expected a text")


def tasks_from(values: object) -> tuple[Task, ...]:
    """Tasks from their JSON form, a list of objects. Raises TypeError or ValueError."""
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError("tasks: expected a list of objects")
    return tuple(value if isinstance(value, Task) else Task(**value) for value in values)
