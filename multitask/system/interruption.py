"""Ctrl-C and SIGTERM, answered where nothing is half done.

What must be finished once it is begun, a training step or the writing of a checkpoint, stands in `with whole():`; a
signal that comes inside waits for the end of it. Whoever catches an Interruption may therefore save everything as it
stands.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, outside of all that is whole; a plain KeyboardInterrupt may have come anywhere."""


class _Signals:
    depth, waiting = 0, False


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise Interruption. In a thread, which signals never reach, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Signals.depth, _Signals.waiting = 0, False
    before = {number: signal.signal(number, _answer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def whole() -> Iterator[None]:
    """What is begun inside is finished before an Interruption is raised, by the outermost of these; a second signal
    stops it at once."""
    _Signals.depth += 1
    try:
        yield
    finally:
        _Signals.depth -= 1
    if _Signals.waiting and not _Signals.depth:
        _Signals.waiting = False
        raise Interruption


def _answer(number: int, frame: object) -> None:
    if not _Signals.depth:
        raise Interruption
    if _Signals.waiting:
        raise KeyboardInterrupt
    _Signals.waiting = True
    print("interrupted: what is under way is finished and saved first; once more stops at once", file=sys.stderr)
