"""Three tasks, one encoder: data, training with gradient surgery, evaluation, reports.

>>> from multitask import MultitaskBert
"""

from typing import TYPE_CHECKING

from .tasks import TASKS, Task

if TYPE_CHECKING:
    from .model import MultitaskBert

__all__ = ["TASKS", "MultitaskBert", "Task"]


def __getattr__(name: str) -> object:
    """MultitaskBert when it is asked for: imported here, it would bring in data.py before `python -m` can run that."""
    if name == "MultitaskBert":
        from .model import MultitaskBert

        return MultitaskBert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
