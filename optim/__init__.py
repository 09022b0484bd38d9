"""Optimizer and gradient surgery, on flat vectors; knows nothing of BERT.

>>> from optim import AdamW, project_conflicting
"""

from .adamw import AdamW
from .flat import FlatParameters, TaskGradients, split_decayed
from .schedule import SCHEDULES, constant, linear_decay
from .surgery import (
    SURGERY,
    combine,
    constant_weights,
    cosines,
    gram_matrix,
    norm_of_combination,
    paper_weights,
    pcgrad_weights,
    project_conflicting,
    project_paper,
    sum_weights,
)

__all__ = [
    "SCHEDULES", "SURGERY", "AdamW", "FlatParameters", "TaskGradients", "combine", "constant", "constant_weights",
    "cosines", "gram_matrix", "linear_decay", "norm_of_combination", "paper_weights", "pcgrad_weights",
    "project_conflicting", "project_paper", "split_decayed", "sum_weights",
]
