"""More than one process, as torchrun starts them: who am I, how many are we, and what we tell one another.

Every process ("rank") runs the same program: the same model, the same sampler, so the same rows in each step, of which
it takes its own share. Gradients are summed task by task before surgery, since surgery is not linear: the projection of
a mean is not the mean of projections. From then on all compute the same, so nothing else need be sent. One process
writes; the others are silent.

Everything here does its work alone too: `ALONE` is the one process there is without torchrun.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
from torch import distributed as dist

Result = TypeVar("Result")
WRITER = 0
# How long a process waits for the others. One that has ended is noticed at once; this is for one that hangs, and longer
# than any takes for its share of an evaluation.
TIMEOUT = timedelta(minutes=30)
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ProcessLost(ConnectionError):
    """Another process has ended, or has not answered within TIMEOUT."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one run, and which of them this is: `rank` of `size`, counted from 0.

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
        """What starts as many processes."""
        if self.size == 1:
            return "python"
        machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))  # torchrun sets it
        return f"torchrun {f'--nnodes={machines} ' if machines > 1 else ''}--nproc_per_node={self.size // machines}"

    def say(self, text: str) -> None:
        if self.writes:
            print(text, flush=self.size > 1)

    def share(self, items: Sequence) -> Sequence:
        """This process's items: every `size`-th. No item is another's too, and none is left out."""
        return items[self.rank::self.size]

    def start_sum(self, *tensors: torch.Tensor) -> Callable[[], None]:
        """Begins to sum contiguous tensors over all processes, in place, in one call each; returns what waits for it.

        The tensors are those that one task's gradient consists of: today the dense row of the gradient matrix. Every
        process must give the same number of them in the same shapes. Meanwhile the next task is computed.
        """
        if self.size == 1:
            return lambda: None
        with _connection():
            works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]

        def wait() -> None:
            with _connection():
                for work in works:
                    work.wait()

        return wait

    def sum(self, tensors: Iterable[torch.Tensor]) -> None:
        """Sums small tensors of one dtype over all processes, in place, all of them in one call."""
        if self.size == 1:
            return
        tensors = list(tensors)
        packed = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self.start_sum(packed)()
        for tensor, total in zip(tensors, packed.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Everyone's tensors, on the CPU and alike in shape, in the order of ranks."""
        everyones: list[dict[str, torch.Tensor]] = [{} for _ in range(self.size)]
        for name, tensor in tensors.items():
            found = [torch.empty_like(tensor) for _ in everyones]
            if self.size == 1:
                found = [tensor]
            else:
                with _connection():
                    dist.all_gather(found, tensor)
            for of_rank, value in zip(everyones, found, strict=True):
                of_rank[name] = value
        return everyones

    def gather_texts(self, text: str) -> list[str]:
        """Everyone's text, in the order of ranks."""
        own = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = [int(each["size"]) for each in self.gather({"size": torch.tensor(len(own))})]
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
        padded[:len(own)] = own
        return [bytes(each["text"][:size].tolist()).decode()
                for each, size in zip(self.gather({"text": padded}), sizes, strict=True)]

    def agree(self, text: str) -> bool:
        """Whether every process has come to the same."""
        return len(set(self.gather_texts(text))) == 1

    def together(self, task: Callable[[], Result]) -> Result:
        """What `task` returns, once it has succeeded in every process; it must not talk to the others itself.

        Raises ValueError in the writer with the first process's reason where a ValueError or OSError came up in any;
        the others end in silence after it.
        """
        if self.size == 1:
            return task()
        try:
            result, failure = task(), ""
        except (ValueError, OSError) as error:
            failure = str(error) or type(error).__name__
        for rank, reason in enumerate(self.gather_texts(failure)):
            if reason:
                self._refuse(reason if rank == WRITER else f"process {rank}: {reason}")
        return result

    def check_same(self, what: str, tell: Callable[[], str]) -> None:
        """Ends as `together` does where `tell` returns different texts in different processes; not asked alone."""
        texts = [] if self.size == 1 else self.gather_texts(tell())
        for rank, other in enumerate(texts):
            if other != texts[WRITER]:
                self._refuse(f"process {rank} has not the same {what} as process {WRITER}")

    def _refuse(self, reason: str) -> NoReturn:
        if self.writes:
            raise ValueError(reason)
        self.wait_for_writer()
        raise SystemExit(2)

    def from_writer(self, task: Callable[[], str]) -> str:
        """What `task` returns in the one process that it runs in."""
        return self.gather_texts(self.together(lambda: task() if self.writes else ""))[WRITER]

    def wait_for_writer(self) -> None:
        """Until it has come here too, or has ended: it has more to write, and torchrun ends all when one ends badly."""
        if self.size > 1:
            with suppress(RuntimeError):
                dist.broadcast(torch.zeros(1), src=WRITER)

    def own_device(self, device: torch.device) -> torch.device:
        """The GPU that is this process's alone, where GPUs were asked for. Raises ValueError if there are too few."""
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise ValueError(f"--device {device}: more than one process need cuda or cpu")
        number, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"each process needs a GPU of its own, and there are {there} here: start "
                             f"--nproc_per_node={there} processes, or take --device cpu")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def seed_apart(self, seed: int) -> None:
        """Other random numbers of dropout in every process; the first keeps the run's own seed."""
        if self.rank:
            drawn = torch.randint(2**62, (self.rank,), generator=torch.Generator().manual_seed(seed))
            torch.manual_seed(int(drawn[-1]))


ALONE = Ranks()


def start() -> Ranks:
    """Meets the other processes that torchrun has started; `ALONE` where none were.

    gloo carries what lies in the CPU's memory, nccl what lies in a GPU's. Raises ProcessLost if they do not come.
    """
    if not all(name in os.environ for name in LAUNCHER_VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    # Its functions hold the group that there is at its import, as a default, to the end of the interpreter; torch.optim
    # imports it. So that nothing holds ours, it comes first.
    importlib.import_module("torch.distributed.nn.functional")
    with _connection():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.writes:
        warnings.simplefilter("ignore")  # the writer gives the same
    return ranks


def stop(ranks: Ranks) -> None:
    """Parts from the others after a run that ended well: all at once, since the writer is done last."""
    ranks.wait_for_writer()
    leave()


def leave() -> None:
    """Ends the connection, if there is one, and its threads; the others need not be there for it.

    A thread of gloo's that lets go of a tensor while the interpreter shuts down takes the process with it (SIGABRT,
    "terminate called without an active exception"), even after all has gone well: none may be left by then.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def checksum(tensors: Iterable[torch.Tensor]) -> str:
    """Tells float32 tensors apart that differ in any bit, but by a rare chance: the sum of their bits as integers."""
    return str(sum(int(tensor.detach().view(torch.int32).sum(dtype=torch.int64)) for tensor in tensors))


@contextmanager
def last_words(ranks: Ranks, speak: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM ends the process with `speak` and status 1, even while it waits for others in vain.

    torchrun sends it to all processes when one has ended badly. A handler in Python would not do: it has to wait until
    a call into a library returns, which may be never where a GPU waits for another's. So a thread listens.
    """
    if ranks.size == 1:
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(writing)

    def listen() -> None:
        while (received := os.read(reading, 1)) and received[0] != signal.SIGTERM:
            pass
        os.close(reading)
        if received:
            speak()
            sys.stdout.flush()
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
    """Names what torch.distributed raises for a process that is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[\S+:\d+\] ", "", str(error).strip()).splitlines()[0].split(". ")[0]  # no file, no advice
        raise ProcessLost(f"another process has ended or does not answer ({reason})") from None
