"""Files and other input: users' paths, size-limited reading, atomic replacement, text for errors.

A file from outside may be damaged, malicious or of another kind. Readers then raise a ValueError
whose message is one line that names the file.
"""

import dataclasses
import difflib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

JSON_BYTES = 1 << 26       # of a configuration or an index; real ones have a hundredth of it
LINE_CHARACTERS = 1 << 22  # of a line of data; MultiNLI's longest has 106,016

Record = TypeVar("Record", bound="Saved")


def user_path(name: str | Path) -> Path:
    """A path that a user gave; `~` becomes the home folder."""
    return Path(os.path.expanduser(name))


def check_utf8(path: Path) -> None:
    """Raises ValueError for a name that safetensors and JSON cannot write."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{one_line(path)}: the name is not UTF-8, or the system's locale is not; "
                         "choose another") from None


def items_of(collection: Iterable, what: str) -> list:
    """Reads a collection once, a generator too.

    Args:
        what: the items, for the error.

    Raises:
        ValueError: It is one string or a mapping.
    """
    if isinstance(collection, (str, bytes, Mapping)) or not isinstance(collection, Iterable):
        kind = "one string" if isinstance(collection, str) else type(collection).__name__
        raise ValueError(f"expected a list of {what}, got {kind}: put it in a list")
    return list(collection)


def check_texts(inputs: Sequence[tuple]) -> None:
    """Raises ValueError, with the item's number, for what is not text."""
    for number, texts in enumerate(inputs):
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"item {number} is {one_line(repr(text))}, expected a sentence")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"item {number} is {one_line(ascii(text))}: it holds bytes that "
                                 "are not text; decode it as UTF-8, or as what it is") from None


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {least}")


def read_object(path: Path) -> dict:
    """Returns the JSON object in a UTF-8 file.

    Raises:
        ValueError: The file is too large or holds anything else; the message names it.
    """
    size = path.stat().st_size
    if size > JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, where at most {JSON_BYTES:,} are expected of "
                         "such a file")

    value = parse(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def parse(text: str | bytes, where: str) -> object:
    """Returns the JSON value that a text holds.

    Args:
        text: Bytes are decoded as UTF-8.
        where: The beginning of the error, usually the file's name.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a number of too many digits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # also not UTF-8, or a number of more than 4,300 digits
        reason = one_line(error)
    raise ValueError(f"{where} is not valid JSON ({reason})")


def bounded_lines(file: TextIO, where: str) -> Iterator[str]:
    """Iterates over a file's lines, each checked before it is passed on.

    Args:
        file: Opened as UTF-8 with errors="surrogateescape", which keeps other bytes for the error.

    Raises:
        ValueError: A line is not UTF-8, or is too long to be read into memory.
    """
    number = 0
    while line := file.readline(LINE_CHARACTERS):
        number += 1
        if not line.isascii():
            _check_utf8(line, f"{where}, line {number}")
        if len(line) == LINE_CHARACTERS and not line.endswith("\n"):
            raise ValueError(f"{where}, line {number}: more than {LINE_CHARACTERS:,} characters in "
                             "one line; is it another kind of file?")
        yield line


def _check_utf8(line: str, where: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = line[error.start].encode("utf-8", "surrogateescape")
        found = (f" (byte 0x{byte.hex()} at {len(line[:error.start].encode()) + 1} of the line, in "
                 f"latin-1 {byte.decode('latin-1')!r})")
        if line.startswith(("\udcff\udcfe", "\udcfe\udcff")):  # the mark of UTF-16
            found = ", it looks like UTF-16"
        raise ValueError(f"{where}: not UTF-8{found}; save the file as UTF-8") from None


def choice_hint(word: str, choices: Iterable[str]) -> str:
    """What to take in place of a word that is none of the choices.

    >>> choice_hint("lables", ["labels", "text"]), choice_hint("x", ["labels", "text"])
    ('is labels meant?', 'choose from labels, text')
    """
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, 1)
    return f"is {close[0]} meant?" if close else f"choose from {', '.join(choices)}"


def one_line(text: object, limit: int = 300) -> str:
    """Makes foreign text fit for an error: printable, in one line, without its middle if long.

    >>> one_line("a\\nb \\x1b[31m")
    'a b ?[31m'
    """
    words = " ".join(str(text).split())
    if len(words) > limit:
        words = f"{words[:limit // 2]} … {words[-limit // 2:]}"
    return "".join(character if character.isprintable() else "?" for character in words)


def counted(count: int, noun: str) -> str:
    """A number and a regular noun.

    >>> counted(1, "row"), counted(1000, "row")
    ('1 row', '1,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which replaces `path` at once when the block ends well.

    The bytes are on the disk before the name is, and the name before this returns. If the block
    fails, what was written is removed, so a full disk does not get fuller. A link is followed. A
    device or a pipe is written to at the end, after what it holds.

    Raises:
        OSError: It names `path`, also where safetensors cannot write.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / "content"
            yield partial
            with partial.open("rb") as content, path.open("ab") as stream:
                shutil.copyfileobj(content, stream)
        return

    target = Path(os.path.realpath(path))
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # left by a killed process
        partial.touch()
        mode = partial.stat().st_mode  # by the umask; safetensors' own files are private
        yield partial

        with suppress(PermissionError):  # some mounts know no modes
            partial.chmod(mode)
        sync(partial)
        os.replace(partial, target)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{path}: {error}") from None
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    sync(target.parent)


@contextmanager
def rewriting(path: Path) -> Iterator[TextIO]:
    """Yields a UTF-8 file for rows of a table, which replaces `path` at the end; see `replacing`.

    Half a character, which UTF-8 does not have, is written as its escape.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="",
                                                  errors="backslashreplace") as file:
        yield file


def _is_stream(path: Path) -> bool:
    """Whether there is a device, a pipe or the like, which must never be replaced by a file."""
    place = path.absolute()
    # /dev/stdout may be a file; /dev/shm holds ordinary ones
    if str(place.parent) in ("/dev", "/dev/fd") or place.parts[:2] == ("/", "proc"):
        return path.exists()
    return path.exists() and not (path.is_file() or path.is_dir())


def write_text(path: Path, text: str) -> None:
    """Replaces a file by UTF-8 text; see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Replaces a file by a JSON value; see `replacing`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


class Saved:
    """A dataclass that is kept as a JSON file."""

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls: type[Record], path: Path) -> Record:
        """What `save` wrote. Raises FileNotFoundError or ValueError, naming the file."""
        values = read_object(path)
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold {cls.__name__} ({one_line(error)})") from None


def write_tensors(path: Path, tensors: dict[str, torch.Tensor],
                  metadata: dict[str, str] | None = None) -> None:
    """Replaces a safetensors file; see `replacing`."""
    written, places = {}, set()
    for name, value in tensors.items():
        # The format holds no tensor under two names, as those of a layer that is used twice.
        written[name] = value.clone() if value.data_ptr() in places else value.contiguous()
        places.add(value.data_ptr())
    with replacing(path) as partial:
        save_file(written, partial, metadata)


def sync(path: Path) -> None:
    """Returns when a file's bytes, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folder
        return

    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network disks can sync files only.
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def rename_folder(folder: Path, place: Path) -> None:
    """Puts a folder in the place of another.

    It is renamed. Where the system refuses that, as for folders of a container's image or of
    another disk, it is copied, and stays. A link in that place stays one.
    """
    place = place.resolve()
    shutil.rmtree(place, ignore_errors=True)
    try:
        os.replace(folder, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = place.with_name(f".{place.name}.copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        for path in copy.rglob("*"):
            sync(path)
        os.replace(copy, place)
