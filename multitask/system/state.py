"""The state of optimizers and random generators as tensors by name, checked when it is put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from minbert.files import one_line
from optim import AdamW


def check_like(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError unless all that is expected is found, of the same shape and type, and finite."""
    for name, like in expected.items():
        if name not in found:
            raise ValueError(f"it lacks {name}")
        value = found[name]
        if value.shape != like.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(like.shape)}: it is of another "
                             "model, of other data or of an earlier version of this code; start that run anew")
        if value.dtype != like.dtype or not torch.isfinite(value).all():
            raise ValueError(f"{name} holds {value.dtype}, expected {like.dtype}, all of it finite")


def set_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    """Raises ValueError for what is no state of such a generator."""
    check_like({"a random state": state}, {"a random state": generator.get_state()})
    try:
        generator.set_state(state)
    except RuntimeError as error:
        raise ValueError(f"a random state is none ({one_line(error)})") from None


def random_part(rank: int) -> str:
    """The part of a checkpoint that holds the random state of one of several processes."""
    return f"random_{rank}" if rank else "random"


def random_state() -> dict[str, torch.Tensor]:
    """The states of torch's global generators, on which dropout draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Raises KeyError or ValueError for what `random_state` did not give."""
    set_generator(torch.default_generator, state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


# what AdamW keeps of a parameter, and what it is like
STATE = {"step": lambda parameter: torch.tensor(0), "exp_avg": lambda parameter: parameter,
         "exp_avg_sq": lambda parameter: parameter}


def optimizer_state(optimizer: AdamW) -> dict[str, torch.Tensor]:
    """optimizer.NUMBER.KEY → tensor, for each parameter's moments and step."""
    return {f"optimizer.{number}.{key}": torch.as_tensor(value)
            for number, values in optimizer.state_dict()["state"].items() for key, value in values.items()}


def load_optimizer_state(optimizer: AdamW, tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse of `optimizer_state`; other tensors are passed over.

    Raises ValueError for moments that do not fit the parameters.
    """
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    left = {name for name in tensors if name.startswith("optimizer.")}
    for number, parameter in enumerate(parameters):
        start = f"optimizer.{number}."
        if any(name.startswith(start) for name in left):  # a parameter without a gradient so far has none
            found = {key: tensors[start + key] for key in STATE if start + key in tensors}
            check_like({start + key: value for key, value in found.items()},
                       {start + key: like(parameter) for key, like in STATE.items()})
            if found["step"] < 1:
                raise ValueError(f"{start}step is {int(found['step'])}, expected at least 1")
            state["state"][number] = {key: int(value) if key == "step" else value.clone()
                                      for key, value in found.items()}
            left -= {start + key for key in STATE}
    if left:
        raise ValueError(f"{one_line(sorted(left)[0])} belongs to no parameter: it is of another model")
    optimizer.load_state_dict(state)
