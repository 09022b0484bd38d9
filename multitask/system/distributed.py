"""Several processes, as torchrun starts them: which one, how many, and their exchange.

Every process ("rank") runs the same program with the same model and sampler, and takes its own
share of each step's rows. Gradients are summed task by task before surgery, because surgery is not
linear: the projection of a mean is not the mean of projections. Afterwards all processes compute
the same, so nothing else is sent. One process writes and prints.

Without torchrun there is one process, `ALONE`, and every method works for it too.
"""

import importlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
from torch import distributed as dist

from .console import say

Result = TypeVar("Result")
WRITER = 0
# How long a process waits for one that hangs: longer than any share of an evaluation takes. One
# that has ended is noticed at once.
TIMEOUT = timedelta(minutes=30)
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """The processes of one run, and which of them this is.

    Args:
        rank: of this process, from 0.
        size: the number of processes.

    >>> Ranks(rank=1, size=3).share([10, 11, 12, 13, 14])
    [11, 14]
    """

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == WRITER

    @property
    def command(self) -> str:
        """The command that starts as many processes, two or more."""
        machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))  # torchrun sets it
        nodes = f"--nnodes={machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc_per_node={self.size // machines}"

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.writes:
            say(text)

    def share(self, items: Sequence) -> Sequence:
        """This process's items: every `size`-th, so that each item belongs to one process."""
        return items[self.rank::self.size]

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], None]:
        """Begins to sum a tensor over all processes, in place; the next task is computed meanwhile.

        Args:
            tensor: contiguous, of the same shape in every process.

        Returns:
            A function that waits for the sum.
        """
        if self.size == 1:
            return lambda: None

        with _connection():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with _connection():
                work.wait()

        return wait

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sums small tensors of one dtype over all processes, in place, in one call."""
        if self.size == 1:
            return

        tensors = list(tensors)
        packed = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self.start_sum(packed)()
        totals = packed.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, totals, strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def gather(self, value: Result) -> list[Result]:
        """Every process's value, by rank; tensors in it are on the CPU."""
        if self.size == 1:
            return [value]

        values: list = [None] * self.size
        with _connection():
            dist.all_gather_object(values, value)
        return values

    def run_on_all(self, task: Callable[[], Result]) -> Result:
        """Runs `task` in every process and returns its result, if it succeeds in all of them.

        Args:
            task: must not communicate itself.

        Raises:
            ValueError: in the writer, with the reason of the first process whose task raised
                ValueError or OSError.
            SystemExit: in the other processes, silently.
        """
        if self.size == 1:
            return task()

        try:
            result, failure = task(), ""
        except (ValueError, OSError) as error:
            failure = str(error) or type(error).__name__
        for rank, reason in enumerate(self.gather(failure)):
            if reason:
                self._refuse(reason if rank == WRITER else f"process {rank}: {reason}")
        return result

    def check_same(self, what: str, tell: Callable[[], str]) -> None:
        """Ends as `run_on_all` does if the processes' texts differ.

        With a single process it does nothing.
        """
        texts = [] if self.size == 1 else self.gather(tell())
        for rank, other in enumerate(texts):
            if other != texts[WRITER]:
                self._refuse(f"process {rank} and process {WRITER} differ in their {what}")

    def _refuse(self, reason: str) -> NoReturn:
        if self.writes:
            raise ValueError(reason)
        self.wait_for_writer()
        raise SystemExit(2)

    def broadcast_from_writer(self, task: Callable[[], Result]) -> Result:
        """Runs `task` in the writer only, and returns its result in every process."""
        return self.gather(self.run_on_all(lambda: task() if self.writes else None))[WRITER]

    def wait_for_writer(self) -> None:
        """Waits until the writer has come here too, or has ended.

        It has more to write, and torchrun stops all processes when one ends with an error.
        """
        if self.size > 1:
            with suppress(RuntimeError):
                dist.broadcast(torch.zeros(1, device="cpu"), src=WRITER)

    def own_device(self, device: torch.device) -> torch.device:
        """The CPU, or this process's own GPU. Raises ValueError if there are too few."""
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise ValueError(f"several processes need --device cuda or cpu, not {device}")

        number, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"each process needs a GPU of its own, and there are {there} here: "
                             f"start --nproc_per_node={there} processes, or take --device cpu")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def seed_apart(self, seed: int) -> None:
        """Gives every process its own dropout; the first one keeps the run's seed."""
        if self.rank:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randint(2**62, (self.rank,), generator=generator, device="cpu")
            torch.manual_seed(int(drawn[-1]))


ALONE = Ranks()


def start() -> Ranks:
    """Connects to the other processes that torchrun started; returns `ALONE` without torchrun.

    gloo carries tensors in the CPU's memory, nccl those in a GPU's.

    Raises:
        ConnectionError: the others do not come.
    """
    is_launched = all(name in os.environ for name in LAUNCHER_VARIABLES)
    if not is_launched or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE

    # This module's functions keep the group that exists at its import until the interpreter ends,
    # and torch.optim imports it. Imported now, it cannot keep ours.
    importlib.import_module("torch.distributed.nn.functional")
    with _connection():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.writes:
        warnings.simplefilter("ignore")  # the writer prints the same warnings
    return ranks


def leave() -> None:
    """Ends the connection, if there is one, and its threads. The other processes may be gone.

    A gloo thread that frees a tensor while the interpreter shuts down aborts the process (SIGABRT,
    "terminate called without an active exception"), even after a run that ended well. So none may
    be left by then.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """The sum of float32 tensors' bits as integers: it changes, almost surely, if a bit does."""
    total = 0
    for tensor in tensors:
        total += int(tensor.detach().view(torch.int32).sum(dtype=torch.int64))
    return str(total)


@contextmanager
def on_sigterm(ranks: Ranks, speak: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM calls `speak` and exits with status 1, even while waiting for others.

    torchrun sends SIGTERM to all processes when one has failed. A Python handler runs only after
    the current library call returns, which may be never if a GPU waits for another. So a thread
    listens. A single process is left alone.
    """
    if ranks.size == 1:
        yield
        return

    reading, writing = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on
        os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(writing)

    def listen() -> None:
        while (received := os.read(reading, 1)) and received[0] != signal.SIGTERM:
            pass
        os.close(reading)
        if received:
            try:
                speak()
                sys.stdout.flush()
            finally:  # also where nobody reads what is printed
                os._exit(1)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before[1])
        signal.signal(signal.SIGTERM, before[0])
        os.close(writing)  # the thread ends
        listener.join()


@contextmanager
def _connection() -> Iterator[None]:
    """Turns what torch.distributed raises for a lost process into ConnectionError, in one line.

    It has ended, or has not answered within TIMEOUT.
    """
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        reason = re.sub(r"^\[\S+:\d+\] ", "", first_line).split(". ")[0]
        raise ConnectionError(f"another process has ended or does not answer ({reason})") from None
