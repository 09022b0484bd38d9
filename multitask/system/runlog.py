"""log.jsonl: what happened in a run, in order, one JSON object per line.

The report takes all its figures from this file, so that a resumed run counts earlier steps too.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .lock import FolderLock
from .tensorboard import Board

LOG_FILE = "log.jsonl"


def read_events(run: Path, event: str | None = None) -> Iterator[dict]:
    """The events of RUN/log.jsonl, in order: all of one kind, or of every kind."""
    with (run / LOG_FILE).open(encoding="utf-8") as file:
        for line in file:
            values = json.loads(line)
            if event in (None, values["event"]):
                yield values


class RunLog:
    """Appends events to RUN/log.jsonl, and locks the folder.

    Args:
        writes: False for a process that shares the run with another one, which writes the log.
        tensorboard: write every event to RUN/tensorboard too, from the first `rewind` on.

    Raises:
        ValueError: another process holds the folder's lock.
    """

    def __init__(self, run: Path, writes: bool = True, tensorboard: bool = False) -> None:
        self._lock = FolderLock(run) if writes else None
        self._board: Board | None = None
        self._has_board = tensorboard and writes
        self.path, self.writes = run / LOG_FILE, writes
        try:
            self._file = (self.path if writes else Path(os.devnull)).open("a", encoding="utf-8")
        except OSError:
            if self._lock is not None:
                self._lock.release()
            raise

    def write(self, event: str, **values: object) -> None:
        """Raises OSError, naming the file, if the disk is full."""
        with self._named():
            self._file.write(json.dumps({"event": event, **values}) + "\n")
        if self._board is not None:
            self._board.write({"event": event, **values})

    @property
    def position(self) -> int:
        """The bytes written so far, all of them on the disk; a checkpoint keeps this number.

        Raises OSError, naming the file, if the disk is full.
        """
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.path.stat().st_size

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def rewind(self, position: int) -> None:
        """Removes what follows `position`; ValueError if no line of the log ends there."""
        self._file.flush()
        if self.path.stat().st_size < position:
            raise ValueError(f"{self.path} has lost its end: {position} bytes were written before "
                             "the checkpoint")

        with self.path.open("rb") as file:
            file.seek(max(0, position - 1))
            if position and file.read(1) != b"\n":
                raise ValueError(f"{self.path} has no line that ends at {position} bytes, as the "
                                 "checkpoint says")
        if self.writes:
            os.truncate(self.path, position)
        if self._has_board:
            self._board = Board(self.path.parent, self.events())

    def events(self, event: str | None = None) -> Iterator[dict]:
        """All events of one kind, or of every kind, in order."""
        self._file.flush()
        return read_events(self.path.parent, event)

    def close(self) -> None:
        """Releases the folder's lock too."""
        with suppress(OSError):  # a full disk: what is lost came after the last checkpoint
            self._file.close()
        if self._board is not None:
            with suppress(OSError):
                self._board.close()
            self._board = None
        if self._lock is not None:
            self._lock.release()


@contextmanager
def closed_on_failure(log: RunLog) -> Iterator[RunLog]:
    """Gives up the folder if the run does not come to its first step."""
    try:
        yield log
    except BaseException:
        log.close()
        raise
