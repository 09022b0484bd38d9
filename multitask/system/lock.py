"""Only one process writes to a run folder; a second one is refused, and the error names the first.

The operating system holds the lock, so it ends with its process. A file beside it names the
process, so that the remains of a killed process are recognised.
"""

import json
import os
import socket
import time
import warnings
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE, HOLDER_FILE = ".lock", ".lock.json"


class FolderLock:
    """Held until `release` or the end of the process. Warns if a process died holding it.

    Raises:
        ValueError: another process, which the message names, holds it.
        OSError: the disk has no locks, or the folder cannot be written.
    """

    def __init__(self, run: Path) -> None:
        self._lock, self._holder = _locked(run), run / HOLDER_FILE
        if self._holder.exists():
            warnings.warn(f"{run}: {describe(self._holder)} ended without giving up its lock; "
                          "taken over", stacklevel=2)
        about = {"pid": os.getpid(), "host": socket.gethostname(),
                 "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._holder.write_text(json.dumps(about), encoding="utf-8")

    def release(self) -> None:
        """Removes its files too. A second call does nothing."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            with suppress(PermissionError):  # Windows removes no open file
                (self._holder.parent / LOCK_FILE).unlink(missing_ok=True)
            self._lock.release()


def check_free(run: Path) -> None:
    """Raises ValueError if another process uses the folder. Writes nothing."""
    if (run / LOCK_FILE).exists():
        _locked(run).release()


def _locked(run: Path) -> FileLock:
    # another thread than this one may release it: see distributed.on_sigterm
    lock = FileLock(run / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{run} is in use by {describe(run / HOLDER_FILE)}: two runs would spoil "
                         "it; name another folder, or end that one first") from None
    except OSError as error:
        if error.filename:
            raise
        raise OSError(f"{run} cannot be locked ({error.strerror}): name a folder on another "
                      "disk") from None
    return lock


def describe(holder: Path) -> str:
    """process 4242 on that host, since then."""
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
