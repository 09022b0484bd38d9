"""The folder of a run: the names of its files, and the checks before it is written to."""

import dataclasses
import re
import warnings
from pathlib import Path

from minbert.checkpoints.weights import SINGLE_FILE
from minbert.files import check_utf8, read_object, user_path
from multitask.model import MODEL_FOLDER
from multitask.system import checkpoint
from multitask.system.distributed import Ranks
from multitask.system.runlog import RunLog, closed_on_failure
from multitask.tasks import are_the_papers

from .settings import DEFAULT_ARCH, Settings

CONFIG_FILE, METRICS_FILE, REPORT_FILE = "config.json", "metrics.json", "report.html"
STAGES_FOLDER = "stages"  # best epochs of the stages before the last one
DRAWN_BY = "dev_share_by"  # key of metrics.json

MODE_NAMES = {"wrap": "full", "fl": "last-layer"}  # stages → what --mode calls them
MOST_NAMED = 3  # tasks in the name of a run
LONGEST_PART = 60  # characters; a file system takes some 255 for a name


def is_finished(folder: Path) -> bool:
    """metrics.json is written last, so a folder that has it holds a finished run."""
    return (folder / METRICS_FILE).is_file()


def is_run(folder: Path) -> bool:
    """Whether train_multitask.py wrote the folder's config.json."""
    try:
        return {"arch", "gs", "seed"} <= read_object(folder / CONFIG_FILE).keys()
    except (OSError, ValueError):
        return False


def load_settings(folder: Path, flag: str = "--resume") -> Settings:
    """The settings that a run was started with.

    Args:
        flag: the flag that names the folder, for the error.

    Raises:
        FileNotFoundError: the folder does not hold a run.
        ValueError: its config.json cannot be read.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{flag} {folder}: no {CONFIG_FILE} there, so it is not a run")
    return Settings.load(folder / CONFIG_FILE)


def check_drawn(folder: Path, settings: Settings) -> None:
    """Refuses, with ValueError, a run that was trained on some of today's dev examples.

    `dev_share` drew others until November 2026; DRAWN_BY tells these runs from later ones.
    """
    drawn = [task.name for task in settings.tasks if task.dev_share]
    if drawn and is_finished(folder) and DRAWN_BY not in read_object(folder / METRICS_FILE):
        raise ValueError(f"{folder} is of an earlier minbert, which drew other dev examples of "
                         f"{', '.join(drawn)}: today's were trained on in part; train it again")


def load_starting_settings(folder: Path) -> Settings:
    """The settings of the run that --start names, with the model of the first run in its chain.

    Warns if that run is not finished.

    Raises:
        FileNotFoundError, ValueError: see load_settings and check_drawn.
    """
    settings = load_settings(folder, "--start")
    check_drawn(folder, settings)
    if not is_finished(folder):
        warnings.warn(f"--start {folder}: that run is not finished; its best epoch so far is used",
                      stacklevel=2)

    return dataclasses.replace(settings, model=_first_model(settings))


def _first_model(settings: Settings) -> str | None:
    """The model that a chain of --start began with.

    None if a folder of the chain has moved, or if a later run took the place of an earlier one.
    """
    seen: set[str] = set()
    while settings.start is not None:
        config = user_path(settings.start) / CONFIG_FILE
        if settings.start in seen or not config.is_file():
            break
        seen.add(settings.start)
        settings = Settings.load(config)
    return settings.model


def check_run_folder(folder: Path) -> None:
    """Refuses, with ValueError, a folder whose content a new run would destroy.

    What a run leaves that stopped before its first checkpoint is accepted: it has no model yet.
    """
    check_utf8(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; name a folder")
    if is_finished(folder):
        raise ValueError(f"--out {folder} holds a finished run; name another folder")
    if checkpoint.numbered(folder):
        raise ValueError(f"--out {folder} holds a checkpoint; resume with --resume {folder}, "
                         "or name another folder")
    if any((folder / name).exists() for name in (MODEL_FOLDER, SINGLE_FILE)):
        raise ValueError(f"--out {folder} holds a model; name another folder")
    if (folder / CONFIG_FILE).exists() and not is_run(folder):
        raise ValueError(f"--out {folder} holds a {CONFIG_FILE} of something else; name another "
                         "folder")


def run_name(settings: Settings) -> str:
    """The folder name that states a run's stages and method.

    It is the recipe's name if there is one. On the paper's tasks it is ARCH-STAGES, with the
    surgery method if that is not the default. On other tasks their names come first, a default
    architecture is left out, and stages are called as --mode calls them.

    >>> run_name(Settings("concatB", "wrap")), run_name(Settings("concatB", "bd", fl=True))
    ('concatB-wrap', 'concatB-bd+fl')
    >>> run_name(Settings("concatB", "wrap", nli=True, surgery="sum"))
    'concatB-nli+wrap-sum'
    """
    names = [task.name for task in settings.tasks]
    if settings.recipe is not None:
        return settings.recipe
    if are_the_papers(names):
        parts = [settings.arch, settings.chain]
    else:
        parts = ["+".join(names) if len(names) <= MOST_NAMED else f"{len(names)}-tasks"]
        if settings.arch != DEFAULT_ARCH:
            parts.append(settings.arch)
        parts.append(MODE_NAMES.get(settings.chain, settings.chain))
    if settings.has_surgery and settings.surgery != Settings.surgery:
        parts.append(settings.surgery)

    # what --import defines may have any name
    return "-".join(re.sub(r"[^\w+-]+", "_", part, flags=re.ASCII)[:LONGEST_PART] for part in parts)


def make_run_folder(settings: Settings, out: str | None) -> Path:
    """Makes --out, or the first free runs/NAME-N, also if several runs start at once."""
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        return Path(out)

    number = 1
    while True:
        folder = Path("runs") / f"{run_name(settings)}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def open_new_log(folder: Path, settings: Settings, ranks: Ranks) -> RunLog:
    """The empty log of a new run, which also locks the folder; config.json is written beside it."""
    with closed_on_failure(RunLog(folder, ranks.writes, settings.tensorboard)) as log:
        if ranks.writes:
            check_run_folder(folder)  # again: another run may have started and ended meanwhile
            log.rewind(0)  # a run that never reached a checkpoint may have left lines
            settings.save(folder / CONFIG_FILE)
        return log
