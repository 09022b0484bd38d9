"""Compares results with the expected ones: the first difference, and the mistake behind it."""

import itertools
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from minbert.files import one_line

from .exercise import TOLERANCE, Check, Exercise, equal_draws
from .worker import plain

SHOWN = 4          # rows of a table of differences
MOST_ROWS = 16     # of a tensor whose wrong rows are listed
EXACT = 1e-6       # how well a pattern must fit before it is named


@dataclass(frozen=True)
class Result:
    """One check of one student.

    Attributes:
        lines: what is wrong, empty if it passed.
        is_begun: False where the exercise is not written yet.
    """

    claim: str
    lines: tuple[str, ...] = ()
    is_begun: bool = True

    @property
    def passed(self) -> bool:
        return not self.lines

    @property
    def mark(self) -> str:
        return "✓" if self.passed else "✗"


def judge(exercise: Exercise, observed: list[dict], end: str | None, seed: int) -> list[Result]:
    """The verdict on every check.

    Args:
        observed: what the student's code gave, see worker.observe; it may have ended early.
        end: why it ended early.
    """
    results, failed = [], []
    for number, check in enumerate(exercise.checks):
        if number >= len(observed):
            reason = end or "this check gave no result"
            results.append(Result(check.claim, (reason,)))
            continue
        found = observed[number]
        if "fault" in found:
            results.append(Result(check.claim, tuple(found["fault"]), found["is_begun"]))
            continue
        expected = expectation(exercise, check, seed)
        lines = difference(found["observed"], expected, check.tolerance)
        if lines:
            failed.append(number)
        results.append(Result(check.claim, tuple(lines)))

    if failed and (says := recognise(exercise, observed, failed, seed)) is not None:
        first = results[failed[0]]
        results[failed[0]] = Result(first.claim, (*first.lines, says))
    return results


@cache
def expectation(exercise: Exercise, check: Check, seed: int) -> dict:
    """What right code gives; computed once for all students who are graded."""
    return run_check(check, types.SimpleNamespace(**vars(exercise.reference) | dict(check.against)),
                     seed)


def run_check(check: Check, part: types.SimpleNamespace, seed: int) -> dict:
    """What a check observes of the library's own part, or of one with a mistake."""
    with equal_draws(seed):
        return plain(check.run(part))


def recognise(exercise: Exercise, observed: list[dict], failed: list[int],
              seed: int) -> str | None:
    """The classic mistake that gives what the student's code gives, in as many checks as it can.

    It explains the first failing check, under which it is told, and at least half of all that fail.
    Among equals it is the one that also passes most of what the student's code passes. One that
    fails more than half of that is not what the student did. Where all that differs is that parts
    were not called, which has many causes, it has to explain all.
    """
    passed = [number for number, found in enumerate(observed)
              if "observed" in found and number not in failed]

    def is_telling(number: int) -> bool:
        """Whether something differs besides parts that were not called, see exercise.Notes."""
        check, yours = exercise.checks[number], observed[number]["observed"]
        others = {name: wanted for name, wanted in expectation(exercise, check, seed).items()
                  if not str(yours.get(name)).startswith("self.")}
        return bool(difference(yours, others, check.tolerance))

    def gives_yours(number: int, edit: list[str]) -> bool:
        gives = _mistaken(exercise, *edit, exercise.checks[number], seed)
        return gives is not None and not difference(observed[number]["observed"], gives,
                                                    exercise.checks[number].tolerance)

    telling = set(filter(is_telling, failed))
    best, told = (0, 0), None
    for says, *edit in exercise.mistakes:
        if not gives_yours(failed[0], edit):
            continue
        explained = {number for number in failed if gives_yours(number, edit)}
        score = len(explained), sum(gives_yours(number, edit) for number in passed)
        is_enough = 2 * score[0] >= len(failed) and 2 * score[1] >= len(passed)
        if (score > best and is_enough
                and (telling & explained or score == (len(failed), len(passed)))):
            best, told = score, f"This is what comes out {says}"
    return told


