"""One exercise or all of a folder: checked, remembered, and told in lines."""

import time
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from minbert.files import choice_hint, read_object, sha256_of, write_json
from multitask.commands import command_line

from . import rules
from .exercise import FILES, NAMES, load
from .judging import Result, judge
from .worker import observe

PROGRESS_FILE = "progress.json"
SEED = 1            # of a student's own checks, so that the same code gives the same lines
LARGEST_FILE = 200_000  # bytes
WATCHED_EVERY = 0.3     # seconds


@dataclass(frozen=True)
class Verdict:
    """The result of one exercise.

    Attributes:
        results: one per check.
        printed: what the student's code printed.
        end: why its process ended early, or None.
        sha256: of the file before it was checked.
        misfit: lines on another part of the student's, with which this one fails. The results are
            then those with the library's parts. Empty if there is none.
    """

    name: str
    results: tuple[Result, ...]
    printed: str = ""
    end: str | None = None
    sha256: str = ""
    misfit: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        return sum(result.passed for result in self.results)

    @property
    def is_done(self) -> bool:
        return self.passed == len(self.results)

    @property
    def is_begun(self) -> bool:
        return any(result.is_begun for result in self.results)


def exercises_in(folder: Path) -> list[str]:
    """The exercises of a student's folder, in order.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no exercise, or is one itself.
    """
    if (name := _named(folder.name)) in NAMES and not folder.is_dir():
        place = quote(str(folder.parent)) if folder.is_file() else "FOLDER"
        raise ValueError(f"{folder} is an exercise; the folder comes first: "
                         f"{command_line('study')} check {place} {name}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; make one with: "
                                f"{command_line('study')} start {quote(str(folder))}")
    found = [name for name in NAMES if (folder / FILES[name]).is_file()]
    if not found:
        raise ValueError(f"{folder} holds no exercise ({FILES[NAMES[0]]}, …); make a folder of "
                         f"exercises with: {command_line('study')} start FOLDER")
    return found


def pick(words: Iterable[str], folder: Path | None = None) -> list[str]:
    """Exercises by name, with or without number and .py.

    Raises:
        ValueError: there is none such.
        FileNotFoundError: its file is not in the folder.
    """
    picked = []
    for word in words:
        name = _named(word)
        if name not in NAMES:
            raise ValueError(f"there is no exercise {word!r}; {choice_hint(name, NAMES)}")
        if folder is not None and not (folder / FILES[name]).is_file():
            raise FileNotFoundError(f"{folder / FILES[name]} is missing; if yours has another "
                                    "name, rename it; to write all missing files: "
                                    f"{command_line('study')} start {quote(str(folder))}")
        picked.append(name)
    return picked


def _named(word: str) -> str:
    """attention, for attention and for ex02_attention.py."""
    name = Path(word).stem
    return name.partition("_")[2] if name.startswith("ex") and name[2:4].isdigit() else name


def check_exercise(folder: Path, name: str, own: Sequence[str], seed: int = SEED) -> Verdict:
    """Checks one exercise.

    Two right parts need not fit each other. Where more checks pass with the library's parts than
    with the student's own, the former count.

    Args:
        own: exercises that are done; their parts stand in for the library's.
    """
    verdict = _check(folder, name, own, seed)
    if not own or verdict.is_done or not verdict.is_begun or verdict.end:
        return verdict
    alone = _check(folder, name, [], seed)
    if alone.passed <= verdict.passed:
        return verdict

    def fails(last: int) -> bool:
        return _check(folder, name, own[:last + 1], seed).passed < alone.passed

    misfit = own[bisect_left(range(len(own) - 1), True, key=fails)]
    reason = next(result.lines for result in verdict.results if not result.passed)
    return replace(alone, misfit=(f"it fails together with {FILES[misfit]}, so it was checked with "
                                  "the library's parts", *reason))


