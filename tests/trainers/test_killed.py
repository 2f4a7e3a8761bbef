"""Training that is killed, runs out of disk, or finds its checkpoints damaged: it ends with the same weights, or says
why not."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from killed_training import METHODS, run, same_weights, start, start_two, write_inputs
from qstep.data import read_rows
from qstep.stages.train import TrainInputs

KILLS = int(os.environ.get("QSTEP_KILLS", "3"))
"""SIGKILLs per method; `make test-faults` asks for 30."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weights of undisturbed runs."""
    folder = tmp_path_factory.mktemp("whole")
    return {method: run(method, inputs, folder / method) for method in METHODS}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", METHODS)
def test_sigkills_at_random_moments(method: str, inputs: TrainInputs, whole: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "calm"):  # the first one waits for the imports
        begun = time.monotonic()
        start(method, inputs, tmp_path / name, tmp_path / "log").join()
        duration = time.monotonic() - begun
    rng = random.Random(method)
    kills = ends = 0
    while kills < KILLS:
        output = tmp_path / f"run{ends}"
        child = start(method, inputs, output, tmp_path / "log")
        child.join(rng.uniform(duration / 8, duration * 3 / 4))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
        else:
            assert child.exitcode == 0, (tmp_path / "log").read_text()
            assert same_weights(output, whole[method])
            ends += 1
    last = tmp_path / f"run{ends}"
    run(method, inputs, last)
    assert same_weights(last, whole[method])
    steps = [row["step"] for row in read_rows(last / "train_log.jsonl")]
    assert len(steps) == len(set(steps))


CHECKPOINTS, TRAINER = "qstep.trainers.checkpoints", "qstep.trainers/GroupTrainer"
POINTS = {
    "before the first marker": f"{CHECKPOINTS}:seal:1",
    "before a later marker": f"{CHECKPOINTS}:seal:4",
    "between marker and rotation": f"{CHECKPOINTS}:rotate:4",
    "in the rotation": "shutil:rmtree:9",
    "between the last checkpoint and the final model": f"{CHECKPOINTS}:rotate:6:after",
    "before the final model": f"{TRAINER}:save_model:7",
    "after the final model": "qstep.stages.train:seal:1",
    "before the log is finished": "qstep.stages.train:seal:1:after",
}


@pytest.mark.parametrize("point", POINTS)
def test_a_sigkill_at_a_point(point: str, inputs: TrainInputs, whole: dict[str, Path], tmp_path: Path) -> None:
    """A run of 6 steps with a checkpoint at each is killed at the point, and the next run ends with the weights."""
    child = start("rs", inputs, tmp_path / "run", tmp_path / "log", at=POINTS[point])
    child.join()
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    run("rs", inputs, tmp_path / "run")
    assert same_weights(tmp_path / "run", whole["rs"])
    assert [row["step"] for row in read_rows(tmp_path / "run" / "train_log.jsonl")] == [
        row["step"] for row in read_rows(whole["rs"] / "train_log.jsonl")
    ]


@pytest.mark.parametrize("size", [2_000, 20_000, 60_000])
def test_a_full_disk(size: int, inputs: TrainInputs, whole: dict[str, Path], tmp_path: Path) -> None:
    """No file may grow beyond the size: the run fails, and with room again it ends with the weights."""
    child = start("rs", inputs, tmp_path / "run", tmp_path / "log", limit=size)
    child.join()
    assert child.exitcode == 1
    last = (tmp_path / "log").read_text().rstrip().splitlines()[-1]
    told = r"NotWritten: .*/run\S* could not be written: .* GB free\. Make room, and run the same command again"
    assert size == 2_000 or re.search(told, last), last  # in so little room the traceback does not fit either
    run("rs", inputs, tmp_path / "run")
    assert same_weights(tmp_path / "run", whole["rs"])


def test_two_processes(inputs: TrainInputs, tmp_path: Path) -> None:
    """The first alone writes; after its death both go on from its checkpoint; what stops it stops the other."""

    def ends(name: str, **options: Any) -> list[int | None]:
        children = start_two("rs", inputs, tmp_path / name, tmp_path / name, per_device_train_batch_size=2, **options)
        for child in children:
            child.join(120)
        return [child.exitcode for child in children]

    assert ends("whole") == [0, 0], (tmp_path / "whole.1").read_text()
    first, second = start_two(
        "rs",
        inputs,
        tmp_path / "killed",
        tmp_path / "killed",
        at=POINTS["before a later marker"],
        per_device_train_batch_size=2,
    )
    first.join()
    second.join(10)
    second.kill()  # as torchrun does
    second.join()
    assert ends("killed") == [0, 0], (tmp_path / "killed.1").read_text()
    assert "resumes from" in (tmp_path / "killed.0").read_text()
    assert "resumes from" not in (tmp_path / "killed.1").read_text()
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    assert [row["step"] for row in read_rows(tmp_path / "killed" / "train_log.jsonl")] == list(range(1, 7))
    assert ends("killed") == [0, 0]
    assert ends("killed", learning_rate=3e-3) == [1, 1]
    assert "process 0 stopped: " in (tmp_path / "killed.1").read_text()
