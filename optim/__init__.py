"""Optimizer and gradient surgery, on flat vectors; knows nothing of BERT.

    adamw     AdamW and its update, line by line
    surgery   PCGrad, the paper's Eq. 2–5, the sum, constant weights: from the Gram matrix
    methods   all other methods; SURGERY, the table of all; Method, one by its name
    flat      parameters ↔ one vector; the tasks' gradients ↔ rows of one matrix
    backward  surgery in any training loop, on ordinary parameters
    schedule  step → multiplier of the learning rate
    fast      AdamW's update in one pass, compared with the plain one at first use

>>> from optim import AdamW, project_conflicting
"""

from .adamw import AdamW
from .backward import BackwardResult, average_gradients, multitask_backward
from .flat import FlatParameters, TaskGradients, split_decayed
from .methods import SURGERY, Method, SurgeryError
from .schedule import SCHEDULES, constant, linear_decay
from .surgery import (
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
    "SCHEDULES", "SURGERY", "AdamW", "BackwardResult", "FlatParameters", "Method", "SurgeryError",
    "TaskGradients", "average_gradients", "combine", "constant", "constant_weights", "cosines",
    "gram_matrix", "linear_decay", "multitask_backward", "norm_of_combination", "paper_weights",
    "pcgrad_weights", "project_conflicting", "project_paper", "split_decayed", "sum_weights",
]
