"""Cores that a process may use: affinity, control groups of both versions, and systems that have neither."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qstep import cores as module
from qstep.cores import cores
from qstep.data import index_rows, write_jsonl
from qstep.grading.pool import Pool
from qstep.recipes.workers import Workers


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, []),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, [1.5]),
        (  # a group within a group: the smaller limit holds, whichever of the two has it
            {
                "proc/self/cgroup": "0::/job/step",
                "sys/fs/cgroup/job/step/cpu.max": "max 100000",
                "sys/fs/cgroup/job/cpu.max": "400000 100000",
            },
            [4.0],
        ),
        (
            {
                "proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/ab\n0::/",
                "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            [0.5],
        ),
        (  # the group's path is the host's, and the container sees its own folder as the root
            {
                "proc/self/cgroup": "2:cpu:/docker/unknown/here",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            [2.0],
        ),
    ],
)
def test_limits_of_control_groups(files: dict[str, str], limits: list[float], tmp_path: Path) -> None:
    assert list(module._quotas(write(tmp_path, files))) == limits


def test_affinity_and_quota_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 cores, 6 allowed, and a quota of 2.5 cores (rounded up) or of half a core."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for quotas, expected in (([], 6), ([2.5], 3), ([0.5, 4.0], 1), ([100.0], 6)):
        monkeypatch.setattr(module, "_quotas", lambda root, quotas=quotas: iter(quotas))
        assert cores() == expected


def test_without_affinity_as_on_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(module, "_quotas", lambda root: iter(()))
    assert cores() == 8
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "completions": ["a"], "labels": [True]}])
    assert len(index_rows(tmp_path / "rows.jsonl", "stepwise")) == 1


def test_graders_and_workers_follow_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 128 cores of which 2 may be used; and 128 cores to use, of which 32 graders are enough."""
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    for usable, graders, threads in ((2, 2, 2), (128, 32, 128)):
        for name in ("qstep.grading.pool", "qstep.recipes.workers"):
            monkeypatch.setattr(sys.modules[name], "cores", lambda usable=usable: usable)
        assert Pool().size == graders
        assert Workers(0, threads=7)._threads == 7
        workers = Workers(1)
        workers.close()
        assert workers._threads == threads
