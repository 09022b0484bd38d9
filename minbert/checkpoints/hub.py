"""A checkpoint by its name: in a folder, in this package, in a cache on the disk, or on the hub; fetched once and kept.

`resolve` turns a name into a folder in HuggingFace's layout. It looks in this order and stops at the first:
`minbert-mini`, which comes with this package, the folder of that name, HuggingFace's own cache, our cache, the hub.

Our cache has one folder a model and revision, `<cache>/<org>--<name>/<revision>/`. It appears when all its files are
there; until then they are in `.<revision>.unfinished/` beside it. A branch is not asked for again: delete the folder to
fetch it anew.

| environment variable | what it does | if unset |
| --- | --- | --- |
| HF_ENDPOINT | the server asked: `{HF_ENDPOINT}/{name}/resolve/{revision}/{file}` | https://huggingface.co |
| HF_TOKEN | sent as `Authorization: Bearer …` to that server, never on to another host | nothing is sent |
| HF_HUB_CACHE | HuggingFace's cache, read and never written | HF_HOME/hub |
| HF_HOME | what holds that cache, unless HF_HUB_CACHE says otherwise | XDG_CACHE_HOME/huggingface |
| MINBERT_CACHE | our cache | XDG_CACHE_HOME/minbert |
| XDG_CACHE_HOME | where caches live | ~/.cache |

download.py has those of the connection: HF_HUB_OFFLINE, proxies, certificates.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import ChainMap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests

from minbert.files import one_line, read_object

from .download import HubError, Wanted, disk_trouble, fetch, is_offline, locked, shown

__all__ = ["EMBEDDED", "HubError", "resolve"]

EMBEDDED = "minbert-mini"  # a small real BERT; its card: minbert/mini/README.md

DEFAULT_ENDPOINT = "https://huggingface.co"
VOCABULARIES = ("vocab.txt", "tokenizer.json")  # at least one is needed, both are taken
OPTIONAL = ("tokenizer_config.json",)
WEIGHTS = (  # in order of preference; an index stands for the parts it names
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
COMMIT_NOTE = ".commit"  # in our folders: the commit that the files are of, if the server told it
WITHOUT_NETWORK = "without a network, pass a folder that holds config.json, model.safetensors and vocab.txt"

# The hub's alphabet, for what becomes a path; "--" stands for "/" in caches.
_NAME = re.compile(r"(?!.*(--|\.\.))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)
_REVISION = re.compile(r"(?!.*(//|\.\.))\w[\w./+-]{0,199}", re.ASCII)
_PART = re.compile(r"\w[\w.-]{0,199}\.(safetensors|bin)", re.ASCII)

# How a file of that ending begins; web pages and git-lfs pointers begin otherwise.
_BEGINNINGS = {
    ".json": rb"\s*\{",
    ".safetensors": rb".{8}\{",  # the length of the JSON header in 8 bytes, the header
    ".bin": rb"PK\x03\x04|\x80",  # torch.save's zip; before torch 1.6, a pickle
    ".txt": rb"(?i)\s*(?!<!doctype|<html)\S",
}


def resolve(name_or_folder: str | Path, revision: str = "main") -> Path:
    """A name becomes a folder with a BERT checkpoint in HuggingFace's layout, downloaded only if it must be.

    name_or_folder: `minbert-mini`, a folder (returned as it is), or a hub name, `bert-base-uncased` or `org/name`.
    revision: a branch, tag or commit; only used with a hub name.
    Returns the folder; unless it was given, config.json, weights and a vocabulary are in it.
    Raises ValueError for what is neither a folder nor a name, HubError if the checkpoint cannot be had.

    >>> str(resolve("."))
    '.'
    """
    if name_or_folder == EMBEDDED:
        return Path(__file__).parents[1] / "mini"
    path = os.path.expanduser(name_or_folder)
    if os.path.isdir(path):
        return Path(path)
    name = name_or_folder.as_posix() if isinstance(name_or_folder, Path) else name_or_folder
    _check_name(name, revision)
    flat = name.replace("/", "--")
    theirs = _folder("HF_HUB_CACHE", _folder("HF_HOME", _cache_home() / "huggingface") / "hub") / f"models--{flat}"
    ours = _folder("MINBERT_CACHE", _cache_home() / "minbert") / flat / quote(revision, safe="")
    for folder in (_snapshot(theirs, revision), ours):
        if _is_whole(folder):
            return folder
    if is_offline():
        raise HubError(f"HF_HUB_OFFLINE is set, and {name!r} (revision {revision!r}) is not complete in {theirs} nor "
                       f"in {ours}: unset HF_HUB_OFFLINE to download it; {WITHOUT_NETWORK}")
    _fetch_checkpoint(name, revision, ours)
    return ours


def _check_name(name: str, revision: str) -> None:
    """ValueError unless these can be a name and a revision on the hub: only that becomes a path."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an existing folder, nor is it a hub name, which looks like "
                         "'bert-base-uncased' or 'org/name' (letters, digits, '-', '_', '.'): check the spelling")
    if not _REVISION.fullmatch(revision):
        raise ValueError(f"revision {revision!r} is no branch, tag or commit: expected one such as 'main'")


