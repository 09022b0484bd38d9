"""What the commands have in common: mistakes told in one line, warnings too, and the exit statuses."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from .interruption import interruptible

Job = TypeVar("Job")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of all flags before it."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; --help lists the flags\n")


def answer(name: str, command: Callable[[], int], interrupted: str = "interrupted") -> int:
    """The exit status of `command`: what it returns, 2 for input that the user can mend, 130 interrupted, 1 for numbers
    that are not finite. The reason stands on stderr in one line that begins with `name`; so do warnings."""
    with warnings.catch_warnings(), interruptible():
        show_warnings_in_one_line()
        try:
            return command()
        except (ValueError, OSError) as error:
            return failed(name, error, 2)
        except FloatingPointError as error:
            return failed(name, error, 1)
        except KeyboardInterrupt:
            return failed(name, interrupted, 130)


def prepare_and_train(name: str, prepare: Callable[[], Job | None], train: Callable[[Job], int]) -> int:
    """The exit status of a long job: what is wrong before it begins is the user's to mend, 2; after that `train` says.

    prepare: the job, or None where there is nothing left to do. Ctrl-C and SIGTERM raise Interruption in both.
    """
    show_warnings_in_one_line()
    with interruptible():
        try:
            job = prepare()
        except (ValueError, OSError) as error:
            return failed(name, error, 2)
        except KeyboardInterrupt:
            return failed(name, "interrupted before training began", 130)
        return 0 if job is None else train(job)


def given_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, object]:
    """The flags that stand on the command line, without those that have their default."""
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([]))))
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def refuse_other_settings(given: Mapping[str, object], started: Mapping[str, object]) -> None:
    """Raises ValueError, naming them, for flags beside --resume that ask for another run than the one in the folder.

    started: flag → value of that run; a flag that says the same again is let pass.
    """
    others = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()
              if name != "resume" and started.get(name) not in (value, str(Path(str(value)).resolve()))]
    if others:
        raise ValueError(f"--resume takes no other flag: {given['resume']} goes on with the settings it was started "
                         f"with, and {', '.join(others)} would change the run")


def show_warnings_in_one_line() -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def failed(name: str, reason: object, status: int) -> int:
    """One line on stderr; returns the status."""
    print(f"{name}: {reason}", file=sys.stderr)
    return status
