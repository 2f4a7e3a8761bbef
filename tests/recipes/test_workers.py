"""The process that runs commands one after another: what it answers, and that it ends with its owner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file

from qstep.data import read_rows, write_jsonl
from qstep.recipes.workers import Follower, Job, JobFailed, Workers


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "qstep.recipes.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def send(worker: subprocess.Popen[str], log: Path, *argv: str, devices: int = 1) -> None:
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"argv": argv, "log": str(log), "threads": 1, "devices": devices}) + "\n")
    worker.stdin.flush()


def test_a_worker_answers_each_command_and_goes_on_after_a_failure(
    worker: subprocess.Popen[str], tmp_path: Path
) -> None:
    rows, graded, logs = tmp_path / "rows.jsonl", tmp_path / "graded.jsonl", tmp_path / "log"
    row = {"id": "p#0", "problem_id": "p", "sample": 0, "task": "miniature", "prompt": "7+8=\n", "gold": "5"}
    write_jsonl(rows, [{**row, "completion": "7+8=5\n#5"}])
    assert worker.stdout is not None
    for argv, status, said in (
        (["grade", "--input", str(tmp_path / "none.jsonl"), "--output", str(graded)], 1, "none.jsonl"),
        (["grade", "--no_such_option", "1"], 2, "no_such_option"),
        (["grade", "--input", str(rows), "--output", str(graded)], 0, ""),
    ):
        send(worker, logs, *argv)
        assert json.loads(worker.stdout.readline()) == {"status": status}
        assert said in logs.read_text()
    assert [row["verdict"] for row in read_rows(graded)] == ["right"]


def test_a_worker_ends_with_its_owner_in_the_middle_of_a_command(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    """The command waits for a pipe that nobody writes; closing the worker's input is what its owner's death does."""
    endless = tmp_path / "rows.jsonl"
    os.mkfifo(endless)
    send(worker, tmp_path / "log", "grade", "--input", str(endless), "--output", str(tmp_path / "graded.jsonl"))
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=120) == 1


def test_workers_run_jobs_in_order_and_say_which_failed(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"id": "p#0", "problem_id": "p", "sample": 0, "task": "miniature", "prompt": "7+8=\n", "gold": "5"}
    write_jsonl(rows, [{**row, "completion": "7+8=5\n#5"}])

    def grading(source: Path, name: str, *after: str) -> Job:
        output = tmp_path / f"{name}.jsonl"
        argv = ["grade", "--input", str(source), "--output", str(output)]
        return Job(argv, tmp_path / f"{name}.log", output, frozenset(after))

    finished: list[str] = []
    with closing(Workers(2)) as workers:
        jobs = {"second": grading(tmp_path / "first.jsonl", "second", "first"), "first": grading(rows, "first")}
        workers.run(jobs, lambda name, seconds: finished.append(name))
        assert finished == ["first", "second"]
        assert [row["verdict"] for row in read_rows(tmp_path / "second.jsonl")] == ["right"]
        with pytest.raises(JobFailed, match=r"(?s)third failed with status 1; its log .*third\.log ends:.*none\.jsonl"):
            jobs = {"third": grading(tmp_path / "none.jsonl", "third"), "fourth": grading(rows, "fourth", "third")}
            workers.run(jobs)
        assert not (tmp_path / "fourth.jsonl").exists()


def test_progress_counts_the_rows_written_or_the_steps_trained(tmp_path: Path) -> None:
    sampling = Follower(Job(["sample"], tmp_path / "log", tmp_path / "rows.jsonl", rows=3))
    assert sampling.progress() == (0, 3)
    with (tmp_path / "rows.jsonl").open("w") as file:
        for written, rows in (('{"id": "a"}\n{"id"', 1), (': "b"}\n', 2), ('{"id": "c"}\n', 3)):
            file.write(written)
            file.flush()
            assert sampling.progress() == (rows, 3)
    training = Follower(Job(["train"], tmp_path / "log", tmp_path / "pqm"))
    assert training.progress() == (0, None)
    (tmp_path / "pqm").mkdir()
    write_jsonl(tmp_path / "pqm" / "train_log.jsonl", [{"id": "1", "step": 10, "max_steps": 450}])
    assert training.progress() == (10, 450)


def test_a_worker_that_dies_is_noticed(tmp_path: Path) -> None:
    endless = tmp_path / "rows.jsonl"
    os.mkfifo(endless)
    graded = tmp_path / "graded.jsonl"
    job = Job(["grade", "--input", str(endless), "--output", str(graded)], tmp_path / "log", graded)
    with closing(Workers(1)) as workers:
        threading.Timer(1.0, workers._started[0].process.kill).start()
        with pytest.raises(JobFailed, match="graded failed with status -9"):
            workers.run({"graded": job})


def test_a_training_on_two_devices_is_the_one_of_twice_the_batch(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Two processes with 3 items a step, started by torchrun, and one with 6."""
    files = {}
    with closing(Workers(1)) as workers:
        for devices, each in ((2, 3), (1, 6)):
            output = tmp_path / f"{devices}"
            options = {"model_name_or_path": base, "train_file": rows_file, "output_dir": output, "max_steps": 2}
            options |= {"per_device_train_batch_size": each, "optim": "sgd", "use_cpu": "true", "report_to": "none"}
            argv = ["train", "pqm", *(f"--{name}={value}" for name, value in options.items())]
            workers.run({"pqm": Job(argv, tmp_path / f"{devices}.log", output, devices=devices)})
            files[devices] = load_file(output / "model.safetensors")
            assert json.loads((output / "train_log.meta.json").read_text())["settings"]["total_train_batch_size"] == 6
    for name, value in files[1].items():
        assert (value - files[2][name]).abs().max() <= 1e-6, name


def test_the_processes_of_a_training_end_with_the_owner_of_its_worker(
    worker: subprocess.Popen[str], base: Path, rows_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    options = {"model_name_or_path": base, "train_file": rows_file, "output_dir": output, "use_cpu": "true"}
    options |= {"max_steps": 10**6, "logging_steps": 1, "report_to": "none"}
    send(worker, tmp_path / "log", "train", "pqm", *(f"--{name}={value}" for name, value in options.items()), devices=2)
    training = Follower(Job([], tmp_path / "log", output))
    while training.progress()[0] == 0:
        assert worker.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.2)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=120) == 1
    assert not subprocess.run(["pgrep", "-f", str(output)], capture_output=True, check=False).stdout