def _folder(variable: str, otherwise: str | Path) -> Path:
    """The folder that an environment variable names."""
    return Path(os.path.expandvars(os.path.expanduser(os.environ.get(variable) or otherwise)))


def _cache_home() -> Path:
    return _folder("XDG_CACHE_HOME", "~/.cache")


def _snapshot(repository: Path, revision: str) -> Path:
    """Where HuggingFace's cache has a revision, if it has it: refs/<revision> names the commit."""
    reference = repository / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if os.path.isfile(reference) else revision
    return repository / "snapshots" / commit


def _is_whole(folder: Path) -> bool:
    """True if config.json, a vocabulary and all parts of the weights are files here (links to nothing don't count)."""

    def has(file: str) -> bool:
        return (folder / file).is_file()

    def has_all(weights: str) -> bool:
        return has(weights) and all(has(part) for part in _parts(folder / weights))

    try:
        return has("config.json") and any(map(has, VOCABULARIES)) and any(map(has_all, WEIGHTS))
    except (OSError, ValueError):  # a cache that may not be read, a broken index
        return False


# ---------------------------------------------------------------------------------------- a checkpoint, file by file


def _fetch_checkpoint(name: str, revision: str, folder: Path) -> None:
    """Fills `folder` from the hub, or waits for the process that is filling it."""
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    if not re.match(r"https?://[^/\s]", endpoint):
        raise ValueError(f"HF_ENDPOINT is {endpoint!r}: expected an address such as {DEFAULT_ENDPOINT}")
    with _session() as session, disk_trouble(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if _is_whole(folder):  # whoever had the lock before us has fetched it
                return
            unfinished = folder.with_name(f".{folder.name}.unfinished")  # no revision begins with a dot
            unfinished.mkdir(exist_ok=True)
            _Checkpoint(name, revision, endpoint, session, unfinished).fetch()
            shutil.rmtree(folder, ignore_errors=True)  # if there is one, it lacks something
            os.replace(unfinished, folder)


def _session() -> requests.Session:
    """Sends HF_TOKEN, if set; requests drops it when a redirect leads to another host."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"[!-~]*", token):  # refused here, since requests would print it in its error
        raise ValueError("HF_TOKEN holds blanks or control characters: set it to the token alone, hf_…")

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    session = requests.Session()
    session.auth = authorize if token else None  # a plain header would give way to a ~/.netrc
    return session


@dataclass
class _Checkpoint:
    """One checkpoint on its way into `folder`; `commit` is empty as long as the server has not told it."""

    name: str
    revision: str
    endpoint: str
    session: requests.Session
    folder: Path
    commit: str = ""

    def fetch(self) -> None:
        """Small files first: what lacks a part is refused before its weights come."""
        (self.folder / "config.json").unlink(missing_ok=True)  # asked for again: its answer tells the commit
        if not self._take("config.json"):
            raise HubError(f"{shown(self.endpoint)} has no model {self.name!r} with a config.json at revision "
                           f"{self.revision!r}, nor is there a folder of that name here: check the spelling", 404)
        self._drop_other_commits()
        if not [file for file in VOCABULARIES if self._take(file)]:
            raise HubError(f"{self._label()} has no vocabulary, {' or '.join(VOCABULARIES)}: choose another")
        for file in OPTIONAL:
            self._take(file)
        weights = next((file for file in WEIGHTS if self._take(file)), None)
        if weights is None:
            raise HubError(f"{self._label()} has no weights, {' or '.join(WEIGHTS)}: choose another")
        for part in _parts(self.folder / weights):
            if not self._take(part):
                raise HubError(f"{self._label()} lacks {part}, which its {weights} names: choose another")

    def _drop_other_commits(self) -> None:
        """What an interrupted attempt has left is kept if it is of the same commit."""
        note = self.folder / COMMIT_NOTE
        if note.is_file() and note.read_text(encoding="utf-8") == self.commit:
            return
        for stray in self.folder.iterdir():
            if stray.name != "config.json":
                stray.unlink()
        note.write_text(self.commit, encoding="utf-8")

    def _take(self, file: str) -> bool:
        """Fetches one file unless it is here; False if the model has none of that name."""
        if (self.folder / file).is_file():
            return True
        revision = quote(self.commit or self.revision, safe="")  # "main" may move on while we fetch
        url = f"{self.endpoint}/{self.name}/resolve/{revision}/{quote(file)}"
        wanted = Wanted(url, self.folder / file, promise=self._promise, check=partial(_check_content, file))
        try:
            fetch(wanted, self.session)
        except HubError as error:
            if error.status == 404:
                return False
            raise self._explained(error) from error
        return True

    def _promise(self, answers: list[requests.Response]) -> tuple[int | None, str | None]:
        """The size and sha256 that the hub states before it redirects to its storage; the commit is noted."""
        host = urlsplit(answers[0].url).netloc
        headers = ChainMap(*[answer.headers for answer in answers if urlsplit(answer.url).netloc == host])
        self.commit = self.commit or headers.get("X-Repo-Commit", "")
        size = headers.get("X-Linked-Size", "")
        etag = headers.get("X-Linked-Etag") or headers.get("ETag", "")  # of a large file, its sha256
        etag = etag.removeprefix("W/").strip('"').lower()
        return int(size) if size.isdecimal() else None, etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None

    def _explained(self, error: HubError) -> HubError:
        """The same error in terms of the model the user asked for, with what to do about it."""
        if error.status in (401, 403):
            return HubError(f"{self._label()} is gated or private: set HF_TOKEN to a token that may read it (HTTP "
                            f"{error.status}; the hub says so of misspelt names too: check the spelling)", error.status)
        return HubError(f"{error}; {WITHOUT_NETWORK}", error.status)

    def _label(self) -> str:
        return f"{self.name!r} (revision {self.revision!r} at {shown(self.endpoint)})"


def _parts(weights: Path) -> list[str]:
    """The files that an index of weights names; none for weights that are no index. ValueError for hostile names."""
    if ".index.json" not in weights.name:
        return []
    try:
        names = sorted(set(read_object(weights)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise ValueError("it is no index from tensors to files")
    for name in names:  # about to become paths: they must not lead elsewhere
        if not _PART.fullmatch(str(name)):
            raise ValueError(f"it names {one_line(repr(name))}, where a plain file name ending in .safetensors or .bin "
                             "was expected")
    return names


def _check_content(file: str, path: Path) -> None:
    """ValueError unless what arrived as `file`, and stands at `path`, begins as its ending promises."""
    ending = Path(file).suffix
    with path.open("rb") as opened:
        if not re.match(_BEGINNINGS[ending], opened.read(1000), re.DOTALL):
            raise ValueError(f"it does not begin like a {ending} file (a web page or a git-lfs pointer in its place?)")
    _parts(path)
