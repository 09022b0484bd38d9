"""Where the course's files and MultiNLI come from: `python -m multitask.data --download data` fetches what is missing.

What is there is never overwritten. docs/data.md describes the files, their terms, and how to place them by hand.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from minbert.checkpoints.download import SILENT_BYTES, HubError, disk_trouble, is_offline, sha256_of, shown
from minbert.checkpoints.download import download as download_file
from minbert.files import one_line, replacing
from multitask.tasks import PARA, SST, STS, Task

from .course import TEST_SPLIT, file_of, read_examples
from .multinli import MEMBER_LIMIT

# The hand-out of winter 2023, whose Quora split is the paper's; a commit's files never change.
COURSE_URL = ("https://raw.githubusercontent.com/gpoesia/minbert-default-final-project/"
              "f25cd95c73a1ce3f3b88dd7a11df90f0ab488bd9/data")
MULTINLI_URL = "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip"
MULTINLI_SHA256 = "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822"
MULTINLI_KEYS = {"gold_label", "sentence1", "sentence2"}

BLOCK_BYTES = 1 << 20

TERMS = {  # as far as their publishers state them
    SST.name: "no licence stated (Socher et al. 2013)",
    PARA.name: "Quora's terms of service, non-commercial",
    STS.name: "those of SemEval's many sources (Cer et al. 2017)",
    "nli": "those of its sources, mostly the Open American National Corpus's; see Williams et al. 2018",
}


@dataclass(frozen=True)
class Source:
    """One file and where it comes from.

    group: what --only takes besides a file's name. file: its place in the data folder. url: what is asked for.
    sha256, size: of what is at the URL; None where nobody has told us.
    read: a function of a path that tells what the file holds; ValueError if it is another kind of file.
    member: the file's name in the archive, where the URL is a zip.
    tried: whether this URL has been fetched by us, rather than read about.
    """

    group: str
    file: str
    url: str
    sha256: str | None
    size: int | None
    terms: str
    read: Callable[[Path], str]
    member: str | None = None
    tried: bool = False


def read_course(task: Task, labelled: bool, path: Path) -> str:
    """How many usable examples a course file holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # blank labels are said when one trains
        return f"{len(read_examples(path, task, labelled)):,} examples"


def read_multinli(path: Path) -> str:
    """The size of a file of JSON lines, of which the first and the last are looked at."""
    with path.open("rb") as file:
        first = file.readline(BLOCK_BYTES)
        file.seek(max(0, path.stat().st_size - BLOCK_BYTES))
        last = file.read().rstrip().rpartition(b"\n")[2]
    for name, line in (("first", first), ("last", last)):
        try:
            pair = json.loads(line)
        except ValueError:
            pair = None
        if not isinstance(pair, dict) or not pair.keys() >= MULTINLI_KEYS:
            raise ValueError(f"{path}: its {name} line is no JSON object with {', '.join(sorted(MULTINLI_KEYS))}")
    return f"{path.stat().st_size:,} bytes"


def _course(task: Task, split: str, size: int | None = None, sha256: str | None = None) -> Source:
    name = file_of(Path(), task, split).name
    return Source("course", name, f"{COURSE_URL}/{name}", sha256, size, TERMS[task.name],
                  partial(read_course, task, split != TEST_SPLIT))


def _multinli(split: str) -> Source:
    name = f"multinli_1.0_{split}.jsonl"
    return Source("multinli", f"multinli/{name}", MULTINLI_URL, MULTINLI_SHA256, None, TERMS["nli"], read_multinli,
                  member=f"multinli_1.0/{name}")


