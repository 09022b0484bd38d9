"""Terminal output that never ends a run, whatever the encoding, even after the reader has gone."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from minbert.files import one_line

# environment variables; --quiet sets both to 1
QUIET_VARIABLE, PROGRESS_VARIABLE = "MINBERT_QUIET", "TQDM_DISABLE"


def accept_any_text() -> None:
    """Prints `?` for what the terminal's encoding lacks, in place of UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a replaced stream may have none
        if reconfigure is not None:
            reconfigure(errors="replace")


def be_quiet() -> None:
    """From now on `say` prints nothing, and there is no progress; warnings and errors remain."""
    os.environ[PROGRESS_VARIABLE] = "1"
    os.environ[QUIET_VARIABLE] = "1"


def say(text: str) -> None:
    """Prints a line above any progress bar; a reader that has gone, `head -1` say, is no error."""
    if os.environ.get(QUIET_VARIABLE) == "1":
        return
    try:
        tqdm.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def say_error(text: str) -> None:
    """Prints a line on stderr."""
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr)


def drop_output() -> None:
    """Sends further output nowhere: nobody reads it, and the interpreter would fail to flush it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def variables_kept(*names: str) -> Iterator[None]:
    """Afterwards these environment variables are as they were before."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Inside, a warning is one line on stderr."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say_error(
            f"warning: {one_line(message, limit=1000)}")
        yield
