"""The main job as test_18 has torchrun start it, without its last pages, which other tests look at.

NO_DROPOUT in the environment: the heads have none. DIES=1: process 1 is killed as the second epoch of surgery begins.
"""

import os
import signal
import sys

import heads.layers
import train_multitask
from multitask import run
from multitask.stages import Stage

run.write_report = run._analyse = lambda *_: None
if "NO_DROPOUT" in os.environ:
    heads.layers.FIRST_DROPOUT = heads.layers.SECOND_DROPOUT = 0.0
train_step = Stage._train_step


def train_step_unless_killed(self):
    if os.environ.get("DIES") == os.environ["RANK"] and (self.name, self.epoch) == ("gs", 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(self)


Stage._train_step = train_step_unless_killed
if __name__ == "__main__":
    sys.exit(train_multitask.main())
