"""Progress: a bar on a terminal, elsewhere at most one plain line per minute."""

import os
import sys
import time

from tqdm import tqdm

SECONDS = 60.0  # between two lines where there is no terminal
LINE = "{desc}: {n_fmt}/{total_fmt}, {elapsed} so far, {remaining} left{postfix}"


class Progress(tqdm):
    """tqdm with the same arguments. A log file gets lines instead of a bar.

    >>> with Progress(total=2, desc="encode", unit="sentence") as progress:
    ...     _ = progress.update(2)
    """

    def __init__(self, *given: object, **options: object) -> None:
        has_console = sys.stderr is not None  # a program such as pythonw has none
        self.in_lines = not (has_console and sys.stderr.isatty())
        self.last_line = time.monotonic()
        # TQDM_DISABLE=1, or --quiet, which sets it, asks for no progress at all
        is_off = os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")
        options["disable"] = bool(options.get("disable")) or is_off or not has_console
        if self.in_lines:
            options |= {"bar_format": LINE, "leave": False, "mininterval": 1.0}
        super().__init__(*given, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if not self.in_lines:
            return super().display(msg, pos)
        now = time.monotonic()
        if msg == "" or now - self.last_line < SECONDS:
            return False
        self.last_line = now
        self.fp.write(f"{str(self).strip()}\n")
        self.fp.flush()
        return True

    def clear(self, *given: object, **named: object) -> None:
        if not self.in_lines:
            super().clear(*given, **named)
