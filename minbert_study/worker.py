"""A student's code in a process of its own: within time and memory, away from files and network.

The process runs the code and writes down what it observed. It never learns what is expected: the
comparison happens in the process that started it (judging.py). So nothing that a file replaces in
its own process makes a wrong answer right.

The limits stop accidents and simple mischief: endless loops, full memory, deleted files. A file
that means harm needs a real sandbox; docs/how-to/teach.md has one.
"""

import importlib.util
import inspect
import io
import linecache
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path

import numpy as np
import torch

import multitask  # noqa: F401 - loaded once, before the processes fork
from minbert.files import one_line

from . import exercise as exercises

SECONDS = 20
MEMORY = 4 << 30       # bytes beyond what the process has when it starts
WRITTEN = 64 << 20     # bytes of the largest file that the process can write
UNWRITTEN = 74         # exit status of the process if it cannot write
PRINTED = 4000         # characters of a student's own output that are kept
LARGEST = 2**63        # whole number that is passed on: a float has no place for 400 digits
# audit events of Python that reach beyond the exercise
REFUSED = ("ctypes.", "ftplib.", "glob.", "http.", "os.chdir", "os.chmod", "os.chown", "os.exec",
           "os.fork", "os.kill", "os.link", "os.mkdir", "os.posix_spawn",
           "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.startfile",
           "os.symlink", "os.system", "os.truncate", "os.utime", "pty.", "shutil.",
           "signal.pthread_kill", "smtplib.", "socket.", "sqlite3.", "subprocess.", "urllib.",
           "webbrowser.")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Fault(Exception):
    """What is wrong with a student's code, found while it runs."""


def processes() -> multiprocessing.context.BaseContext:
    """What starts processes. One that forks has torch loaded already; elsewhere it loads again."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minbert_study.worker"])
    return context


def observe(folder: Path, name: str, own: Sequence[str],
            seed: int) -> tuple[list[dict], str | None, str]:
    """Runs an exercise's checks on a student's code, in a process of its own.

    Args:
        own: finished exercises, whose parts stand in for the library's.
        seed: of all random draws.

    Returns:
        {"observed": …} or {"fault": lines, …} of each check, as far as they came; why the process
        ended early, or None; what the code printed.
    """
    context = processes()
    with tempfile.TemporaryDirectory(prefix="minbert-study-") as out:
        process = context.Process(target=_work, args=(folder.resolve(), name, own, seed, out),
                                  daemon=True)
        process.start()
        try:
            process.join(SECONDS if sys.platform == "linux" else SECONDS + 20)
        finally:  # after Ctrl-C, too
            is_late = process.is_alive()
            process.kill()
            process.join()
        end = None
        if is_late:
            end = f"stopped after {SECONDS} seconds: is there an endless loop?"
        elif process.exitcode:
            end = f"the process crashed (status {process.exitcode})"
            if process.exitcode == UNWRITTEN:  # a student's code can end so, too
                write_temporary(Path(out, "room"), bytes(WRITTEN))

        results = []
        while (path := Path(out, f"{len(results)}.pt")).is_file():
            try:
                results.append(torch.load(path, weights_only=True))  # safe on hostile files
            except Exception:  # stopped while it was written
                break
        printed = Path(out, "printed")
        text = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
    return results, end, text[:PRINTED]


def write_temporary(path: Path, content: bytes) -> None:
    """Writes a temporary file. Raises OSError with a remedy: it is no fault of a student's."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(f"{tempfile.gettempdir()}: {error.strerror}; make room there, or set TMPDIR "
                      "to another folder") from None


# --------------------------------------------------------------------- in the student's process


