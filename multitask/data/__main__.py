"""Fetches the course's files and MultiNLI: python -m multitask.data --download data."""

from __future__ import annotations

import sys
from pathlib import Path

from minbert.checkpoints.download import HubError
from multitask.system.command import Parser

from .sources import SOURCES, download


def build_parser() -> Parser:
    parser = Parser("python -m multitask.data", "Fetch the course's files and MultiNLI: what is there "
                    "is kept, what was interrupted goes on. docs/data.md describes the files and their terms.")
    parser.add_argument("--download", metavar="FOLDER", required=True, help="where the files are to be, usually data")
    parser.add_argument("--only", metavar="NAME", action="append", default=[],
                        help="course, multinli or a file's name; may be given several times (default: everything)")
    parser.add_argument("--base-url", metavar="URL", help="a mirror that serves the nine files and multinli_1.0.zip "
                        "side by side (default: their public homes)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all is there, 2 usage or an unusable file, 130 interrupted, 1 something cannot be had."""
    arguments = build_parser().parse_args(argv)
    failed: dict[str, list[str]] = {}  # reason → the files that are missing for it
    folder, status = Path(arguments.download), 0
    try:
        for row, told in download(folder, arguments.only, arguments.base_url, SOURCES):
            if isinstance(told, HubError):
                failed.setdefault(str(told), []).append(row.file)
                status = 1
            elif isinstance(told, ValueError):
                failed.setdefault(str(told), [])
                status = status or 2
            else:
                print(f"{folder / row.file}: {told}", flush=True)
    except (ValueError, OSError) as error:
        failed[str(error)], status = [], 2
    except KeyboardInterrupt:
        failed["interrupted; what has arrived is kept, run again to go on"], status = [], 130
    for reason, missing in failed.items():
        by_hand = f"; or put into {folder} by hand (docs/data.md): {', '.join(missing)}" if missing else ""
        print(f"multitask.data: {reason}{by_hand}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
