"""How long OpenMP's threads spin before they sleep; set before torch is loaded, by commands only.

At every barrier a thread spins until the others come. If another program has the core of one of
them, all others spin for nothing, and training becomes many times slower. A short spin costs
little on a quiet machine. docs/explanation/performance.md has measurements.
"""

import os
import sys
from pathlib import Path

from .commands import is_console

# GNU's OpenMP, in Linux builds of torch; Intel's and LLVM's, elsewhere: milliseconds
SHORT_SPIN = {"GOMP_SPINCOUNT": "1500", "KMP_BLOCKTIME": "1"}
COMMAND = "train_multitask.py"


def spin_briefly_in_commands() -> None:
    """Sets the variables, unless this is a user's program or the user has set one of them."""
    name = sys.argv[0] if sys.argv else ""
    # "-m": python -m multitask.…
    is_command = name == "-m" or Path(name).name == COMMAND or is_console()
    if is_command and not os.environ.keys() & {*SHORT_SPIN, "OMP_WAIT_POLICY"}:
        os.environ.update(SHORT_SPIN)