def _work(folder: Path, name: str, own: Sequence[str], seed: int, out: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the student's code
    torch.set_num_threads(1)
    exercises.load(name)  # before anything is refused or replaced
    _limit_memory()
    tempfile.gettempdir()  # finds it by writing there, which torch.optim needs
    _refuse_mischief(out)
    printed = Printed(Path(out, "printed"))
    with redirect_stdout(printed), redirect_stderr(printed):
        for number, result in enumerate(_results_of(folder, name, own, seed)):
            written = _written(result)
            if len(written) > WRITTEN:
                written = _written({"is_begun": True, "fault": [
                    f"{len(written):,} bytes came back, far too many: check the shapes"]})
            try:
                Path(out, f"{number}.pt").write_bytes(written)
            except OSError:
                os._exit(UNWRITTEN)
    os._exit(0)  # no code of the student's runs after this


class Printed(io.TextIOBase):
    """Writes the first PRINTED characters to a file, at once, and drops the rest."""

    def __init__(self, path: Path) -> None:
        self.file, self.left = path.open("w", encoding="utf-8", errors="replace"), PRINTED

    def write(self, text: str) -> int:
        if self.left > 0:
            self.file.write(text[:self.left])
            self.file.flush()
            self.left -= len(text)
        return len(text)


def _written(result: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(result, buffer)
    return buffer.getvalue()


def _results_of(folder: Path, name: str, own: Sequence[str], seed: int) -> Iterator[dict]:
    """What each check observes, one after another."""
    checks = exercises.load(name).checks
    try:
        part = load_part(folder, name, own)
    except BaseException as error:
        yield from [{"fault": explain(error, folder), "is_begun": _is_begun(error)}] * len(checks)
        return
    for check in checks:
        try:
            with exercises.equal_draws(seed):
                yield {"observed": plain(check.run(part))}
        except BaseException as error:
            yield {"fault": explain(error, folder), "is_begun": _is_begun(error)}


def load_part(folder: Path, name: str, own: Sequence[str]) -> types.SimpleNamespace:
    """The student's functions, in a library whose own answers are out of reach."""
    exercise = exercises.load(name)
    if not exercise.is_alone:
        install_own(folder, own)
    for place in exercise.places:
        exercises.replace(place, _out_of_reach(place))
    part = load_file(folder, name)
    exercises.install(exercise, part)
    return part


def install_own(folder: Path, names: Iterable[str]) -> None:
    """Puts a student's finished exercises into the library, for this process."""
    for name in names:
        exercises.install(exercises.load(name), load_file(folder, name))


def load_file(folder: Path, name: str) -> types.SimpleNamespace:
    """Runs a student's file; returns what it defines, with functions that check their use."""
    exercise, path = exercises.load(name), folder / exercises.FILES[name]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with exercises.equal_draws(0):
        spec.loader.exec_module(module)
    found = {wanted: vars(module)[wanted] for wanted in exercise.names}
    if exercise.is_in_place:
        return types.SimpleNamespace(**found)
    for value in found.values():
        if isinstance(value, type) and "forward" in vars(value):
            value.forward = guarded(value.forward)
    handed_out = (exercises.TEMPLATES / exercises.FILES[name]).read_text(encoding="utf-8")
    may_be_none = re.findall(r"def (\w+)\(.*\) -> .*None:", handed_out)
    return types.SimpleNamespace(**{
        wanted: value if isinstance(value, type)
        else guarded(value, wanted in may_be_none)
        for wanted, value in found.items()})


def guarded(function: Callable, may_be_none: bool = False) -> Callable:
    """The function; it must return something, and leave its input as it is."""
    parameters = list(inspect.signature(function).parameters)  # also of one that is wrapped

    @wraps(function)
    def call(*args: object, **named: object) -> object:
        before = [exercises.copy_of(value) for value in (*args, *named.values())]
        result = function(*args, **named)
        if result is None and not may_be_none:
            raise Fault(f"{function.__name__} returned nothing: is a `return` missing at its end?")
        if isinstance(result, torch.Tensor) and result.layout != torch.strided:
            raise Fault(f"{function.__name__} returned a sparse tensor; make it dense with "
                        "to_dense()")
        names = (*parameters[:len(args)], *named)
        for name, old, new in zip(names, before, (*args, *named.values()), strict=False):
            if isinstance(old, torch.Tensor) and not _is_same(old, new):
                raise Fault(f"{function.__name__} changed its input `{name}` in place, but the "
                            "caller still needs it. Work on a new tensor, or on "
                            f"{name}.clone()")
        return result
    return call


def _is_same(old: torch.Tensor, new: torch.Tensor) -> bool:
    return old.shape == new.shape and torch.equal(old.nan_to_num(), new.detach().nan_to_num())


def _out_of_reach(place: str) -> Callable:
    def refuse(*_: object, **__: object) -> None:
        raise Fault(f"{exercises.name_of(place)} of the library was called; here you are to write "
                    "it yourself")
    return refuse


def plain(value: object) -> object:
    """An observation in types that are safe to read back: tensors, text, numbers, lists, dicts."""
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor).to("cpu").clone().contiguous()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)) if value.dtype != object else "array"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a very large whole number"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return f"an object of type {type(value).__name__}"


# --------------------------------------------------------------------------- errors, in few lines


def _is_begun(error: BaseException) -> bool:
    # torch raises NotImplementedError with a text, for a dtype that it cannot compute with
    return not isinstance(error, NotImplementedError) or bool(error.args)


def explain(error: BaseException, folder: Path) -> list[str]:
    """An exception for a student: the line, the reason, and the shapes of the tensors there."""
    if isinstance(error, Fault):
        return [str(error)]
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
              if Path(frame.f_code.co_filename).parent == folder]
    if not frames:
        return [f"{type(error).__name__}: {one_line(error)}"]
    frame, line = frames[-1]
    file = Path(frame.f_code.co_filename)
    code = linecache.getline(str(file), line).strip()
    if not _is_begun(error):
        return [f"{frame.f_code.co_name} is not written yet ({file.name}, line {line})"]
    lines = [f"{file.name}, line {line}: {code}", f"{type(error).__name__}: {one_line(error)}"]
    if isinstance(error, RecursionError):
        return [lines[0], "RecursionError: this calls itself endlessly"]
    if {"float", "double"} <= set(re.findall(r"\w+", lines[1].lower())):
        lines.append("float32 and float64 tensors are mixed: keep the type of the input, as "
                     "torch.zeros_like(x) and x.new_zeros(…) do")
    shapes = [f"{name} {tuple(value.shape)}" for name, value in frame.f_locals.items()
              if isinstance(value, torch.Tensor)]
    return lines + ([f"shapes there: {', '.join(shapes)}"] if shapes else [])


# --------------------------------------------------------------------------------------- the limits


def _limit_memory() -> None:
    """A large tensor is then an error in the student's line, and the machine stays usable."""
    if sys.platform != "linux":
        return
    import resource  # not on Windows

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, size in ((resource.RLIMIT_AS, used + MEMORY), (resource.RLIMIT_FSIZE, WRITTEN),
                        (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(limit, (size, size))


def _refuse_mischief(out: str) -> None:
    """From now on this process writes into `out` alone, and starts and connects to nothing."""
    def guard(event: str, args: tuple) -> None:
        if event == "open":
            path, _, flags = args
            is_written = isinstance(flags, int) and flags & WRITES
            if is_written and isinstance(path, (str, bytes)):
                place = os.path.abspath(os.fsdecode(path))
                if not place.startswith(out + os.sep) and place != os.devnull:
                    raise PermissionError(f"writes to {place}; an exercise may not write files")
        elif event.startswith(REFUSED):
            raise PermissionError(f"{event} is not needed in an exercise and is not allowed")
    sys.addaudithook(guard)