def _check(folder: Path, name: str, own: Sequence[str], seed: int) -> Verdict:
    exercise, path = load(name), folder / FILES[name]
    if reasons := _why_not_run(path, name):
        return Verdict(name, tuple(Result(check.claim, reasons) for check in exercise.checks))

    digest = sha256_of(path)
    observed, end, printed = observe(folder, name, own, seed)
    return Verdict(name, tuple(judge(exercise, observed, end, seed)), printed, end, digest)


def _why_not_run(path: Path, name: str) -> tuple[str, ...]:
    if path.stat().st_size > LARGEST_FILE:
        return (f"{path.name} is larger than {LARGEST_FILE:,} bytes",)
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return (f"{path.name} is not UTF-8 text: {error}",)
    return tuple(f"{path.name}, {line}" for line in rules.faults(source, name))


def check_folder(folder: Path, names: Sequence[str], seed: int = SEED) -> Iterator[Verdict]:
    """Checks exercises in their order. What is done stands in for the library's from then on."""
    progress = Progress(folder)
    for name in names:
        own = [other for other in progress.done() if other != name]
        verdict = check_exercise(folder, name, own, seed)
        progress.note(verdict)
        yield verdict


def saved(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """When each exercise's file was last saved, and its size: some disks keep times to 2 s."""
    return {name: (path.stat().st_mtime_ns, path.stat().st_size) for name in names
            if (path := folder / FILES[name]).is_file()}


def watch(folder: Path, names: Sequence[str], before: Mapping) -> Iterator[Verdict]:
    """Checks each file again when it is saved after `before`, without end."""
    while True:
        time.sleep(WATCHED_EVERY)
        now = saved(folder, names)
        changed = [name for name in now if now[name] != before.get(name)]
        before = now
        yield from check_folder(folder, changed)


class Progress:
    """What is done, in FOLDER/progress.json. A file that has changed since is not done.

    If the file cannot be written, a warning names the reason. Checks and hints work nevertheless.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / PROGRESS_FILE
        self.entries = read_object(path) if path.is_file() else {}

    def done(self) -> list[str]:
        return [name for name in NAMES if self.is_done(name)]

    def is_done(self, name: str) -> bool:
        entry, path = self.entries.get(name), self.folder / FILES[name]
        return (isinstance(entry, dict) and path.is_file()
                and entry.get("passed") == len(load(name).checks)
                and entry.get("sha256") == sha256_of(path))

    def next_hint(self, name: str) -> int:
        """The number of the hint to give now: one more at each call, up to the last."""
        hints = self.entries.setdefault("hints", {})
        hints[name] = min(hints.get(name, 0) + 1, len(load(name).hints))
        self._keep()
        return hints[name]

    def note(self, verdict: Verdict) -> None:
        self.entries[verdict.name] = {"passed": verdict.passed, "sha256": verdict.sha256}
        self._keep()

    def _keep(self) -> None:
        try:
            write_json(self.folder / PROGRESS_FILE, self.entries)
        except OSError as error:
            warnings.warn(f"progress is not kept: {error}", stacklevel=2)


# ------------------------------------------------------------------------------------ as text


def lines_of(verdict: Verdict) -> list[str]:
    """A verdict as a student reads it: all claims, and what is wrong with the first that fails."""
    title = f"{FILES[verdict.name]}: {load(verdict.name).title}"
    total = len(verdict.results)
    if verdict.is_done:
        lines = [f"✓ {title}: all {total} checks pass"]
    elif not verdict.is_begun:
        lines = [f"· {title}: {verdict.results[0].lines[0]}"]
    else:
        lines, is_told = [f"✗ {title}: {verdict.passed} of {total} checks pass"], False
        for result in verdict.results:
            lines.append(f"    {result.mark} {result.claim}")
            if not is_told:
                lines += [f"        {line}" for line in result.lines]
            is_told = is_told or not result.passed
    lines += [f"    {line}" for line in verdict.misfit]
    if verdict.printed.strip():
        lines += ["    your code printed:",
                  *(f"        {line}" for line in verdict.printed.strip().splitlines()[:10])]
    return lines


def summary(verdicts: Sequence[Verdict]) -> str:
    done = sum(verdict.is_done for verdict in verdicts)
    return f"exercises done: {done} of {len(verdicts)}"
