"""The commands and their two names: `minbert predict`, and `python -m multitask.predict`.

Messages name a command as the user called the one that is running.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

CONSOLE = "minbert"  # the name of the installed program
# GNU's OpenMP, in Linux builds of torch; Intel's and LLVM's, elsewhere: milliseconds
SHORT_SPIN = {"GOMP_SPINCOUNT": "1500", "KMP_BLOCKTIME": "1"}


class Command(NamedTuple):
    """A command.

    Attributes:
        module: its module, with a function `main`.
        title: what it does, for the list of commands.
    """

    module: str
    title: str

    @property
    def python(self) -> str:
        """How it is called without the installed program."""
        if self.module == "train_multitask":
            return "python train_multitask.py"
        return f"python -m {self.module.removesuffix('.__main__')}"


COMMANDS = {
    "train": Command("train_multitask", "train a model on one task or several"),
    "predict": Command("multitask.predict", "ask a trained run"),
    "serve": Command("multitask.serve", "show a trained run on a page, with a JSON API"),
    "runs": Command("multitask.runs.__main__",
                    "list and compare runs; remove checkpoints that are not needed"),
    "export": Command("multitask.export",
                      "write one task for transformers, sentence-transformers or ONNX"),
    "ensemble": Command("multitask.ensemble", "several runs as one: the mean of their outputs"),
    "hand-in": Command("multitask.hand_in", "write a run's prediction files for the course"),
    "analysis": Command("multitask.analysis.__main__",
                        "where a run succeeds and fails, once more"),
    "experiments": Command("multitask.experiments.__main__",
                           "the paper's tables; does gradient surgery help?"),
    "study": Command("minbert_study.__main__",
                     "exercises: write BERT yourself, checked at once; grading for teachers"),
    "pretrain": Command("multitask.pretrain", "pretrain an encoder on text"),
    "data": Command("multitask.data.__main__", "fetch the course's files and MultiNLI"),
}


def is_console() -> bool:
    """Whether the installed program `minbert` is running."""
    return bool(sys.argv) and Path(sys.argv[0]).stem == CONSOLE


def spin_briefly_in_commands() -> None:
    """Sets how long OpenMP's threads spin before they sleep; must run before torch is loaded.

    At every barrier a thread spins until the others come. If another program has the core of one
    of them, all others spin for nothing, and training becomes many times slower. A short spin costs
    little on a quiet machine. docs/explanation/performance.md has measurements. Nothing is set in a
    user's program, or if the user has set one of the variables.
    """
    name = sys.argv[0] if sys.argv else ""
    # "-m": python -m multitask.…
    is_command = name == "-m" or Path(name).name == "train_multitask.py" or is_console()
    if is_command and not os.environ.keys() & {*SHORT_SPIN, "OMP_WAIT_POLICY"}:
        os.environ.update(SHORT_SPIN)


def command_line(name: str) -> str:
    """How to call a command, for advice.

    >>> command_line("predict")
    'python -m multitask.predict'
    """
    if is_console():
        return f"{CONSOLE} {name}"
    if typed().startswith("python -m multitask "):
        return f"python -m multitask {name}"
    script = sys.argv[0] if sys.argv else ""
    if name == "train" and Path(script).name == "train_multitask.py":
        return f"python {shlex.quote(script)}"  # it may be in another folder
    return COMMANDS[name].python


def typed() -> str:
    """The command that is running, as the user typed it; empty where other Python code called."""
    if is_console():
        return shlex.join([CONSOLE, *sys.argv[1:]])
    programs = {line.split()[-1]: line
                for line in ("python -m multitask", *(each.python for each in COMMANDS.values()))}
    for place in range(1, len(sys.orig_argv)):
        before, word = sys.orig_argv[place - 1:place + 1]
        name = Path(word).name
        if name in programs and (before == "-m" or name.endswith(".py")):
            program = programs[name] if before == "-m" else f"python {shlex.quote(word)}"
            return f"{program} {shlex.join(sys.orig_argv[place + 1:])}".strip()
    return ""


def shown(program: str) -> str:
    """A program's name in its messages: multitask.predict, or minbert predict."""
    for name, command in COMMANDS.items():
        if program in (command.python, command.python.split()[-1]):
            return command_line(name) if is_console() else program
    return program
