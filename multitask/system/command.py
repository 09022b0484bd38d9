"""What the commands share: errors and warnings in one line, and the exit statuses."""

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from minbert.files import one_line, user_path
from multitask.commands import shown

from .checkpoint import numbered
from .console import accept_any_text, drop_output, one_line_warnings, say_error
from .interruption import interruptible

IMPORTED = "imported_"  # begins the names of the modules that --import makes
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # torch's words


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, without the list of all flags."""

    def __init__(self, prog: str, description: str | None) -> None:
        if description and prog.startswith("python -m "):  # its examples, too
            description = description.replace(prog, shown(prog))
        super().__init__(prog=shown(prog), description=description, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        accept_any_text()

    @property
    def name(self) -> str:
        """multitask.predict, or minbert predict: the beginning of a message."""
        return self.prog.removeprefix("python -m ")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.name}: {message}; --help lists the flags\n")


def run(parser: Parser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None,
        interrupted: str = "interrupted", out_of_memory_remedy: str = "") -> int:
    """Runs the files of --import, reads the flags and does a command's work; see `answer`.

    Args:
        argv: None is the command line.
    """
    run_imports(parser.name, argv)
    arguments = parser.parse_intermixed_args(argv)  # positional ones on both sides of a flag too
    return answer(parser.name, lambda: work(arguments), interrupted, out_of_memory_remedy)


def answer(name: str, command: Callable[[], int], interrupted: str = "interrupted",
           out_of_memory_remedy: str = "") -> int:
    """Runs a command; prints warnings and the reason of a failure in one line each.

    Args:
        name: of the command; the reason begins with it.
        command: returns the exit status.
        interrupted: the reason after Ctrl-C or SIGTERM.
        out_of_memory_remedy: what follows "out of memory".

    Returns:
        The exit status; 2 for wrong input, 130 if interrupted, 1 for numbers that are not finite
        and for lack of memory.
    """
    with one_line_warnings(), interruptible():
        try:
            status = command()
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # nobody reads on, as in … | head -1
            drop_output()
            return 0
        except (ValueError, OSError) as error:
            return failed(name, error, 2)
        except FloatingPointError as error:
            return failed(name, error, 1)
        except KeyboardInterrupt:
            return failed(name, interrupted, 130)
        except (MemoryError, RuntimeError) as error:
            return failed(name, out_of_memory(error) + out_of_memory_remedy, 1)


def out_of_memory(error: Exception) -> str:
    """The reason in one line; any other error is raised again."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(part in text for part in OUT_OF_MEMORY):
        raise error
    return "out of memory"


def add_import_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--import", dest="imports", action="append", metavar="FILE.py",
                        help="a file of yours that defines an architecture, a surgery method or a "
                             "task, see docs/how-to/extend.md; may be repeated (default: none)")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=user_path, metavar="FOLDER",
                        help="the folder of the built-in tasks' files (default: the run's own)")
    parser.add_argument("--tasks", metavar="LIST_OR_TOML",
                        help="the run's tasks again, if their files have moved (default: as they "
                             "were)")


def run_imports(name: str, argv: Sequence[str] | None) -> None:
    """Runs the files that --import names, before other flags are read: they may add to choices.

    Exits with status 2, and the reason in one line, if one fails.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--import", dest="imports", action="append", nargs="?", default=[])
    for file in filter(None, early.parse_known_args(argv)[0].imports):
        path = user_path(file).resolve()
        if not path.is_file() or path.suffix != ".py":
            sys.exit(failed(name, f"--import {file}: expected a Python file, FILE.py", 2))
        spec = importlib.util.spec_from_file_location(IMPORTED + path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # where the fast forms look up its classes
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if Path(frame.filename) == path]
            line = lines[-1] if lines else getattr(error, "lineno", "?")
            reason = f"{file}, line {line}: {type(error).__name__}: {one_line(error)}"
            sys.exit(failed(name, f"--import {reason}", 2))


def flag_of(name: str) -> str:
    """batch_size → --batch-size."""
    return f"--{name.replace('_', '-')}"


def refuse_other_settings(given: Mapping[str, object], started: Mapping[str, object]) -> None:
    """Refuses, with ValueError, flags beside --resume that would change the run.

    Args:
        given: flag → value on the command line; None is not given.
        started: flag → value of the run in the folder.
    """
    def is_same(name: str, value: object) -> bool:
        if name == "resume" or value is None or (name, value) == ("precision", "auto"):
            return True  # a run keeps what auto stood for when it was started
        before = started.get(name)
        return value == before or Path(str(value)).resolve() == Path(str(before)).resolve()

    others = [f"{flag_of(name)} {value}" for name, value in given.items()
              if not is_same(name, value)]
    if others:
        raise ValueError(f"{', '.join(others)} would change the run: {given['resume']} resumes "
                         "with the settings it was started with")


def failed(name: str, reason: object, status: int) -> int:
    """Prints one line on stderr; returns the status."""
    say_error(f"{shown(name)}: {reason}")
    return status


def stopped(name: str, reason: object, status: int, folder: Path, resume: str) -> int:
    """Prints why training stopped and the command that resumes it; returns the status."""
    how = "there is no checkpoint yet; start again"
    if numbered(folder):
        how = f"resume with: {resume}"
    return failed(name, f"{reason}; {how}", status)
