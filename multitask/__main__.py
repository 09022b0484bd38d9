"""All commands under one name: minbert train, minbert predict, … (python -m multitask)."""

import importlib
import sys

from minbert import __version__
from minbert.files import choice_hint

from .commands import COMMANDS, CONSOLE


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.title}" for name, command in COMMANDS.items()]
    return "\n".join([f"usage: {CONSOLE} COMMAND …, {CONSOLE} COMMAND --help, {CONSOLE} --version",
                      "", *lines])


def main(argv: list[str] | None = None) -> int:
    """Exit status: that of the command; 2 if there is no such command."""
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "--version":
        print(f"{CONSOLE} {__version__}")
        return 0
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f"{CONSOLE}: there is no command {name!r}; {choice_hint(name, COMMANDS)}",
              file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name].module).main(flags)


if __name__ == "__main__":
    sys.exit(main())