# docs/data.md says how each checksum was learnt. No URL has been tried: this was written without open internet.
SOURCES = (
    _course(SST, "train", 1_175_139, "03b2b625c090f94a6afd59f114cde5282e2053aab0b101e87ed695d8a0c5b1df"),
    _course(SST, "dev", 151_384, "a186ce94577635fbe10beaaddd50f16cccf6c30973221cefdf90deed2a584bfe"),
    _course(SST, TEST_SPLIT, 313_202, "bdd5a767faa0c26782117e37767ece154c30d5d04fb8727d09c71e3850a55c7b"),
    _course(PARA, "train"),
    _course(PARA, "dev", 3_205_321, "bfa3cc954a9ba300ae776a980141de65f622a3c1b97e3fd905d63245bc36d5ad"),
    _course(PARA, TEST_SPLIT),
    _course(STS, "train", 928_832, "15d12efc2d656fffb1d61ac1f08ec4227f43925fd16f420c037cbd063699c21b"),
    _course(STS, "dev", 132_265, "ce3cad6f16062586ac7ba462c28b010a9be10c530fd5074165860d7b7ab4e93d"),
    _course(STS, TEST_SPLIT, 256_677, "dee455745b72e9ca3ff74e7c056bd73e34bad5b8d5641045a2c1e7e131866f47"),
    _multinli("train"),
    _multinli("dev_matched"),
)


def download(folder: str | Path, only: Sequence[str] = (), base_url: str | None = None,
             sources: Sequence[Source] = SOURCES) -> Iterator[tuple[Source, str | Exception]]:
    """Fetches what the folder lacks, file by file, and yields each source with what became of it, or its error.

    only: groups or files to confine it to. base_url: a mirror that serves the files and the zip side by side.
    An error is a HubError (it could not be had) or a ValueError (what is there cannot be used; it is left as it is).
    A server that does not answer is not asked again. Raises ValueError for another `only`, address or kind of folder.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--download {folder}: this is a file, where a folder was expected")
    silent: dict[str, HubError] = {}  # server → why it is not asked again
    for address, rows in _by_address(_chosen(sources, only), base_url).items():
        missing = []
        for row in rows:
            told = _already_there(row, folder / row.file)
            if told is None:
                missing.append(row)
            else:
                yield row, told
        server = urlsplit(address).netloc
        if missing:
            told = silent[server] if server in silent else _fetched(missing, folder, address)
            if isinstance(told, HubError) and _is_silent(told):
                silent[server] = told
            for row in missing:
                yield row, told if isinstance(told, Exception) else told[row]


def _chosen(sources: Sequence[Source], only: Sequence[str]) -> list[Source]:
    names = {name: None for row in sources for name in (row.group, row.file)}
    for name in only:
        if name not in names:
            raise ValueError(f"--only {name}: choose from {', '.join(sorted(names, key=lambda name: '.' in name))}")
    return [row for row in sources if not only or row.group in only or row.file in only]


def _by_address(sources: Sequence[Source], base_url: str | None) -> dict[str, list[Source]]:
    """URL → the files that come from it."""
    if base_url is not None and not (urlsplit(base_url).scheme in ("http", "https") and urlsplit(base_url).netloc):
        raise ValueError(f"--base-url {base_url}: expected an http:// or https:// address")
    found: dict[str, list[Source]] = {}
    for row in sources:
        address = row.url if base_url is None else f"{base_url.rstrip('/')}/{row.url.rpartition('/')[2]}"
        found.setdefault(address, []).append(row)
    return found


def _already_there(row: Source, path: Path) -> str | ValueError | None:
    """What is said of a file that is there; None if it is not, or empty. It may be anybody's work: hands off."""
    if not _has_content(path):
        return None
    try:
        holds = row.read(path)
    except ValueError as error:
        return ValueError(f"{error}; the file is left as it is: mend it, or move it away and run again")
    if row.member or row.sha256 is None:
        return f"kept, no checksum is known for it ({holds})"
    if sha256_of(path) == row.sha256:
        return f"kept, sha256 verified ({holds})"
    return f"kept, though its sha256 is not that of the file at {row.url} ({holds}); to fetch that, move this one away"


def _fetched(rows: list[Source], folder: Path, address: str) -> dict[Source, str] | ValueError | HubError:
    """Fetches what comes from one address. Returns what is said of each file, or the error that they share."""
    fetch = _fetch_members if rows[0].member else _fetch_file
    try:
        verified = "sha256 verified" if rows[0].sha256 else "no checksum is known for it"
        return {row: f"fetched, {verified} ({holds})" for row, holds in fetch(rows, folder, address).items()}
    except (ValueError, HubError) as error:
        return error


