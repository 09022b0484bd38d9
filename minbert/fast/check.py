"""The comparison at first use: edit an equation in the book, and the program follows.

A tiny model of the same class, with random weights in float64, goes through the book's forward and
through the fast forms, values and gradients, without dropout and with it. Then the model itself
does, values only and without dropout, since it has more layers and positions, and other settings.
Where the results differ, the plain form runs from then on, and one warning says what differed. A
function of the book, a part or a setting that is replaced later, as in a notebook, is noticed and
compared again.
"""

import sys
import threading
import types
import warnings
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from minbert.files import one_line

from .dropout import SameDraws
from .packed import encode_layers
from .packing import Packing

BOOK = "minbert/embeddings.py, attention.py, layer.py, activations.py and model.py"
FAST = "minbert/fast/layer.py"
LENGTHS = (5, 8, 1, 3)  # of different blocks, with padding
SHAPE = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 8, "type_vocab_size": 2,
         "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2,
         "layer_norm_eps": 0.1}  # large enough to be seen

LONGEST = 128  # tokens, in the comparison of the model itself

_state = threading.local()
_lock = threading.RLock()


class Reference(NamedTuple):
    """The classes that the fast forms equalled."""

    embeddings: type
    layer: type
    attention: type


# What was compared → the book's functions, kept so that ids stay theirs; and the result.
_references: dict[tuple, tuple[tuple[object, ...], Reference | None]] = {}
# A model → what it was made of when it was compared itself, and whether both forms agreed.
_models: WeakKeyDictionary[nn.Module, tuple[list, bool]] = WeakKeyDictionary()
NOT_COMPARED: tuple[list, bool] = [], False


def is_running() -> bool:
    """Whether this thread is computing the book's side of a comparison."""
    return getattr(_state, "is_running", False)


def reference_of(model: nn.Module) -> Reference | None:
    """The classes whose forward the fast forms equal on this model's device, or None."""
    functions = tuple(_functions_of_book(model))
    device = next(model.parameters()).device.type
    key = (type(model), model.config.hidden_act, device, *map(id, functions))
    if key not in _references:
        with _lock:
            if key not in _references:
                _references[key] = functions, _compared(model, device)
    return _references[key][1]


def agree_on(model: nn.Module, parts: Sequence[nn.Module], reference: Reference) -> bool:
    """Whether book and fast forms give the same on this very model; parts: all its modules."""
    # There is one reference for each state of the book. The model itself would stay in memory.
    made_of = [model.config, id(reference), *parts[1:]]
    if _models.get(model, NOT_COMPARED)[0] != made_of:
        with _lock:
            if _models.get(model, NOT_COMPARED)[0] != made_of:
                if len({parameter.device for parameter in model.parameters()}) > 1:
                    return False  # what runs will say so
                _models[model] = made_of, _compared_itself(model, parts)
    return _models[model][1]


def _functions_of_book(model: nn.Module) -> Iterator[object]:
    """The code of every function in the modules that define the model's parts.

    Closures of one factory, and functions with other defaults, share their code; partials and other
    callable objects have none. These stand for themselves. In a script or notebook only the code
    counts, since names are bound anew all the time there, and what is yielded is kept in memory.
    """
    parts = [model, model.embeddings]
    for layer in model.layers[:1]:
        parts.append(layer)
        for name in ("self_attention", "activation"):
            parts.append(getattr(layer, name, layer))  # a user's own layer may lack them
    names = dict.fromkeys(type(part).__module__ for part in parts)
    for name in names:
        module = sys.modules.get(name)  # None for a class from a file that is no module
        for value in vars(module).values() if module else ():
            is_own_class = isinstance(value, type) and value.__module__ == name
            for item in vars(value).values() if is_own_class else [value]:
                stands_for_itself = callable(item) and not isinstance(item, (type, nn.Module))
                if isinstance(item, types.FunctionType):
                    yield item.__code__
                    stands_for_itself = item.__closure__ or item.__defaults__
                if stands_for_itself and name != "__main__":
                    yield item


def _compared(model: nn.Module, device: str) -> Reference | None:
    tiny = None

    def compare() -> str | None:
        nonlocal tiny
        tiny = type(model)(type(model.config)(**SHAPE, hidden_act=model.config.hidden_act))
        return difference(tiny, device)

    if not _agree(compare, device):
        return None
    layer = tiny.layers[0]
    return Reference(type(tiny.embeddings), type(layer), type(layer.self_attention))


def _agree(compare: Callable[[], str | None], device: str) -> bool:
    """Whether `compare` finds no difference; else one warning says what it found."""
    try:
        # The caller's modes stay outside, such as a checkpoint that collects what backward needs.
        with (torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad(),
              torch.autocast("cpu", enabled=False), torch.autocast(device, enabled=False),
              torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved),
              torch.device("cpu")):
            found = compare()
    except BdbQuit:  # a debugger inside the comparison
        raise
    except Exception as error:  # the plain form will raise it again, where it runs
        found = f"{type(error).__name__}: {one_line(error)}"
    if found is not None:
        warnings.warn(f"The book ({BOOK}) and {FAST} do not agree: {found}. If you changed an "
                      "equation, that is why. The book runs from now on, as written and more "
                      "slowly. It draws other dropout: to compare it with the original, run both "
                      "with --plain (MINBERT_PLAIN=1)", stacklevel=2)
    return found is None


