"""Where the course's files and MultiNLI come from, and how one file is fetched.

docs/how-to/data.md describes the files, their terms, and how to place them by hand.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import requests

from minbert.files import one_line, sha256_of
from minbert.progress import Progress
from multitask.tasks import BUILT_IN

from .examples import TEST_SPLIT, read_examples
from .multinli import FILES, FOLDER, ZIP_FILE, check_zip, find_zip

TIMEOUT = (10, 30)  # seconds to connect, seconds without a single byte
BLOCK_BYTES = 1 << 16
SILENT_BYTES = 1 << 20  # files up to this size show no progress bar

# The hand-out of winter 2023, whose Quora split is the paper's; a commit's files never change.
COURSE_URL = ("https://raw.githubusercontent.com/gpoesia/minbert-default-final-project/"
              "f25cd95c73a1ce3f3b88dd7a11df90f0ab488bd9/data")
MULTINLI_URL = "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip"


class DownloadError(OSError):
    """A file cannot be fetched; one line says which, why, and what to do."""


class ServerError(DownloadError):
    """The server does not answer or fails; its other files are skipped."""


@dataclass(frozen=True)
class Source:
    """One file and where it comes from.

    Attributes:
        task: A name in BUILT_IN, or "nli".
        file: Its place in the data folder.
        url: Its public home.
        sha256, size: Hexadecimal digits and bytes; None where they are unknown.
    """

    task: str
    file: str
    url: str
    sha256: str | None
    size: int | None

    @property
    def group(self) -> str:
        """What --only takes besides a file's name."""
        return "multinli" if self.task == "nli" else "course"


def _course(task: str, file: str, sha256: str | None = None, size: int | None = None) -> Source:
    return Source(task, file, f"{COURSE_URL}/{file}", sha256, size)


# docs/how-to/data.md says how each checksum was learnt.
SOURCES = (
    _course("sst", "ids-sst-train.csv",
            "03b2b625c090f94a6afd59f114cde5282e2053aab0b101e87ed695d8a0c5b1df", 1_175_139),
    _course("sst", "ids-sst-dev.csv",
            "a186ce94577635fbe10beaaddd50f16cccf6c30973221cefdf90deed2a584bfe", 151_384),
    _course("sst", "ids-sst-test-student.csv",
            "bdd5a767faa0c26782117e37767ece154c30d5d04fb8727d09c71e3850a55c7b", 313_202),
    _course("para", "quora-train.csv"),
    _course("para", "quora-dev.csv",
            "bfa3cc954a9ba300ae776a980141de65f622a3c1b97e3fd905d63245bc36d5ad", 3_205_321),
    _course("para", "quora-test-student.csv"),
    _course("sts", "sts-train.csv",
            "15d12efc2d656fffb1d61ac1f08ec4227f43925fd16f420c037cbd063699c21b", 928_832),
    _course("sts", "sts-dev.csv",
            "ce3cad6f16062586ac7ba462c28b010a9be10c530fd5074165860d7b7ab4e93d", 132_265),
    _course("sts", "sts-test-student.csv",
            "dee455745b72e9ca3ff74e7c056bd73e34bad5b8d5641045a2c1e7e131866f47", 256_677),
    _course("cfimdb", "ids-cfimdb-train.csv",
            "140fc513045a966109faed46a5c7a898767b96714d71bcb9c15f659129fadcea", 1_693_182),
    _course("cfimdb", "ids-cfimdb-dev.csv",
            "3087f571b66860fe5d035b5a018d08202ad3fd3720e4821c04b2acf6c7ded559", 249_095),
    _course("cfimdb", "ids-cfimdb-test-student.csv",
            "7ae611548c9eac879e9ebb406cc9f8ae68ff12f78090e4965af5cbdfa06240f4", 495_595),
    Source("nli", f"{FOLDER}/{ZIP_FILE}", MULTINLI_URL,
           "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822", None),
)


def keep_or_fetch(source: Source, folder: Path, base_url: str | None = None,
                  skip: str | None = None) -> str:
    """Fetches a file unless the folder has it, and says what became of it; never overwrites.

    Args:
        base_url: A mirror that serves all files side by side.
        skip: Why the server is not asked, if it has failed before.

    Raises:
        DownloadError: The file cannot be fetched.
        ValueError: The file in the folder cannot be used; it is left as it is.
    """
    path = folder / source.file
    if source.group == "multinli":
        if all((folder / FOLDER / name).is_file() for name in FILES.values()):
            return f"not needed, {folder / FOLDER} holds its two files"
        path = find_zip(folder) or path

    if path.is_file() and path.stat().st_size > 0:
        return _describe_kept(source, path)

    if skip is not None:
        raise DownloadError(skip)
    url = source.url
    if base_url is not None:
        url = f"{base_url.rstrip('/')}/{path.name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    download(url, partial, source.sha256, source.size)

    try:
        contents = describe(source, partial)
    except ValueError as error:
        partial.unlink()
        reason = str(error).replace(str(partial), path.name)
        raise DownloadError(f"{url} is not the file expected: {reason}; "
                            "open the address in a browser to see it") from None
    os.replace(partial, path)
    verified = "sha256 verified" if source.sha256 else "no checksum is known for it"
    return f"fetched, {verified} ({contents})"


