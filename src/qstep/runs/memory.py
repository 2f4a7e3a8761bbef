"""Memory that a process keeps for its next pass."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next forward or backward pass, instead of returning it to the system.

    On a CPU, page faults on returned memory take a fifth of the time of scoring, and a twentieth of training.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # only glibc has it
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        set_option(trim_threshold, 2**31 - 1)
        set_option(top_pad, 2**26)
        if not set_option(mmap_threshold, 2**28):
            set_option(mmap_threshold, 2**25)  # the maximum of older versions of glibc
