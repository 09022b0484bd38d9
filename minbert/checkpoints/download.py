"""One file from one URL, whole or not at all: resumed, retried, verified.

`download` is for everyone. hub.py is built from what is below it: `Wanted` and `fetch` (the same without a lock, with
promises of the hub's own), `locked`, `disk_trouble`, `is_offline`, `shown`.

A file on its way is in `<target>.part`, the ETag of its version in `<target>.part.etag`. A later attempt goes on from
there only if the server still has that version, or if a sha256 will prove the whole.

| environment variable | what it does | if unset |
| --- | --- | --- |
| HF_HUB_OFFLINE | 1, true, yes or on: the network is never touched | the network is used |
| HTTPS_PROXY, HTTP_PROXY, NO_PROXY | proxies, read by requests | a direct connection |
| REQUESTS_CA_BUNDLE | a proxy's own certificates, read by requests | the usual certificates |
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

__all__ = ["HubError", "download"]

TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a single byte
ATTEMPTS = 4  # failures in a row until we give up …
PROGRESS_BYTES = 1 << 20  # … where so many new bytes begin a new row
BACKOFF_SECONDS = 1.0  # doubled at each failure
RETRY_AFTER_LIMIT = 120.0  # a server may ask for more patience, up to here
CHUNK_BYTES = 1 << 16  # requests drops a chunk that is not full when a connection breaks: at most so much is lost
SILENT_BYTES = 1 << 20  # files up to this size show no progress bar

logger = logging.getLogger(__name__)


class HubError(OSError):
    """Network or disk trouble, told in one sentence; `status` is the HTTP status, where a server gave one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def download(url: str, target: str | Path, *, sha256: str | None = None, size: int | None = None,
             check: Callable[[Path], object] | None = None) -> Path:
    """Fetches a URL into a file that appears only when it is whole, going on where an earlier attempt stopped.

    url: http:// or https://. Web pages (text/html) are refused: they are errors in disguise.
    target: the file; if it is there, it is taken as it is, unless it contradicts `sha256` or `size`.
    sha256, size: what the file must be, in hexadecimal digits and in bytes, where one knows it.
    check: a function of the path at which the whole file stands before it gets its name: ValueError refuses it.
    Returns `target` as a Path. Raises ValueError for another kind of address, HubError if the file cannot be had.
    """
    if not re.match(r"https?://[^/\s]", url):
        raise ValueError(f"cannot download {url!r}: expected an http:// or https:// address")
    wanted = Wanted(url, Path(target), sha256 and sha256.lower(), size, check=check)
    with disk_trouble(wanted.target.parent):
        if not _is_here(wanted):
            wanted.target.parent.mkdir(parents=True, exist_ok=True)
            with locked(wanted.target), requests.Session() as session:
                if not _is_here(wanted):  # else: whoever had the lock before us has fetched it
                    fetch(wanted, session)
    return wanted.target


@dataclass(frozen=True)
class Wanted:
    """A file to fetch, and what it must be.

    promise: a function of all answers, redirects first: the size and the sha256 that they state, None if they don't.
    check: a function of the path at which the whole file stands: ValueError if the content is wrong.
    """

    url: str
    target: Path
    sha256: str | None = None
    size: int | None = None
    promise: Callable[[list[requests.Response]], tuple[int | None, str | None]] | None = None
    check: Callable[[Path], object] | None = None

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        return self.target.with_name(self.target.name + ".part.etag")

    @property
    def etag(self) -> str:
        """The version that the part is of; empty if the server told none that is good for resuming."""
        return self.note.read_text(encoding="latin-1") if self.note.exists() else ""

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _is_here(wanted: Wanted) -> bool:
    """True if the target exists and is not known to be wrong: it never exists half-written."""
    if not wanted.target.is_file() or wanted.size not in (None, _size(wanted.target)):
        return False
    return wanted.sha256 in (None, sha256_of(wanted.target))


# -------------------------------------------------------------------------------------------- attempt until it works


