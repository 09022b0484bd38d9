"""What an exercise is, the library's own answer to it, and that answer with a mistake in it."""

import dataclasses
import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import patch

import torch
from torch import nn

PACKAGES = ("minbert", "optim", "heads", "multitask", "minbert_study")
TEMPLATES = Path(__file__).with_name("folder")
TOLERANCE = 1e-10  # everything is computed in float64, on numbers of size 1
NO_GRADIENT = "none arrives; is something detached on the way, or turned into a Python number?"

# In the order of their numbers: each is a file exNN_NAME.py in folder/ and a module in exercises/.
FILES = {path.stem.partition("_")[2]: path.name for path in sorted(TEMPLATES.glob("ex*_*.py"))}
NAMES = tuple(FILES)


@dataclass(frozen=True, eq=False)
class Check:
    """One claim about a student's code.

    Attributes:
        claim: what holds for right code, in one line.
        run: part → name → what was observed, in the order in which a student should look at it.
            It runs on the student's part and on the expected one, with equal random draws.
        against: what the expected observations are made with, by name; the library's where absent.
        tolerance: name → how far a number may be off, where that is not TOLERANCE.
    """

    claim: str
    run: Callable[[types.SimpleNamespace], dict[str, object]]
    against: Mapping[str, object]
    tolerance: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise.

    Attributes:
        title: what is to be written, for lists.
        places: the library's answers, MODULE:NAME or MODULE:CLASS.METHOD. The student's file
            defines the same last names.
        hints: three, from a question to nearly the code.
        mistakes: those that are recognised, edits of the answer's source, as (says, find,
            replace): the end of a sentence that begins "This is what comes out"; text that the
            source has once; what stands there with the mistake.
        forbidden: names of libraries' functions that would be the answer themselves.
        is_in_place: whether the functions change what they are given.
        is_alone: whether it is checked with the library's other parts, also where the student's
            are done: they may name or order parameters otherwise.
        install: puts a student's part into the library, besides replacing the answers.
        checks: in the order in which they are run; `load` fills them in.
    """

    title: str
    places: tuple[str, ...]
    hints: tuple[str, str, str]
    mistakes: tuple[tuple[str, str, str], ...] = ()
    forbidden: tuple[str, ...] = ()
    is_in_place: bool = False
    is_alone: bool = False
    install: Callable[[types.SimpleNamespace], None] | None = None
    checks: tuple[Check, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the student's file defines."""
        return [name_of(place) for place in self.places]

    @cached_property
    def reference(self) -> types.SimpleNamespace:
        """The library's answers by name."""
        return types.SimpleNamespace(**{name_of(place): resolve_name(place)
                                         for place in self.places})

    def with_mistake(self, find: str, replacement: str) -> types.SimpleNamespace | None:
        """The library's answers with the mistake; None if the source has changed since."""
        for module in dict.fromkeys(place.partition(":")[0] for place in self.places):
            edited = _edited(module, find, replacement)
            if edited is not None:
                found = {name_of(place): attrgetter(place.partition(":")[2])(edited)
                         for place in self.places if place.startswith(f"{module}:")}
                return types.SimpleNamespace(**vars(self.reference) | found)
        return None


@cache
def load(name: str) -> Exercise:
    """The exercise of that name, with all checks of its module in their order there."""
    module = importlib.import_module(f"minbert_study.exercises.{name}")
    checks = tuple(value for value in vars(module).values() if isinstance(value, Check))
    return dataclasses.replace(module.EXERCISE, checks=checks)


def check(against: Mapping[str, object] | None = None,
          tolerance: Mapping[str, float] | None = None) -> Callable[[Callable], Check]:
    """Makes a function a check; its docstring is the claim. See Check."""
    def of(run: Callable) -> Check:
        return Check(" ".join(run.__doc__.split()), run, against or {}, tolerance or {})
    return of


def gradients(output: torch.Tensor, **leaves: torch.Tensor) -> dict[str, object]:
    """An observation for a check: what flows back from a random weighting of the output.

    The weighting has a generator of its own: the student's code may have drawn random numbers.
    """
    found = [None] * len(leaves)
    if output.requires_grad:
        # not randn_like: it draws in the order of memory, which is another one after a transpose
        weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad((output * weighting).sum(), leaves.values(),
                                    allow_unused=True)
    return {f"gradient of {name}": NO_GRADIENT if gradient is None else gradient
            for name, gradient in zip(leaves, found, strict=True)}


