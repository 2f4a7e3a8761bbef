"""Training on two processes (gloo): the same weights as on one, one writer, and no process left waiting."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from runs_on_two_processes import METHODS_RUN, SHARDED, arguments, sharded_arguments

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def two(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The output folder of one torchrun of two processes, and what each saw. All workers of pytest share it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    output = tmp_path_factory.mktemp("two") if run is None else tmp_path_factory.getbasetemp().parent / f"two-{run}"
    output.mkdir(exist_ok=True)
    with (output / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (output / "done").exists():
            _run_two(base, rows_file, output)
            (output / "done").touch()
    return output, [json.loads((output / f"rank{rank}.json").read_text()) for rank in range(2)]


def _run_two(base: Path, rows_file: Path, output: Path) -> None:
    # Without logps_behavior the reference's log-probabilities count, of which each process computes a part.
    plain = [{k: v for k, v in row.items() if k != "logps_behavior"} for row in read_rows(rows_file)]
    write_jsonl(output / "plain.jsonl", plain)
    script = Path(__file__).parents[1] / "support" / "runs_on_two_processes.py"
    with socket.socket() as free:  # tests of two workers may be here at once
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    done = subprocess.run(
        [*command, str(script), str(base), str(rows_file), str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("method", METHODS_RUN)
def test_two_processes_end_with_the_weights_of_one(
    method: str,
    two: tuple[Path, list[dict[str, Any]]],
    base: Path,
    tmp_path: Path,
) -> None:
    """Through the command line, 2 x 3 items a step against 1 x 6, with steps of 6, 6 and 4 items to an epoch."""
    output, seen = two
    assert [rank[method] for rank in seen] == [0, 0]
    assert main(arguments(method, base, output / "plain.jsonl", tmp_path, per_device=6)) == 0
    for file in tmp_path.glob("*.safetensors"):
        one, both = load_file(file), load_file(output / method / file.name)
        assert one.keys() == both.keys()
        for name, value in one.items():
            assert (value - both[name]).abs().max() <= 1e-5, name
    moved = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    trained = load_file(output / method / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert (moved - trained).abs().max() > 1e-4
    logs = [list(read_rows(folder / "train_log.jsonl")) for folder in (tmp_path, output / method)]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4, 5]
    for alone, together in zip(*logs, strict=True):
        assert alone.pop("id") == together.pop("id")
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_a_bad_row_a_bad_loss_and_a_collapse_stop_both(two: tuple[Path, list[dict[str, Any]]]) -> None:
    _, seen = two
    errors = {name: sorted(rank[name]["error"] for rank in seen) for name in ("bad row", "not finite", "collapse")}
    assert errors == {
        "bad row": ["ProcessFailed", "ValueError"],
        "not finite": ["NonFiniteLoss", "NonFiniteLoss"],
        "collapse": ["ImportanceCollapse", "ImportanceCollapse"],
    }
    assert all("line 63, field 'completion_ids'" in rank["bad row"]["message"] for rank in seen)
    assert "on another process" in seen[0]["not finite"]["message"]
    assert "the loss of row 'miniature/" in seen[1]["not finite"]["message"]


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_weights_train_are_saved_and_resume_on_one_process(
    name: str, two: tuple[Path, list[dict[str, Any]]], base: Path, tmp_path: Path
) -> None:
    """`--fsdp true`, or ZeRO-3 (`dqo_head`): the weights of one process, from the start and from a checkpoint of two.

    In bf16 to 3e-4, since the norms' weights are rounded too.
    """
    output, seen = two
    assert [rank[f"sharded {name}"] for rank in seen] == [0, 0]
    trained, alone, resumed = output / "sharded" / name, tmp_path / "alone", tmp_path / "resumed"
    rows = output / "plain.jsonl"
    assert main(sharded_arguments(name, base, rows, alone, per_device=6)) == 0
    (resumed / "checkpoint-2").parent.mkdir()
    shutil.copytree(trained / "checkpoint-2", resumed / "checkpoint-2")
    assert main(sharded_arguments(name, base, rows, resumed, per_device=2, gradient_accumulation_steps=3)) == 0
    assert [row["step"] for row in read_rows(resumed / "train_log.jsonl")] == [3, 4, 5]
    tolerance = 3e-4 if "bf16" in name else 1e-4
    files = sorted(path.name for path in alone.glob("*.safetensors"))
    for folder in (trained, resumed):
        assert sorted(path.name for path in folder.glob("*.safetensors")) == files
        for file in files:
            expected, found = load_file(alone / file), load_file(folder / file)
            assert expected.keys() == found.keys()
            assert max((value - found[weight]).abs().max() for weight, value in expected.items()) <= tolerance
    if "adapter" in name:
        merged = [tmp_path / "merged_alone", tmp_path / "merged_trained"]
        for folder, into in zip((alone, trained), merged, strict=True):
            assert main(["merge", f"--model_name_or_path={folder}", f"--output_dir={into}"]) == 0
        one, both = (load_file(folder / "model.safetensors") for folder in merged)
        assert max((value - both[weight]).abs().max() for weight, value in one.items()) <= 1e-4
