"""The main job as test_18 has torchrun start it, without its last pages, which other tests look at.

NO_DROPOUT in the environment: the heads have none. WITNESS=PATH: after the second epoch of surgery,
before its checkpoint, each process writes down its weights' checksum and its next random numbers.
SIGKILL=1: then process 1 is sent that signal, and so on with the names of others. THREADS=PATH:
when all is done, each process writes down the names of its threads, as the system knows them.
"""

import atexit
import contextlib
import os
import signal
import sys
from pathlib import Path

import torch

import heads.layers
import train_multitask
from multitask.runs import run
from multitask.runs.stages import Stage
from multitask.system.distributed import checksum

RANK = os.environ["RANK"]
run.write_report = run.analyse = lambda *_: None
if "NO_DROPOUT" in os.environ:
    heads.layers.FIRST_DROPOUT = heads.layers.SECOND_DROPOUT = 0.0
save = Stage._save


def witness_and_save(self):
    if "WITNESS" in os.environ and (self.name, self.epoch) == ("gs", 2):
        state = torch.get_rng_state()
        text = f"{checksum(self.run.model.parameters())} {torch.rand(3).tolist()}"
        torch.set_rng_state(state)
        Path(f"{os.environ['WITNESS']}.{RANK}").write_text(text)
        for number in signal.Signals:
            if os.environ.get(number.name) == RANK:
                os.kill(os.getpid(), number)
    save(self)


def write_threads():
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            names.append((task / "comm").read_text().strip())
    Path(f"{os.environ['THREADS']}.{RANK}").write_text(" ".join(names))


Stage._save = witness_and_save
if "THREADS" in os.environ:
    atexit.register(write_threads)
if __name__ == "__main__":
    sys.exit(train_multitask.main())
