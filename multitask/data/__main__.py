"""Fetches the course's files and MultiNLI: python -m multitask.data --download data."""

import argparse
import sys
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from urllib.parse import urlsplit

from multitask.system import command
from multitask.system.command import Parser

from .sources import SOURCES, DownloadError, ServerError, Source, keep_or_fetch

NAME = "multitask.data"


def build_parser() -> Parser:
    parser = Parser("python -m multitask.data",
                    "Fetch the course's files and MultiNLI. Existing files are kept; an "
                    "interrupted download resumes if its checksum is known. docs/how-to/data.md "
                    "describes the files and their terms.")
    parser.add_argument("--download", type=expanduser, metavar="FOLDER", required=True,
                        help="the data folder, usually data")
    groups = dict.fromkeys(source.group for source in SOURCES)
    parser.add_argument("--only", metavar="NAME", action="append", default=[],
                        choices=[*groups, *(source.file for source in SOURCES)],
                        help="course, multinli or a file's name; may be repeated "
                             "(default: everything)")
    parser.add_argument("--base-url", metavar="URL",
                        help="a mirror that serves the twelve files and multinli_1.0.zip side by "
                             "side (default: their public homes)")
    return parser


def choose(only: Sequence[str]) -> list[Source]:
    """The sources that --only names; all of them if it names none."""
    return [source for source in SOURCES
            if not only or source.group in only or source.file in only]


def check_usage(folder: Path, base_url: str | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--download {folder}: this is a file, where a folder was expected")
    if base_url is not None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ValueError(f"--base-url {base_url}: expected an http:// or https:// address")


def fetch_all(sources: list[Source], folder: Path, base_url: str | None) -> int:
    """Keeps or fetches each file, prints what became of it, and returns the exit status."""
    status = 0
    missing: dict[str, list[str]] = {}  # reason → files
    silent: dict[str, str] = {}         # server → why it is not asked again

    for source in sources:
        server = urlsplit(base_url or source.url).netloc
        try:
            outcome = keep_or_fetch(source, folder, base_url, skip=silent.get(server))
            print(f"{folder / source.file}: {outcome}", flush=True)
        except DownloadError as error:
            if isinstance(error, ServerError):
                silent[server] = str(error)
            missing.setdefault(str(error), []).append(source.file)
            status = 1
        except ValueError as error:
            status = command.failed(NAME, error, status or 2)

    for reason, files in missing.items():
        command.failed(NAME, f"{reason}; or put into {folder} by hand (docs/how-to/data.md): "
                             f"{', '.join(files)}", status)
    return status


def fetch(arguments: argparse.Namespace) -> int:
    folder, sources = Path(arguments.download), choose(arguments.only)
    check_usage(folder, arguments.base_url)
    return fetch_all(sources, folder, arguments.base_url)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all is there, 1 a file is missing, 2 usage or an unusable file, 130 Ctrl-C."""
    return command.run(build_parser(), fetch, argv,
                       "interrupted; complete files are kept, run again")


if __name__ == "__main__":
    sys.exit(main())
