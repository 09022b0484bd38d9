"""Three tasks, one encoder: data, training with gradient surgery, evaluation, reports.

>>> from multitask import MultitaskBert
"""

from .model import MultitaskBert
from .tasks import TASKS, Task

__all__ = ["TASKS", "MultitaskBert", "Task"]
