"""Communication between the processes of a run: failures, who goes first, and values of all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

T = TypeVar("T")


class ProcessFailed(RuntimeError):
    """Another process of this run failed. The message contains its error."""


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def here() -> tuple[int, int]:
    """The rank of this process, and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


def gathered(value: T) -> list[T]:
    """The values of all processes in their order. Called by all processes."""
    return list(gather_object([value])) if several() else [value]


def together(action: Callable[[], T]) -> T:
    """Runs `action` on all processes, and returns its result here when all have succeeded. Called by all processes.

    If it fails on one process, all raise an error. So no process waits for one that has stopped.

    Raises:
        ProcessFailed: the action failed on another process. An error on this process propagates unchanged.
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
    """Runs `action` on the first process of each machine, then on the others, and returns the result.

    It is for actions that leave a cache on the disk, which makes later runs quick.
    """
    if not several():
        return action()
    first = PartialState().is_local_main_process
    result = together(lambda: action() if first else None)
    later = together(lambda: None if first else action())
    chosen: Any = result if first else later
    return chosen


def somewhere(flag: torch.Tensor) -> bool:
    """Whether a flag is set on any process. Called by all processes."""
    if several():
        count = flag.to(torch.int32)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return bool(count)
    return bool(flag)
