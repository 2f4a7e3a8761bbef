"""SIGKILL at random moments of `sample` and of `annotate`: nothing lost, nothing doubled, the same rows."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from fake_engine import run
from forked import CONTEXT
from qstep.data import canonical_json, read_rows


def content(path: Path) -> list[bytes]:
    """The rows of a file, whatever their order."""
    return sorted(map(canonical_json, read_rows(path)))


def summary(path: Path) -> object:
    return json.loads(path.with_suffix(".meta.json").read_text())["summary"]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stage", "output", "most_kills"),
    [
        ("sample", "samples.jsonl", 30),
        ("monte_carlo", "labels.jsonl", 30),
        ("binary_search", "labels.jsonl", 10),
        ("adaptive", "labels.jsonl", 10),
    ],
)
def test_a_killed_stage_ends_with_the_rows_of_an_undisturbed_one(
    stage: str, output: str, most_kills: int, tmp_path: Path
) -> None:
    start = time.monotonic()
    expected = run(stage, tmp_path / "whole")
    duration = time.monotonic() - start
    rng = random.Random(0)
    kills = finished = 0
    while kills < most_kills:
        folder = tmp_path / f"run{finished}"
        begun = CONTEXT.Event()
        child = CONTEXT.Process(target=run, args=(stage, folder, begun.set))
        child.start()
        assert begun.wait(60)
        time.sleep(rng.uniform(0, duration / 4))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
        else:
            finished += 1
            assert content(folder / output) == content(expected)
    last = tmp_path / f"run{finished}"
    killed_at = len(list(read_rows(last / output, allow_torn=True))) if (last / output).exists() else 0
    run(stage, last)
    rows = [row["id"] for row in read_rows(last / output)]
    assert len(rows) == len(set(rows)) == len(list(read_rows(expected)))
    assert content(last / output) == content(expected)
    assert killed_at <= len(rows)
    assert summary(last / output) == summary(expected)
