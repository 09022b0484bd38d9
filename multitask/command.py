"""What the commands have in common: mistakes told in one line, warnings too, and the exit statuses."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of all flags before it."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


def answer(name: str, command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """The exit status of `command`: what it returns, 2 for input that the user can mend, 130 interrupted, 1 for numbers
    that are not finite. The reason stands on stderr in one line that begins with `name`; so do warnings."""
    with warnings.catch_warnings():
        show_warnings_in_one_line()
        try:
            return command()
        except (ValueError, OSError) as error:
            return failed(name, error, 2)
        except FloatingPointError as error:
            return failed(name, error, 1)
        except KeyboardInterrupt:
            return failed(name, interrupted, 130)


def show_warnings_in_one_line() -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def failed(name: str, reason: object, status: int) -> int:
    """One line on stderr; returns the status."""
    print(f"{name}: {reason}", file=sys.stderr)
    return status
