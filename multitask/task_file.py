"""--tasks: built-in tasks by name, and tasks from a TOML file.

    [reviews]
    kind = "classes"                  # classes, yes_no or scale
    labels = ["bad", "so-so", "good"]
    text = ["review"]
    label = "verdict"
    train = "reviews-train.csv"
    dev_share = 0.1

The keys are attributes of tasks.Task; docs/how-to/own-tasks.md describes them. File names are
relative to the TOML file.
"""

import sys
from dataclasses import fields
from pathlib import Path

from minbert.files import choice_hint, one_line, user_path

from .tasks import BUILT_IN, NLI, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_BYTES = 1 << 20
FILES = ("train", "dev", "test")
BACKSLASHES = ("a backslash in double quotes begins an escape: put paths in single quotes, or "
               "write them with /")
# the predictions of a task with files of its own have fixed columns
KEYS = tuple(field.name for field in fields(Task)
             if field.name not in ("name", "prediction_column"))


def choose_tasks(text: str) -> tuple[Task, ...]:
    """The tasks that --tasks names, in its order: sst,my.toml → SST, and all tasks of my.toml.

    Raises:
        ValueError, OSError: an unknown name, a name that occurs twice, or a file that cannot be
            used; the message names it.
    """
    tasks: list[Task] = []
    for item in filter(None, map(str.strip, text.split(","))):
        if item in BUILT_IN:
            tasks.append(BUILT_IN[item])
        elif item.lower().endswith(".toml"):
            tasks += read_task_file(user_path(item))
        else:
            raise ValueError(f"--tasks {one_line(item)}: choose from {', '.join(BUILT_IN)}, or "
                             "name a .toml file that describes tasks of your own")

    names = [task.name for task in tasks]
    if not names:
        raise ValueError("--tasks names no task")
    for name in names:
        if [other.casefold() for other in names].count(name.casefold()) > 1:
            raise ValueError(f"--tasks {one_line(text)}: two tasks are called {name}, which would "
                             "share files; upper and lower case are the same on some disks")
    return tuple(tasks)


def read_task_file(path: Path) -> list[Task]:
    """The tasks of a TOML file, one per table. Raises ValueError or OSError, naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"--tasks {path}: there is no such file")
    if path.stat().st_size > TOML_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: is it another kind of file?")
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # also a number of more than 4,300 digits
        is_escape = "\\" in str(error) or "hex value" in str(error)
        advice = BACKSLASHES if is_escape else (
            "are strings quoted, and are table names in brackets free of spaces?")
        raise ValueError(f"{path} is not a TOML file ({one_line(error)}); {advice}") from None

    if not tables:
        raise ValueError(f"{path} describes no task: expected a table for each, such as [reviews]")
    return [_task(path, name, table) for name, table in tables.items()]


def _task(path: Path, name: str, table: object) -> Task:
    where = f"{path}, [{one_line(name)}]"
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {one_line(name)} is outside a table; put [NAME], the task's "
                         "name, above its keys")
    for key in table:
        if key not in KEYS:
            raise ValueError(f"{where}: unknown key {one_line(key)}; {choice_hint(key, KEYS)}")
    for key in ("kind", "text", "label", "train"):
        if key not in table:
            raise ValueError(f"{where}: {key} is missing; required are kind, text, label and train")

    values = dict(table)
    if isinstance(values.get("labels"), list):  # labels = [1, 2, 3]
        values["labels"] = [str(label) if type(label) in (int, float) else label
                            for label in values["labels"]]
    for key in FILES:
        if isinstance(values.get(key), str) and values[key]:
            if min(values[key]) < " ":  # C:\new has a line break
                raise ValueError(f"{where}: {key} is {one_line(repr(values[key]))}; {BACKSLASHES}")
            values[key] = str((path.parent / user_path(values[key])).resolve())
    try:
        if name in (*BUILT_IN, NLI.name):
            raise ValueError(f"{name} is the name of a built-in task: choose another")
        return Task(name=name, **values)
    except ValueError as error:
        raise ValueError(f"{where}: {one_line(error)}") from None
