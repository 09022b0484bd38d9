"""A method by its name, with its options, ready to be called at every step."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial

import torch

from optim.surgery import paper_weights, pcgrad_weights, sum_weights

from . import controls, descent, fairness, losses, vaccine

# --surgery → a function (gram, …) → weights, or a class whose instances are called so and keep
# `state`. It names what else it takes: generator, losses, epoch; further arguments are options.
SURGERY: dict[str, Callable] = {
    "pcgrad": pcgrad_weights, "paper": paper_weights, "sum": sum_weights,
    "mgda": descent.mgda_weights, "cagrad": descent.cagrad_weights,
    "upgrad": descent.upgrad_weights, "dualproj": descent.dualproj_weights,
    "normalised": fairness.normalised_weights, "imtlg": fairness.imtlg_weights,
    "config": fairness.config_weights, "nashmtl": fairness.nashmtl_weights,
    "fairgrad": fairness.fairgrad_weights, "alignedmtl": fairness.alignedmtl_weights,
    "gradvac": vaccine.GradVac, "gradnorm": losses.GradNorm,
    "uncertainty": losses.Uncertainty, "dwa": losses.DynamicWeightAverage, "famo": losses.Famo,
    "rlw": controls.rgw_weights, "rgw": controls.rgw_weights, "constant": controls.constant,
}
GIVEN = ("generator", "losses", "epoch")  # what a method may name
NO_OPTIONS = ("gram", *GIVEN, "order")


class SurgeryError(ValueError):
    """A surgery method failed when it was called."""


class Method:
    """A surgery method, ready to be called at every step.

    Args:
        chosen: a name in SURGERY, with options if need be: "cagrad:c=0.4"; or a function of the
            Gram matrix, or an object that is called like one and keeps its own state.

    Raises:
        ValueError: there is no such method or option, or an option's value is not of its type.

    >>> Method("mgda:normalise=true")(torch.tensor([[1.0, 0.0], [0.0, 4.0]])).tolist()
    [0.5, 0.25]
    """

    def __init__(self, chosen: str | Callable) -> None:
        if isinstance(chosen, type):
            name = chosen.__name__
            raise ValueError(f"the surgery method {name} is a class: give an instance, {name}()")
        self.name = chosen if isinstance(chosen, str) else getattr(chosen, "__name__", "own")
        # SURGERY may hold an object: a copy, so that each Method has its own state
        self._weights = copy.deepcopy(_with_options(chosen)) if isinstance(chosen, str) else chosen
        # calling a module takes anything, but its forward does not
        called = getattr(self._weights, "forward", self._weights)
        named = inspect.signature(called).parameters
        # **named, of a wrapper say, gets what methods have always got
        takes_any = any(value.kind is value.VAR_KEYWORD for value in named.values())
        self._named = [name for name in GIVEN
                       if name in named or (takes_any and name == "generator")]

    def __call__(self, gram: torch.Tensor, generator: torch.Generator | None = None,
                 losses: torch.Tensor | None = None, epoch: int = 0) -> torch.Tensor:
        """The weights of the tasks' gradients.

        Args:
            gram: (tasks, tasks).
            generator: of all random choices.
            losses: (tasks,), of the batches that the gradients are from.
            epoch: its number.

        Returns:
            (tasks,), of gram's type.

        Raises:
            SurgeryError: the method raised ValueError or LinAlgError, or returned another shape or
                numbers that are not finite.
        """
        losses = None if losses is None else losses.cpu()  # methods compute there, in float64
        given = {"generator": generator, "losses": losses, "epoch": epoch}
        try:
            found = self._weights(gram.cpu(), **{name: given[name] for name in self._named})
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise SurgeryError(error) from error
        weights = torch.as_tensor(found, dtype=gram.dtype, device=gram.device)
        if weights.shape != gram.shape[:1]:
            raise SurgeryError(f"the surgery method returned shape {tuple(weights.shape)}, "
                               f"expected one weight for each of {len(gram)} tasks")
        if not torch.isfinite(weights).all():
            raise SurgeryError(f"the surgery method {self.name} returned {weights.tolist()}: "
                               "weights must be finite")
        return weights

    @property
    def observe(self) -> Callable[[torch.Tensor], None] | None:
        """What takes the losses after the update, (tasks,), if the method asks for them."""
        observe = getattr(self._weights, "observe", None)
        return observe and (lambda losses: observe(losses.detach().cpu()))

    @property
    def remembers(self) -> bool:
        """Whether its weights depend on earlier steps."""
        return hasattr(self._weights, "state")

    @property
    def state(self) -> MutableMapping[str, torch.Tensor]:
        """What it remembers, by name; empty for a function of K alone."""
        return getattr(self._weights, "state", {})

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue where `state` was taken."""
        self.state.clear()
        self.state.update({name: value.clone() for name, value in state.items()})


def _with_options(text: str) -> Callable:
    name, _, rest = text.partition(":")
    if name not in SURGERY:
        raise ValueError(f"there is no surgery method {name!r}; choose from {', '.join(SURGERY)}")
    made = SURGERY[name]
    known = {key: value.default for key, value in inspect.signature(made).parameters.items()
             if key not in NO_OPTIONS and value.default is not value.empty}

    options = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            its = f"its options are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no option {key!r}; {its}")
        options[key] = _parsed(f"{name}: {key}", value, known[key])
    if isinstance(made, type):
        return made(**options)
    if options and hasattr(made, "state"):
        raise ValueError(f"{name} is already an object: put its class into SURGERY")
    return partial(made, **options) if options else made


def _parsed(where: str, text: str, default: object) -> object:
    """An option's value, of the type of its default."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{where} is {text!r}, expected true or false")
        return text == "true"
    if default is None or isinstance(default, str):
        return text
    made, expected = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        number = made(text)
    except ValueError:
        number = math.nan
    if not abs(number) < math.inf:
        raise ValueError(f"{where} is {text!r}, expected {expected}")
    return number
