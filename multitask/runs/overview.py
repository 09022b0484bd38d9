"""What runs there are in a folder, and how much of the disk their checkpoints take."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from minbert.files import one_line, read_object
from multitask.evaluation import describe
from multitask.system import checkpoint
from multitask.system.lock import check_free

from .folder import CONFIG_FILE, METRICS_FILE, is_finished, is_run
from .settings import Settings


@dataclass(frozen=True)
class Summary:
    """One run, for a line of a table.

    Attributes:
        run: its folder.
        date: when it finished, or of its last change, local time.
        tasks: their names.
        model: what its encoder started from.
        method: stages and, with several tasks, the surgery method.
        seed, steps: steps is None until the run is finished.
        dev: the kept epoch's scores, in words; empty until the run is finished.
        average: of these scores; None until then.
        size: bytes on the disk.
        state: finished, running, interrupted, or no checkpoint.
    """

    run: str
    date: str
    tasks: tuple[str, ...]
    model: str
    method: str
    seed: int
    steps: int | None
    dev: str
    average: float | None
    size: int
    state: str


def find_runs(folder: Path) -> Iterator[Path]:
    """The run folders in a folder, at any depth, by name; a run's own folders are not searched.

    Warns of folders that may not be read.
    """
    if is_run(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        try:
            if path.is_dir() and not path.is_symlink():
                yield from find_runs(path)
        except PermissionError as error:
            warnings.warn(f"{path} is left out: {one_line(error)}", stacklevel=2)


def summarise(run: Path) -> Summary:
    """Raises ValueError or OSError for files that are not those of a run."""
    settings = Settings.load(run / CONFIG_FILE)
    metrics = read_object(run / METRICS_FILE) if is_finished(run) else {}
    surgery = f" {settings.surgery}" if settings.has_surgery else ""
    changed = datetime.fromtimestamp(max(path.stat().st_mtime for path in run.iterdir()))
    ended = metrics.get("environment", {}).get("date")  # copies of a run keep it
    dev = metrics.get("dev", {})
    return Summary(
        run=str(run), date=(ended or str(changed))[:len("2026-12-31 23:59")],
        tasks=tuple(task.name for task in settings.tasks),
        model=Path(settings.model or settings.start or "").name,
        method=f"{settings.arch} {settings.chain}{surgery}", seed=settings.seed,
        steps=metrics.get("steps"), dev=describe(dev), average=dev.get("average"),
        size=size_of(run), state=state_of(run))


def state_of(run: Path) -> str:
    if is_finished(run):
        return "finished"
    try:
        check_free(run)
    except ValueError:
        return "running"
    return "interrupted" if checkpoint.numbered(run) else "no checkpoint"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def prunable(folder: Path) -> dict[Path, int]:
    """Checkpoints of finished runs, which nothing needs → their bytes."""
    found = {}
    for run in find_runs(folder):
        path = run / checkpoint.CHECKPOINT_FOLDER
        if is_finished(run) and path.is_dir():
            found[path] = size_of(path)
    return found
