"""What the processes of a run tell each other: that one has failed, who goes first, and sums over all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

T = TypeVar("T")


class ProcessFailed(RuntimeError):
    """Another process of this run failed; the message is its error's."""


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def here() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of the processes; called by all of them."""
    return list(gather_object([value])) if several() else [value]


def together(action: Callable[[], T]) -> T:
    """What `action` returns here, once it has succeeded everywhere; called by all processes.

    Where it fails on one process it fails on all, so none waits for another that is gone.

    Raises:
        ProcessFailed: it failed elsewhere. Here, its own error propagates.
    """
    result: Any = None
    error: Exception | None = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    failures = gathered(None if error is None else str(error) or repr(error))
    if error is not None:
        raise error
    for rank, message in enumerate(failures):
        if message is not None:
            raise ProcessFailed(f"process {rank} stopped: {message}")
    return result


def first_then_all(action: Callable[[], T]) -> T:
    """What `action` returns, run by the first process of each machine and then by the others.

    For an action that leaves on the disk what makes it quick the second time.
    """
    if not several():
        return action()
    first = PartialState().is_local_main_process
    result = together(lambda: action() if first else None)
    later = together(lambda: None if first else action())
    chosen: Any = result if first else later
    return chosen


def somewhere(flag: torch.Tensor) -> bool:
    """Whether a flag is set on any process; called by all of them."""
    if several():
        count = flag.to(torch.int32)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return bool(count)
    return bool(flag)