def draw_weights(module: nn.Module) -> nn.Module:
    """Draws every parameter, also those that start at 0 or 1; returns the module in eval mode."""
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.normal_(std=0.5)
    return module.eval()


def copy_of(value: object) -> object:
    """A tensor's values as they are now; anything else as it is."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


class Notes(dict):
    """The notes; where one is missing, the reason."""

    def __missing__(self, key: str) -> str:
        part = re.sub(r"\.(\d+)", r"[\1]", key.split()[0])
        if f"{key.split()[0]} gives" in self:
            return f"self.{part} was called without it"
        return f"self.{part} was not called; the constructor makes it for use here"


@contextmanager
def notes_of(module: nn.Module, *parts: str,
             tokens: torch.Size | None = None) -> Iterator[Notes]:
    """Inside, what these parts of a module get and give at their first call is noted.

    With the part "layer_norm": "layer_norm gets" is its first argument, "layer_norm gives" its
    output, and "layer_norm gets NAME" its argument of that name. Vectors in one long row are noted
    in the shape of `tokens`.
    """
    notes = Notes()

    def note(key: str, value: object) -> None:
        value = copy_of(value)
        if (tokens is not None and isinstance(value, torch.Tensor) and value.is_floating_point()
                and value.dim() == 2 and len(value) == tokens.numel()):
            value = value.reshape(*tokens, -1)
        notes.setdefault(key, value)

    def watched(path: str, forward: Callable) -> Callable:
        names = inspect.signature(forward)

        def noting(*args: object, **named: object) -> object:
            given = names.bind(*args, **named).arguments
            note(f"{path} gets", next(iter(given.values()), None))
            for name, value in given.items():
                note(f"{path} gets {name}", value)
            output = forward(*args, **named)
            note(f"{path} gives", output)
            return output
        return noting

    with ExitStack() as stack:
        for path in parts:
            part = module.get_submodule(path)
            # not a hook: right code may call part.forward itself
            stack.enter_context(patch.object(part, "forward", watched(path, part.forward)))
        yield notes


@contextmanager
def equal_draws(seed: int) -> Iterator[None]:
    """Inside, random numbers depend on the seed alone, floats are float64, the plain forms run."""
    dtype = torch.get_default_dtype()
    with patch.dict(os.environ, MINBERT_PLAIN="1"), torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def install(exercise: Exercise, part: object) -> None:
    """Puts a student's part into the library, wherever its answer stands; for this process."""
    for place in exercise.places:
        replace(place, getattr(part, name_of(place)))
    if exercise.install is not None:
        exercise.install(part)


def replace(place: str, new: object) -> None:
    """Puts something in the place of a function, class or method, wherever it was imported to."""
    module, _, name = place.partition(":")
    owner, _, last = name.rpartition(".")
    old = resolve_name(place)
    setattr(resolve_name(f"{module}:{owner}"), last, new)
    for other in list(sys.modules.values()):
        if other.__name__.split(".")[0] in PACKAGES:
            for key in [key for key, value in vars(other).items() if value is old]:
                setattr(other, key, new)


def name_of(place: str) -> str:
    """
    >>> name_of("minbert.model:BertModel.pool")
    'pool'
    """
    return place.partition(":")[2].split(".")[-1]


@cache
def _edited(module: str, find: str, replacement: str) -> types.ModuleType | None:
    """The module with one piece of its source replaced; None if that piece is not there once."""
    original = importlib.import_module(module)
    # an exercise's own reference stands above its list of mistakes, which has the texts once more
    source = inspect.getsource(original).partition("\nEXERCISE = ")[0]
    if source.count(find) != 1:
        return None
    edited = types.ModuleType(f"{module}_edited")
    edited.__package__, edited.__file__ = original.__package__, original.__file__
    sys.modules[edited.__name__] = edited  # dataclasses look their module up
    try:
        exec(compile(source.replace(find, replacement), original.__file__, "exec"), vars(edited))
    finally:
        del sys.modules[edited.__name__]
    return edited