def difference(tiny: nn.Module, device: str) -> str | None:
    """What differs between the book and the fast forms on a tiny model; None if nothing does."""
    generator = torch.Generator().manual_seed(0)
    for parameter in tiny.parameters():
        parameter.data.normal_(0.0, 0.5, generator=generator)
    tiny.double().eval()

    found = _where_they_differ(tiny, "", LENGTHS)
    found = found or _where_they_differ(tiny, " of the first tokens", LENGTHS, first_only=True)
    if found is None:
        # One block without padding: then both forms draw the same masks in the same order.
        tiny.train()
        with SameDraws():
            found = _where_they_differ(tiny, " with dropout", (8, 8))

    if found is None and device != "cpu":
        # A GPU's kernels take float32. Where dropout stands in the book was compared above.
        tiny.float().to(device).eval()
        found = _where_they_differ(tiny, f" on {device}", LENGTHS)
    return found


def _compared_itself(model: nn.Module, parts: Sequence[nn.Module]) -> bool:
    config, weight = model.config, next(model.parameters())

    def rows(name: str, configured: int) -> int:
        """Of a table, which may have been cut."""
        table = getattr(model.embeddings, name, None)
        return min(configured, len(table.weight)) if isinstance(table, nn.Embedding) else configured

    @torch.no_grad()
    def compare() -> str | None:
        longest = min(LONGEST, rows("position_embeddings", config.max_position_embeddings))
        packing = Packing.from_lengths((longest, max(1, longest // 2), 1)).to(weight.device)
        tokens = torch.arange(int(packing.lengths.sum()), device=weight.device)
        ids = tokens % rows("word_embeddings", config.vocab_size)
        token_types = tokens // 3 % rows("token_type_embeddings", config.type_vocab_size)
        with _the_book_alone():
            out = model(packing.pad(ids), packing.mask, packing.pad(token_types))
        row = model.embeddings(ids, token_types, packing.position_ids)
        row = encode_layers(model, row, packing)
        pairs = {"the outputs": (packing.unpad(out.last_hidden_state), row),
                 "the pooler's outputs": (out.pooler_output, model.pool(packing.first_tokens(row)))}

        tolerance = 2e-3 if weight.dtype in (torch.float32, torch.float64) else 0.1
        for name, (expected, found) in pairs.items():
            off = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
            if off > tolerance:  # not so if a weight is not finite
                return f"{name} of this model differ by {off:.2g}"
        return None

    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        return _agree(compare, weight.device.type)
    finally:
        for part in training:
            part.training = True


@contextmanager
def _the_book_alone() -> Iterator[None]:
    """Inside, this thread runs the book; another may use the same model."""
    _state.is_running = True
    try:
        yield
    finally:
        _state.is_running = False


def _where_they_differ(tiny: nn.Module, case: str, lengths: tuple[int, ...],
                       first_only: bool = False) -> str | None:
    """Compare outputs and all gradients of a weighted sum of them."""
    weight = next(tiny.parameters())
    packing = Packing.from_lengths(lengths)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(SHAPE["vocab_size"], (sum(lengths),), generator=generator).to(weight.device)
    token_types = torch.randint(2, (sum(lengths),), generator=generator).to(weight.device)
    packing = packing.to(weight.device)

    def plain() -> torch.Tensor:
        out = tiny(packing.pad(ids), packing.mask, packing.pad(token_types))
        return out.last_hidden_state[:, 0] if first_only else packing.unpad(out.last_hidden_state)

    def fast() -> torch.Tensor:
        embedded = tiny.embeddings(ids, token_types, packing.position_ids)
        return encode_layers(tiny, embedded, packing, first_only)

    with _the_book_alone():
        expected = _value_and_gradients(plain, tiny)
    found = _value_and_gradients(fast, tiny)

    tolerance = 1e-9 if weight.dtype == torch.float64 else 1e-3
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        off = float((found[name] - value).abs().max()) / scale
        if not off <= tolerance:
            return f"{name}{case} differ by {off:.2g}"
    return None


def _value_and_gradients(forward: Callable[[], torch.Tensor],
                         tiny: nn.Module) -> dict[str, torch.Tensor]:
    torch.default_generator.manual_seed(2)  # the CPU's alone: it is put back, a GPU's is not
    out = forward()
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    named = dict(tiny.named_parameters())
    gradients = torch.autograd.grad((out * weights).sum(), list(named.values()),
                                    materialize_grads=True)

    values = {"the outputs": out.detach()}
    for name, gradient in zip(named, gradients, strict=True):
        values[f"the gradients of {name}"] = gradient.detach()
    return values
