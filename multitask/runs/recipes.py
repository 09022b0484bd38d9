"""--recipe: named settings, and the defaults where none is named."""

import argparse
from collections.abc import Sequence

from minbert.checkpoints.hub import EMBEDDED
from multitask.system.command import flag_of
from multitask.tasks import TASKS, Task

from .inputs import DEFAULT_MODEL, SCRATCH
from .settings import Settings

PAPER, BEST = "paper", "best"

# recipe → flag of train_multitask.py → value
RECIPES: dict[str, dict[str, object]] = {
    PAPER: {"epochs": 10, "lr": 1e-5},
    BEST: {
        "arch": "concatB_mean", "gs": "bd", "batch_sizes": "sst=5,para=24,sts=6",
        "surgery": "constant:weights=1+1+0.1", "epochs": 2, "lr": 1e-4, "warmup": 0.06,
        "schedule": "linear", "weight_decay": 0.01, "max_length": 128,
    },
}
# recipe → the checkpoint it was found with, the default on real data
ENCODERS = {BEST: "sentence-transformers/all-MiniLM-L6-v2"}
OF_SURGERY = ("batch_sizes", "surgery")  # settings that mean nothing with another --gs

# The sample is small: fewer epochs and larger steps, larger still for a small encoder or random
# weights.
ON_SAMPLE = {SCRATCH: {"epochs": 5, "lr": 5e-4}, EMBEDDED: {"epochs": 1, "lr": 4e-4}}
OTHERS_ON_SAMPLE = {"epochs": 5, "lr": 5e-5}


def default_model(recipe: str | None, on_sample: bool) -> str:
    return EMBEDDED if on_sample else ENCODERS.get(recipe, DEFAULT_MODEL)


def defaults(model: str | None, on_sample: bool) -> dict[str, object]:
    """Epochs and learning rate where neither flags nor a recipe name them."""
    return ON_SAMPLE.get(model, OTHERS_ON_SAMPLE) if on_sample else RECIPES[PAPER]


def with_recipe(arguments: argparse.Namespace) -> argparse.Namespace:
    """The flags, and those of --recipe that are not given.

    Raises:
        ValueError: --mode chooses the stages, and so does the recipe.
    """
    if arguments.recipe is None:
        return arguments

    recipe = RECIPES[arguments.recipe]
    if arguments.mode is not None and "gs" in recipe:
        raise ValueError(f"--mode and --recipe {arguments.recipe} both choose the stages: give one "
                         "of them")
    is_other = arguments.gs is not None and arguments.gs != recipe.get("gs")
    taken = {name: value for name, value in recipe.items()
             if getattr(arguments, name) is None and not (is_other and name in OF_SURGERY)}
    return argparse.Namespace(**{**vars(arguments), **taken})


def check_tasks(recipe: str | None, tasks: Sequence[Task]) -> None:
    """Raises ValueError if the recipe is for other tasks."""
    names = tuple(task.name for task in tasks)
    if recipe == BEST and names != tuple(TASKS):  # surgery's weights are in this order
        raise ValueError(f"--recipe {recipe} is for --tasks {','.join(TASKS)}, not for "
                         f"{','.join(names)}")


def describe_recipe(settings: Settings) -> str:
    """The recipe's flags, with the values that the run has."""
    flags = []
    for name in RECIPES[settings.recipe]:
        value = getattr(settings, name)
        if isinstance(value, dict):
            value = ",".join(f"{task}={size}" for task, size in value.items())
        if value:  # with another --gs there are no sizes
            flags.append(f"{flag_of(name)} {value}")
    return f"{settings.recipe} ({' '.join(flags)})"
