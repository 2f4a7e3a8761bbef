"""Memory that a process keeps for its next pass."""

from __future__ import annotations

import ctypes
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next forward or backward pass, instead of returning it to the system.

    On a CPU, page faults on returned memory take a fifth of the time of scoring, and a twentieth of training.
    """
    if (set_option := _glibc()) is not None:
        set_option(_TRIM_THRESHOLD, 2**31 - 1)
        set_option(_TOP_PAD, 2**26)
        if not set_option(_MMAP_THRESHOLD, 2**28):
            set_option(_MMAP_THRESHOLD, 2**25)  # the maximum of older versions of glibc


def return_freed_memory() -> None:
    """Makes glibc return freed memory to the system, if it is much. It takes less memory and a little more time."""
    if (set_option := _glibc()) is not None:
        set_option(_TRIM_THRESHOLD, 2**25)
        set_option(_TOP_PAD, 2**20)
        set_option(_MMAP_THRESHOLD, 2**22)


def _glibc() -> Any:
    """The function that sets options of glibc's allocator; None for another C library."""
    return getattr(ctypes.CDLL(None), "mallopt", None)
