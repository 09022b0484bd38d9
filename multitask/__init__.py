"""Several tasks, one encoder: data, training with gradient surgery, evaluation, reports.

>>> from multitask import MultitaskBert
"""

from .commands import spin_briefly_in_commands

spin_briefly_in_commands()  # before anything imports torch

from .model import MultitaskBert, Predictions  # noqa: E402
from .tasks import TASKS, Task  # noqa: E402

__all__ = ["TASKS", "MultitaskBert", "Predictions", "Task"]
