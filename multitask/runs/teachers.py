"""--teachers: half of each training label becomes what trained runs answer (distillation).

Several models, or models of single tasks, are distilled into one (Hinton et al. 2015, 1503.02531;
Clark et al. 2019, 1907.04829). The losses are linear in the label, or quadratic, so that
½ loss(label) + ½ loss(answer) is the loss of the mean of both, but for a constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from minbert.files import one_line
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .folder import CONFIG_FILE
from .plans import Run
from .settings import Settings

TAUGHT = ("classes", "yes_no", "scale")  # kinds whose loss takes soft labels


def soft_labels(task: Task, labels: torch.Tensor, logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of labels and the teachers' mean answer, as `task.loss` takes them.

    Args:
        labels: (n,).
        logits: a tensor (n, outputs) of each teacher.

    Returns:
        (n, classes) shares where a head has an output for each class; else (n,), the share of yes,
        or numbers on the scale.
    """
    if not task.classes:
        answers = [task.decode(each) for each in logits]
    elif task.outputs == 1:
        answers = [task.probabilities(each)[:, 1] for each in logits]
    else:
        answers = [task.probabilities(each) for each in logits]
        labels = F.one_hot(labels.long(), task.classes)
    return (labels + torch.stack(answers).mean(0)) / 2


def teach(run: Run) -> None:
    """Gives soft labels to the training examples of the tasks that the teachers have."""
    logits: dict[str, list[torch.Tensor]] = {}
    for folder in run.settings.teachers:
        teacher = open_teacher(folder, run.settings).to(run.model.device)
        for name in (name for name in run.tasks if name in teacher.tasks):
            run.say(f"note:  {folder} answers the training examples of {name}")
            examples = teacher.tokenize(run.dataset[name]["train"])
            logits.setdefault(name, []).append(teacher.predict_logits(name, examples, run.ranks))

    for name, answers in logits.items():
        train = run.tokens[name]["train"]
        labels = torch.from_numpy(train.labels)
        train.labels = soft_labels(run.tasks[name], labels, answers).float().numpy()


def open_teacher(folder: str, settings: Settings) -> MultitaskBert:
    """A trained model that knows some of the run's tasks.

    Warns if it may have been trained on dev examples of the run.

    Raises:
        ValueError: it cannot be opened, has none of these tasks, or other labels for one.
    """
    tasks = settings.tasks
    try:
        teacher = MultitaskBert.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"--teachers {folder}: {one_line(error)}") from None

    known = [task for task in tasks if task.name in teacher.tasks]
    if not known:
        raise ValueError(f"--teachers {folder}: its tasks are {', '.join(teacher.tasks)}, and none "
                         "of them is trained here")
    for task in known:
        theirs = teacher.tasks[task.name]
        if (theirs.kind, theirs.labels, theirs.range) != (task.kind, task.labels, task.range):
            raise ValueError(f"--teachers {folder}: {task.name} has other labels there: "
                             f"{theirs.meaning}; here: {task.meaning}")
        if task.kind not in TAUGHT:
            raise ValueError(f"--teachers: {task.name} is of kind {task.kind}, and soft labels are "
                             f"for {', '.join(TAUGHT)}")

    config = Path(folder) / CONFIG_FILE
    seed = Settings.load(config).seed if config.is_file() else settings.seed
    if seed != settings.seed and any(task.dev_share for task in known):
        warnings.warn(f"--teachers {folder}: its seed {seed} drew other dev examples (dev_share), "
                      "so it may have trained on those of this run; name a dev file, or take the "
                      "same seed", stacklevel=2)
    return teacher