class _Transient(Exception):
    """A failure that may pass; `wait` is how many seconds of patience the server asked for, if it did."""

    def __init__(self, reason: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.wait, self.status = wait, status


def fetch(wanted: Wanted, session: requests.Session) -> None:
    """Attempts until the file is there, with longer and longer pauses; HubError at once for what will not pass."""
    if is_offline():
        raise HubError(f"HF_HUB_OFFLINE is set, so {shown(wanted.url)} is not fetched: unset it to fetch it")
    failures, furthest = 0, _size(wanted.part)
    while True:
        try:
            return _attempt(wanted, session)
        except _Transient as trouble:
            arrived = _size(wanted.part)
            if arrived >= furthest + PROGRESS_BYTES:  # a bad line, but one that gets us there
                failures, furthest = 0, arrived
            failures += 1
            if failures == ATTEMPTS:
                kept = f" ({arrived:,} bytes have arrived and are kept)" if arrived else ""
                raise HubError(f"could not download {shown(wanted.url)}: tried {failures} times in a row, at last "
                               f"{trouble}; check the network, wait a little and run again{kept}",
                               trouble.status) from trouble
            seconds = BACKOFF_SECONDS * 2 ** (failures - 1) if trouble.wait is None else trouble.wait
            logger.warning("%s: %s; trying again in %.0f s", wanted.target.name, trouble, seconds)
            sleep(seconds)


def _attempt(wanted: Wanted, session: requests.Session) -> None:
    """Asks once, for what is missing; writes it, verifies the whole, gives it its name."""
    with _ask(wanted, session) as response:
        _refuse_errors(wanted, response)
        start = _first_byte(wanted, response)
        size, sha256 = _expected(wanted, response)
        if start == 0:
            wanted.discard()  # first: a new ETag beside old bytes would let a later attempt join two versions
            wanted.note.write_text(_strong_etag(response), encoding="latin-1")
        _write_body(wanted, response, start, size)
    _verify(wanted, sha256)
    os.replace(wanted.part, wanted.target)
    wanted.discard()


def _ask(wanted: Wanted, session: requests.Session) -> requests.Response:
    """The answer, redirects followed, its body still to come."""
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges are to be the file's own
    start = _size(wanted.part)
    if start and (wanted.etag or wanted.sha256):  # else nothing would tell the halves of two versions from one file
        headers["Range"] = f"bytes={start}-"
        if wanted.etag:
            headers["If-Range"] = wanted.etag
    try:
        return session.get(wanted.url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Transient(_reason(error)) from error
    except requests.RequestException as error:
        raise HubError(f"could not download {shown(wanted.url)}: {_reason(error)}; check the address") from error


# ---------------------------------------------------------------------------------------------- what a server answers


def _refuse_errors(wanted: Wanted, response: requests.Response) -> None:
    """_Transient for what may pass (too many requests, a server in trouble), HubError for all else but the file."""
    status = response.status_code
    told = f"HTTP {status} {response.reason or ''}".rstrip()
    if status == 416:  # the file has become shorter than what we have of it
        wanted.discard()
    if status in (408, 416, 425, 429) or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise _Transient(told, min(float(wait), RETRY_AFTER_LIMIT) if wait.isdecimal() else None, status)
    if status not in (200, 206):
        raise HubError(f"{shown(wanted.url)} answered {told}, not with the file: check the address", status)
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise HubError(f"{shown(wanted.url)} answered with a web page in place of the file: a login page or a proxy "
                       "may stand between; open the address in a browser to see it")


def _first_byte(wanted: Wanted, response: requests.Response) -> int:
    """Where in the file the body begins: at 0, or where the part ends. _Transient if it is another place or version."""
    if response.status_code == 200:
        return 0
    start, etag = _size(wanted.part), response.headers.get("ETag", "")
    another_version = wanted.etag and etag not in ("", wanted.etag)  # a server may know Range and not If-Range
    if another_version or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        wanted.discard()
        raise _Transient("the server sent another range or another version than asked for")
    return start


def _expected(wanted: Wanted, response: requests.Response) -> tuple[int | None, str | None]:
    """The whole file's size and sha256, by our own knowledge or the server's word; None for what nobody knows."""
    size, sha256 = wanted.promise([*response.history, response]) if wanted.promise else (None, None)
    size = size if wanted.size is None else wanted.size
    total = _total(response)
    if None not in (size, total) and size != total:
        raise HubError(f"{shown(wanted.url)} is not the file expected: the server states {total:,} bytes, where "
                       f"{size:,} were expected; check the address")
    return total if size is None else size, wanted.sha256 or sha256


def _total(response: requests.Response) -> int | None:
    """The whole file's size as the answer states it: `Content-Range: bytes 5-9/10`, or Content-Length."""
    if response.status_code == 206:
        told = response.headers["Content-Range"].rpartition("/")[2]
    else:
        told = "" if _is_coded(response) else response.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() else None


def _strong_etag(response: requests.Response) -> str:
    """The ETag if it is good for resuming, else an empty string: `W/"…"` promises less than the same bytes."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') and not _is_coded(response) else ""


def _is_coded(response: requests.Response) -> bool:
    """True if the body is compressed, though we asked for it as it is: length and ETag are not the file's then."""
    return "Content-Encoding" in response.headers


# ------------------------------------------------------------------------------------------------- writing, verifying


def _write_body(wanted: Wanted, response: requests.Response, start: int, size: int | None) -> None:
    """Appends the body to the part, which stays if the body breaks off. _Transient if it does."""
    of_size = "" if size is None else f" of {size:,}"
    bar = tqdm(desc=wanted.target.name, initial=start, total=size, unit="B", unit_scale=True, unit_divisor=1024,
               disable=size is not None and size <= SILENT_BYTES)
    with bar, wanted.part.open("ab" if start else "wb") as part:
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                part.write(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            reason = f"the answer broke off after {part.tell():,}{of_size} bytes ({_reason(error)})"
            raise _Transient(reason) from error
        part.flush()
        os.fsync(part.fileno())  # before the rename, lest a power cut leave the name and not the bytes
        arrived = part.tell()
    if size is not None and arrived != size:
        if arrived > size:
            wanted.discard()
        raise _Transient(f"the answer had {arrived:,}{of_size} bytes")


def _verify(wanted: Wanted, sha256: str | None) -> None:
    """Throws the part away if it is wrong: _Transient for another sha256, HubError if the check refuses it."""
    if sha256 is not None and (found := sha256_of(wanted.part)) != sha256:
        wanted.discard()
        raise _Transient(f"the file's sha256 was {found}, where {sha256} was expected")
    try:
        if wanted.check:
            wanted.check(wanted.part)
    except ValueError as error:
        wanted.discard()
        raise HubError(f"{shown(wanted.url)} is refused: {error}; open the address in a browser to see it") from error


def _reason(error: BaseException) -> str:
    """The innermost cause, in a few words; requests and urllib3 wrap it in messages about their pools."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was closed"
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(told.split()).rstrip(".")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# --------------------------------------------------------------------------------------- shared with hub.py, sources.py


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def shown(url: str) -> str:
    """The URL without the user name and password it may hold.

    >>> shown("https://me:secret@example.org/x")
    'https://example.org/x'
    """
    return re.sub(r"(?<=//)[^/@]*@", "", url)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time inside, the others wait. The empty lock file stays: without it, two could get in."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process is fetching %s: waiting for it", path)
        held = lock.acquire()
    with held:
        yield


@contextmanager
def disk_trouble(folder: Path) -> Iterator[None]:
    """Turns a full, read-only or missing disk into a HubError that names the folder."""
    try:
        yield
    except HubError:
        raise
    except OSError as error:
        raise HubError(f"cannot write to {folder} ({error.strerror or error}): make room or choose another folder "
                       "(MINBERT_CACHE, for checkpoints)") from error
