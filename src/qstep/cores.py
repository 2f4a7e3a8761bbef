"""The number of processor cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """The number of cores in this process's affinity (taskset, Slurm), or its container's quota if that is smaller.

    macOS has no affinity, so the number there is that of all cores of the machine.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min([allowed, *map(math.ceil, _quotas(Path("/")))])


def _quotas(root: Path) -> Iterator[float]:
    """Yields the limits, in cores, of this process's control groups and of their parents."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":  # version 2: one hierarchy for all
                yield from _limits(root / "sys/fs/cgroup", group)
            elif "cpu" in controllers.split(","):
                yield from _limits(root / "sys/fs/cgroup/cpu", group)


def _limits(mount: Path, group: str) -> Iterator[float]:
    inner = mount / group.strip("/")
    for folder in [inner, *inner.parents]:
        if not folder.is_relative_to(mount):
            break
        with suppress(OSError, ValueError):
            quota, period = _quota(folder)
            if quota > 0 and period > 0:  # -1 means no limit
                yield quota / period


def _quota(folder: Path) -> tuple[int, int]:
    """The quota in a period and the period, in microseconds. Raises ValueError if there is no limit ("max")."""
    if (both := folder / "cpu.max").exists():
        quota, period = both.read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota), int(period)