def describe(source: Source, path: Path) -> str:
    """Says what a file holds; raises ValueError if it is another kind of file."""
    if source.task == "nli":
        return check_zip(path)

    labelled = not source.file.endswith(f"-{TEST_SPLIT}.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # training warns of blank labels
        return f"{len(read_examples(path, BUILT_IN[source.task], labelled)):,} examples"


def _describe_kept(source: Source, path: Path) -> str:
    """Describes an existing file, which may be the user's own and is never changed."""
    try:
        contents = describe(source, path)
    except ValueError as error:
        raise ValueError(f"{error}; the file is left as it is: fix it, or move it away and "
                         "run again") from None

    if source.sha256 is None:
        return f"kept, no checksum is known for it ({contents})"
    if sha256_of(path) == source.sha256:
        return f"kept, sha256 verified ({contents})"
    return (f"kept, though its sha256 is not that of the file at {source.url} ({contents}); "
            "to fetch that, move this one away")


def download(url: str, partial: Path, sha256: str | None = None, size: int | None = None) -> None:
    """Fetches a file with a progress bar, and resumes where an earlier attempt stopped.

    It resumes only if the sha256 is known, which proves that both pieces are of one version.

    Args:
        partial: Where to write. What has arrived stays there if the connection breaks off.
        sha256, size: What the file must be, where it is known.

    Raises:
        DownloadError: The file cannot be fetched, or is not the one expected.
        ServerError: The server does not answer, or is in trouble.
    """
    start = partial.stat().st_size if sha256 and partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # lengths are to be the file's own
    if start:
        headers["Range"] = f"bytes={start}-"

    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            _refuse_errors(response, url)
            if response.status_code != 416:  # else nothing is missing: the checksum will tell
                _write(response, partial, start, size)
    except requests.RequestException as error:
        kept = "; what has arrived is kept" if sha256 else ""
        raise ServerError(f"could not download {url} ({_cause(error)}): check the network "
                          f"and run again{kept}") from None
    _verify(url, partial, sha256, size)


def _refuse_errors(response: requests.Response, url: str) -> None:
    """Raises an error unless the response is the file."""
    status = f"HTTP {response.status_code} {response.reason or ''}".rstrip()
    if response.status_code == 429 or response.status_code >= 500:
        raise ServerError(f"{url} answered {status}: wait a little and run again")
    if response.status_code not in (200, 206, 416):
        raise DownloadError(f"{url} answered {status}, not with the file: check the address")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise DownloadError(f"{url} answered with a web page in place of the file, perhaps a login "
                            "page or a proxy's: open the address in a browser to see it")


def _write(response: requests.Response, partial: Path, start: int, size: int | None) -> None:
    """Appends the body if the server sends the rest only, else begins the file again."""
    resumed = response.status_code == 206
    done = start if resumed else 0
    total = size
    if "Content-Length" in response.headers:
        total = done + int(response.headers["Content-Length"])

    bar = Progress(desc=partial.name.removesuffix(".partial"), initial=done, total=total, unit="B",
                   unit_scale=True, unit_divisor=1024,
                   disable=total is not None and total <= SILENT_BYTES)
    with bar, partial.open("ab" if resumed else "wb") as file:
        for block in response.iter_content(BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())  # before the rename, in case of a power cut


def _cause(error: BaseException) -> str:
    """The innermost cause; requests and urllib3 wrap it in messages about their pools."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return one_line(getattr(error, "strerror", None) or error).rstrip(".")


def _verify(url: str, partial: Path, sha256: str | None, size: int | None) -> None:
    """Deletes the file if its size or checksum is wrong."""
    reason = None
    if size is not None and partial.stat().st_size != size:
        reason = f"it has {partial.stat().st_size:,} bytes, expected {size:,}"
    elif sha256 is not None and sha256_of(partial) != sha256:
        reason = f"its sha256 is {sha256_of(partial)}, expected {sha256}"

    if reason is not None:
        partial.unlink()
        raise DownloadError(f"{url} is not the file expected: {reason}; run again, "
                            "or check the address")
