"""A student's folder."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from shlex import quote

from minbert.files import write_text
from multitask.commands import command_line

from .exercise import FILES, NAMES, TEMPLATES, Exercise, load

README = "README.md"


def start(folder: Path, names: Sequence[str] = NAMES) -> list[Path]:
    """Writes the exercises' files. Files that exist stay as they are.

    README.md lists the folder's exercises. When some are added, it is written again, unless
    somebody changed it.

    Returns:
        The files that were written.

    Raises:
        FileExistsError: the folder's name is a file's.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {FILES[name]: (TEMPLATES / FILES[name]).read_text(encoding="utf-8")
             for name in names}
    missing = {name: text for name, text in texts.items() if not (folder / name).exists()}
    before = [name for name in NAMES if (folder / FILES[name]).exists()]
    path = folder / README
    if not path.exists() or (missing and before and
                             path.read_text("utf-8", errors="replace") == readme(before)):
        missing[README] = readme([name for name in NAMES if name in {*before, *names}])
    for name, text in missing.items():
        write_text(folder / name, text)
    return [folder / name for name in missing]


def readme(names: Sequence[str]) -> str:
    rows = "\n".join(f"| {FILES[name]} | {load(name).title} |" for name in names)
    return f"""# Write BERT yourself

Each file is one exercise. Replace `raise NotImplementedError` with your code. Then:

```
minbert study check . {names[0]:<13} # or all: minbert study check .
minbert study check . --watch       # checks each file when you save it
minbert study hint . {names[0]:<14} # one more hint each time you call it
minbert study train .               # train with the parts that you have finished
```

Each exercise stands alone: the library does what you have not written yet. Once all checks of an \
exercise pass, your code replaces the library's.

| file | what you write |
| --- | --- |
{rows}
"""


def solution(exercise: Exercise) -> list[str]:
    """Where the library has the answer, and the code there."""
    lines = []
    for place in exercise.places:
        found = resolve_name(place)
        code, first = inspect.getsourcelines(found)
        lines += [f"{inspect.getsourcefile(found)}, line {first}:", "", "".join(code)]
    return lines


def welcome(folder: Path, written: Sequence[Path]) -> list[str]:
    kept = "" if written else " (all files exist already)"
    return [f"{folder}: files written: {len(written)}{kept}",
            f"Begin with {folder / FILES[NAMES[0]]}, then: "
            f"{command_line('study')} check {quote(str(folder))} {NAMES[0]}"]