@cache
def _mistaken(exercise: Exercise, find: str, replacement: str, check: Check,
              seed: int) -> dict | None:
    """What the library's answer gives with a mistake in it; None if it does not even run."""
    wrong = exercise.with_mistake(find, replacement)
    try:
        return None if wrong is None else run_check(check, wrong, seed)
    except Exception:
        return None


# ------------------------------------------------------------------------------------ differences


def difference(yours: dict, expected: dict, tolerance: dict[str, float]) -> list[str]:
    """Lines on the first observation that differs; empty if none does."""
    agree = []
    for name, wanted in expected.items():
        allowed = tolerance.get(name, TOLERANCE)
        lines = _differs(name, yours.get(name), wanted, allowed)
        if lines:
            before = [f"right so far: {', '.join(agree)}"] if agree else []
            return before + lines
        agree.append(name)
    return []


def _differs(name: str, yours: object, expected: object, allowed: float) -> list[str]:
    if yours is None and expected is not None:
        return [f"{name}: yours is None, expected {_short(expected)}; is a `return` missing?"]
    if isinstance(expected, torch.Tensor):
        return _tensor_differs(name, yours, expected, allowed)
    if isinstance(expected, (list, dict)):
        return _items_differ(name, yours, expected, allowed)
    if not _is_close(yours, expected, allowed):
        texts = [_short(yours), _short(expected)]
        if texts[0] == texts[1]:
            texts = [f"{text} ({type(each).__name__})"
                     for text, each in zip(texts, (yours, expected), strict=True)]
        return [f"{name}: yours {texts[0]}, expected {texts[1]}"]
    return []


def _is_close(yours: object, expected: object, allowed: float) -> bool:
    if isinstance(expected, float) and isinstance(yours, (int, float)):
        return ((math.isnan(yours) and math.isnan(expected))
                or math.isclose(yours, expected, rel_tol=allowed, abs_tol=allowed))
    return type(yours) is type(expected) and yours == expected


def _items_differ(name: str, yours: object, expected: list | dict, allowed: float) -> list[str]:
    if type(yours) is not type(expected):
        return [f"{name}: yours is {_short(yours)}, expected {_short(expected)}"]
    if isinstance(expected, dict):
        if yours.keys() != expected.keys():
            return [f"{name}: yours has {_short(list(yours))}, expected {_short(list(expected))}"]
        pairs = [(f"{name}, {key}", yours[key], expected[key]) for key in expected]
    else:
        pairs = [(f"{name}, number {number}", *two)
                 for number, two in enumerate(zip(yours, expected, strict=False))]
        if len(yours) != len(expected) or all(isinstance(each, str) for each in expected):
            same = yours == expected
            return [] if same else [f"{name}: yours    {_short(yours)}",
                                    f"{'expected':>{len(name) + 10}} {_short(expected)}"]
    return next((lines for pair in pairs if (lines := _differs(*pair, allowed))), [])


def _tensor_differs(name: str, yours: object, expected: torch.Tensor, allowed: float) -> list[str]:
    if isinstance(yours, str):  # a check's own words, as NO_GRADIENT, or the student's
        return [f"{name}: {one_line(yours)}", f"expected a tensor of shape {tuple(expected.shape)}"]
    if not isinstance(yours, torch.Tensor):
        return [f"{name} is {_short(yours)}, expected a tensor of shape {tuple(expected.shape)}"]
    if yours.shape != expected.shape:
        return [f"{name} has shape {tuple(yours.shape)}, expected {tuple(expected.shape)}",
                *_about_shape(yours, expected)]
    if yours.dtype != expected.dtype:
        return [f"{name} has type {_dtype(yours)}, expected {_dtype(expected)}: a result has the "
                "type of the input, unless the exercise says otherwise"]
    a, b = yours.double(), expected.double()
    far = ~torch.isclose(a, b, rtol=allowed, atol=allowed, equal_nan=True)
    if not far.any():
        return []
    lines = [f"{name}: {int(far.sum())} of {far.numel()} numbers differ"
             if far.numel() > 1 else f"{name} differs", *_table(a, b, far)]
    pattern = next(filter(None, (find(a, b) for find in PATTERNS)), None) or _some_rows(far)
    return lines + ([pattern] if pattern else [])


