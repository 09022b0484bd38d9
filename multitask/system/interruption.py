"""Ctrl-C and SIGTERM, answered where nothing is half done.

A training step and the writing of a checkpoint run in `with defer_signals():`; a signal that
arrives inside waits for the end of the block. Code that catches an Interruption can therefore save
everything in a consistent state.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, outside all deferred blocks."""


class _Signals:
    depth, waiting = 0, False


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise Interruption. Signals never reach other threads."""
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
def defer_signals() -> Iterator[None]:
    """Completes the block before Interruption is raised, at the end of the outermost such block.

    A second signal stops at once, with KeyboardInterrupt.
    """
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
    print("interrupted: finishing and saving the current step; a second signal stops at once",
          file=sys.stderr)
