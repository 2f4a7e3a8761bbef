"""Ray Data on a local cluster of two workers, one of which is killed in the middle (make test-ray)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from qstep.cli import main
from qstep.data import canonical_json, read_rows, write_jsonl

PROBLEMS = 60


def content(path: Path) -> list[bytes]:
    """The rows of a file, whatever their order."""
    return sorted(map(canonical_json, read_rows(path)))


def killed_in_the_middle(arguments: list[str], output: Path, rows: int) -> None:
    """Runs a command on two workers, and kills one of them once some rows, and not all, are on disk."""
    with subprocess.Popen([sys.executable, "-m", "qstep.cli", *arguments, "--executor=ray", "--workers=2"]) as command:
        while not output.exists() or not output.read_bytes().count(b"\n"):
            assert command.poll() is None
            time.sleep(0.01)
        workers = [
            p
            for p in psutil.Process(command.pid).children(recursive=True)
            if "MapWorker" in p.name() + str(p.cmdline())
        ]
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        assert output.read_bytes().count(b"\n") < rows
        assert command.wait() == 0


@pytest.mark.timeout(1200)
def test_a_killed_worker_costs_nothing_and_doubles_nothing(base: Path, tmp_path: Path) -> None:
    """Samples and step labels are those of one process, each once."""

    def sampling(output: Path) -> list[str]:
        given = {"model_name_or_path": base, "output": output, "num_problems": PROBLEMS, "num_samples": 4}
        return ["sample", *(f"--{k}={v}" for k, v in given.items()), "--max_new_tokens=64", "--max_rows=4"]

    local, spread = tmp_path / "local.jsonl", tmp_path / "spread.jsonl"
    assert main(sampling(local)) == 0
    killed_in_the_middle(sampling(spread), spread, 4 * PROBLEMS)
    assert len(content(spread)) == 4 * PROBLEMS
    assert content(spread) == content(local)

    graded = tmp_path / "graded.jsonl"
    write_jsonl(graded, ({**row, "verdict": "wrong", "finish_reason": "length"} for row in read_rows(local)))

    def annotating(output: Path) -> list[str]:
        given: dict[str, object] = {
            "model_name_or_path": base,
            "input": graded,
            "output": output,
            "method": "monte_carlo",
        }
        return [
            "annotate",
            *(f"--{k}={v}" for k, v in given.items()),
            "--rollouts=2",
            "--max_new_tokens=80",
            "--rows_at_once=4",
        ]

    local, spread = tmp_path / "local_labels.jsonl", tmp_path / "spread_labels.jsonl"
    assert main(annotating(local)) == 0
    killed_in_the_middle(annotating(spread), spread, 4 * PROBLEMS)
    assert content(spread) == content(local)


def test_what_a_worker_refuses_is_told_in_its_words(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sample", f"--model_name_or_path={base}", f"--output={tmp_path / 'rows.jsonl'}", "--num_problems=2"]
    assert main([*given, "--max_new_tokens=100000", "--executor=ray", "--workers=1"]) == 1
    said = capsys.readouterr().err
    assert "Lower max_new_tokens to" in said and "Traceback" not in said
    assert main([*given, "--executor=ray", "--workers=1000"]) == 1
    assert "lower --workers" in capsys.readouterr().err