def _table(yours: torch.Tensor, expected: torch.Tensor, far: torch.Tensor) -> list[str]:
    """The first places that differ, one per row."""
    rows = [("at", "yours", "expected")]
    for place in far.nonzero()[:SHOWN].tolist():
        pair = [yours[tuple(place)].item(), expected[tuple(place)].item()]
        digits = next((count for count in (6, 9, 12) if len({f"{n:.{count}g}" for n in pair}) > 1),
                      17)
        rows.append((str(place), *(f"{number:.{digits}g}" for number in pair)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows]


def _about_shape(yours: torch.Tensor, expected: torch.Tensor) -> list[str]:
    """Whether the numbers are right and only the dimensions are not."""
    if yours.dim() == expected.dim() <= 5:
        for order in itertools.permutations(range(expected.dim())):
            moved = expected.permute(order)
            if moved.shape == yours.shape and _same(yours.double(), moved.double()):
                return [f"the numbers are right, but the dimensions are in the order {order}"]
    if yours.numel() == expected.numel() and _same(yours.double().flatten(),
                                                   expected.double().flatten()):
        return ["the numbers are right; only the shape is wrong"]
    return []


# ----------------------------------------------------- patterns: what wrong numbers look like


def _not_finite(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    bad = ~yours.isfinite() & expected.isfinite()
    if not bad.any():
        return None
    return (f"{int(bad.sum())} of yours are NaN or infinite: look for 0/0, a logarithm of 0, or a "
            "row that is all masked")


def _close(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    gap = (yours - expected).abs().max().item()
    if not torch.allclose(yours, expected, rtol=1e-3, atol=1e-3):
        return None
    return (f"close, but off by up to {gap:.1g}: a small term is missing, misplaced or extra, "
            "or part of it is computed in float32")


def _zeros(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    return "yours are all 0" if not yours.any() else None


def _factor(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    used = expected.abs() > 1e-3
    if used.sum() < 2:
        return None
    factor = (yours[used] / expected[used]).mean().item()
    is_factor = math.isfinite(factor) and _same(yours, factor * expected)
    if not is_factor or math.isclose(factor, 1, rel_tol=EXACT):
        return None
    if math.isclose(factor, -1, rel_tol=EXACT):
        return "the sign is wrong everywhere"
    return f"yours are {_as_root(factor)} times the expected ones, everywhere"


def _as_root(factor: float) -> str:
    """
    >>> _as_root(0.5), _as_root(8**0.5), _as_root(1.7)
    ('1/2', '√8', '1.7')
    """
    for number in range(2, 1025):
        for text, value in ((f"{number}", number), (f"√{number}", math.sqrt(number))):
            if math.isclose(factor, value, rel_tol=EXACT):
                return text
            if math.isclose(factor, 1 / value, rel_tol=EXACT):
                return f"1/{text}"
    return f"{factor:.6g}"


def _offset(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    gaps = (yours - expected).flatten()
    if len(gaps) > 1 and torch.allclose(gaps, gaps.mean(), rtol=EXACT, atol=0):
        return f"yours are the expected ones plus {gaps.mean().item():.6g}, everywhere"
    return None


def _moved(yours: torch.Tensor, expected: torch.Tensor) -> str | None:
    for i, j in itertools.combinations(range(expected.dim()), 2):
        if expected.shape[i] == expected.shape[j] and _same(yours, expected.transpose(i, j)):
            return f"the numbers are right, but dimensions {i} and {j} are swapped"
    if _same(yours.flatten().sort().values, expected.flatten().sort().values):
        return "the numbers are right, but in the wrong places"
    return None


def _some_rows(far: torch.Tensor) -> str | None:
    if far.dim() < 2:
        return None
    wrong = far.flatten(1).any(1)
    if wrong.all() or len(wrong) > MOST_ROWS:
        return None
    return (f"along the first dimension, indices {wrong.nonzero().flatten().tolist()} differ and "
            f"{(~wrong).nonzero().flatten().tolist()} agree")


PATTERNS: tuple[Callable, ...] = (_not_finite, _zeros, _factor, _offset, _close, _moved)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=EXACT, atol=EXACT)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"
