"""Memory that is free within the process goes back to the system."""

from __future__ import annotations

import ctypes


def give_back_freed_memory() -> bool:
    """Asks glibc for it; whether some was given back. Elsewhere than on Linux with glibc nothing is done.

    Each step's tensors have other sizes than those of the step before, so holes remain between what stays, and a
    process grows for hours. docs/reliability.md has what was measured.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library; Windows, where None names none
        return False
