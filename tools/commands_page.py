"""Writes docs/reference/commands.md from the commands' own parsers.

    python tools/commands_page.py
"""

import argparse
import importlib
from pathlib import Path

from multitask.commands import COMMANDS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"
INTRODUCTION = """\
# Commands

A command has two names: that of the installed program, which works in any folder, and that of its Python file or module.
`--help` prints its section. A command exits with status 0 when it is done, 2 for wrong usage or input, 130 when it is
interrupted, and 1 otherwise. `serve` is ended by Ctrl-C, with status 0. Errors are one line on
stderr.

This page is written by `python tools/commands_page.py`."""


def page() -> str:
    parts = [INTRODUCTION]
    for name, command in COMMANDS.items():
        parser = importlib.import_module(command.module).build_parser()
        parts += [f"## minbert {name}", f"or `{command.python}`", parser.description.strip(),
                  flags(parser)]
    return "\n\n".join(parts) + "\n"


def actions_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    """The parsers of a command's actions, as in `minbert study check`."""
    return next((action for action in parser._actions
                 if isinstance(action, argparse._SubParsersAction)), None)


def flags(parser: argparse.ArgumentParser) -> str:
    """One row per flag: its name and value, and its help. A table per action, if there are any."""
    if (actions := actions_of(parser)) is not None:
        return "\n\n".join(f"`{name}`: {about.help}\n\n{flags(actions.choices[name])}"
                           for name, about in zip(actions.choices, actions._choices_actions,
                                                  strict=True))
    rows = ["| flag | meaning |", "| --- | --- |"]
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.dest == "help":
            continue
        name = ", ".join(action.option_strings) or action.dest
        value = action.metavar
        if value is None and action.choices is not None:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        if action.option_strings and action.nargs != 0:
            name = f"{name} {value or action.dest.upper()}"
        meaning = formatter._expand_help(action) if action.help else "required"
        rows.append(f"| `{name}` | {meaning} |".replace("~", "\\~"))
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