def _fetch_file(rows: list[Source], folder: Path, address: str) -> dict[Source, str]:
    holds = {}
    for row in rows:
        def check(path: Path, row: Source = row) -> None:
            try:
                holds[row] = row.read(path)
            except ValueError as error:  # the path is a temporary one
                raise ValueError(str(error).replace(str(path), row.file)) from error

        download_file(address, folder / row.file, sha256=row.sha256, size=row.size, check=check)
        if row not in holds:  # another process has fetched it in the meantime
            check(folder / row.file)
    return holds


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _is_silent(error: BaseException | None) -> bool:
    """True if a server could not be reached or is in trouble, so that asking it for the next file is in vain."""
    status = getattr(error, "status", None)
    if is_offline() or (status is not None and (status in (408, 429) or status >= 500)):
        return True
    while error is not None and not isinstance(error, requests.RequestException):
        error = error.__cause__
    return error is not None


# ------------------------------------------------------------------------------------------------ files out of a zip


def _fetch_members(rows: list[Source], folder: Path, address: str) -> dict[Source, str]:
    """The zip is fetched beside its files and goes when they are out, unless somebody had put it there."""
    archive = (folder / rows[0].file).with_name(address.rpartition("/")[2])
    was_there = _has_content(archive)
    if was_there and rows[0].sha256 not in (None, sha256_of(archive)):
        raise ValueError(f"{archive} is not the file at {shown(address)} (another sha256); it is left as it is: move "
                         "it away and run again")
    download_file(address, archive, sha256=rows[0].sha256, size=rows[0].size, check=partial(_members, rows))
    holds = {row: _extract(archive, info, folder / row.file, row) for row, info in _members(rows, archive).items()}
    if not was_there:
        archive.unlink()
    return holds


def _members(rows: list[Source], archive: Path) -> dict[Source, zipfile.ZipInfo]:
    """The wanted entries of a zip, found by their whole names. ValueError if one is missing, or larger than it may be.

    Names in the zip never become paths here: what leads elsewhere ("../x", "/x") is not asked for.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = {info.filename: info for info in opened.infolist()}
            for info in entries.values():
                if info.filename in {row.member for row in rows} and not info.flag_bits & 1:
                    opened.open(info).close()  # what its header claims is checked here, not while it is unpacked
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{archive.name} is no zip archive ({one_line(error)})") from error
    for row in rows:
        info = entries.get(row.member)
        if info is None:
            found = one_line(", ".join(list(entries)[:5])) or "nothing"
            raise ValueError(f"{archive.name}: the archive has no {row.member}; it has {found}")
        if info.file_size > MEMBER_LIMIT:
            raise ValueError(f"{archive.name}: {row.member} would unpack to {info.file_size:,} bytes, where at most "
                             f"{MEMBER_LIMIT:,} are expected")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{archive.name}: {row.member} is encrypted or packed in an unusual way")
    return {row: entries[row.member] for row in rows}


def _extract(archive: Path, info: zipfile.ZipInfo, target: Path, row: Source) -> str:
    """Unpacks one entry, a block at a time; the target appears when it is whole and has been read."""
    bar = tqdm(desc=target.name, total=info.file_size, unit="B", unit_scale=True, unit_divisor=1024,
               disable=info.file_size <= SILENT_BYTES)
    with disk_trouble(target.parent), bar, replacing(target) as unfinished:
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(info) as entry, unfinished.open("wb") as file:
                while block := entry.read(BLOCK_BYTES):  # never more than info.file_size in all; ends with a CRC check
                    file.write(block)
                    bar.update(len(block))
                file.flush()
                os.fsync(file.fileno())
            return row.read(unfinished)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            unfinished.unlink(missing_ok=True)
            raise ValueError(f"{archive}, {info.filename}: {error}; delete the archive and run again") from error
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
