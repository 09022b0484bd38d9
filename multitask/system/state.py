"""The state of optimizers and random generators as named tensors, checked when it is restored."""

from collections.abc import Mapping

import torch

from optim import AdamW


def check_like(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Checks tensors that were read from a file.

    Raises:
        ValueError: an expected tensor is missing, has another shape or dtype, or is not finite.
    """
    for name, like in expected.items():
        if name not in found:
            raise ValueError(f"it lacks {name}")
        value = found[name]
        if value.shape != like.shape:
            shape, expected_shape = tuple(value.shape), tuple(like.shape)
            raise ValueError(f"{name} has shape {shape}, expected {expected_shape}: it belongs to "
                             "another model, other data or an earlier version of minbert; start "
                             "that run again")
        if value.dtype != like.dtype or not torch.isfinite(value).all():
            raise ValueError(f"{name} holds {value.dtype}, expected {like.dtype}, all of it finite")


def set_generator(generator: torch.Generator, state: Mapping[str, torch.Tensor],
                  name: str) -> None:
    """Restores a generator from state[name]. Raises ValueError if that is missing or unfit."""
    check_like(state, {name: generator.get_state()})
    generator.set_state(state[name])


def random_part(rank: int) -> str:
    """The part of a checkpoint that holds the random state of one process."""
    return f"random_{rank}" if rank else "random"


def random_state() -> dict[str, torch.Tensor]:
    """The states of torch's global generators, which dropout uses."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """The reverse of `random_state`. Raises ValueError if it lacks the CPU's."""
    set_generator(torch.default_generator, state, "cpu")
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def optimizer_state(optimizer: AdamW) -> dict[str, torch.Tensor]:
    """optimizer.NUMBER.KEY → tensor: step and moments of each parameter that has had a gradient."""
    tensors = {}
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    return tensors


def load_optimizer_state(optimizer: AdamW, tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse of `optimizer_state`; ignores tensors of other names.

    What an edited AdamW keeps besides step and moments comes back, too, numbers as tensors.

    Raises:
        ValueError: the moments do not fit the parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    for number, parameter in enumerate(parameters):
        start = f"optimizer.{number}."
        # not by load_state_dict, which casts all to the parameter's dtype
        kept = {name.removeprefix(start): value.to(parameter.device, copy=True)
                for name, value in tensors.items() if name.startswith(start)}
        if not kept:  # it has had no gradient so far
            continue
        check_like(tensors, {start + "step": torch.tensor(0), start + "exp_avg": parameter,
                             start + "exp_avg_sq": parameter})
        optimizer.state[parameter] = {**kept, "step": int(kept["step"])}
