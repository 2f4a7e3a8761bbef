"""The commands of docs/dqo.md, on a model of two layers, its statement on lambda 1, and its tables."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from pages import ROOT, commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl

sys.path.insert(0, str(ROOT / "benchmarks"))
import optima

PAGE = "docs/dqo.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
TINY = "--max_steps 2 --logging_steps 1 --use_cpu true --report_to none --save_strategy no"


def test_every_command_of_the_page_runs(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lambda 1 both losses are equal in the log, with a smaller one they are not."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "Qwen/Qwen2.5-0.5B-Instruct")
    rows = [{name: value for name, value in row.items() if name != "logps_behavior"} for row in read_rows(rows_file)]
    for name in ("graded", "scored"):
        write_jsonl(Path(f"{name}.jsonl"), rows)
    for command in commands(PAGE):
        assert main([*shlex.split(command)[1:], *TINY.split()]) == 0, command
    logs = {folder: list(read_rows(Path("runs", folder, "train_log.jsonl"))) for folder in ("dqo", "min", "potential")}
    for folder, lines in logs.items():
        assert len(lines) == 2
        for line in lines:
            assert (line["loss/value"] == pytest.approx(line["loss/q"], rel=1e-5)) == (folder != "potential")
    assert not Path("runs/group/value.safetensors").exists() and Path("runs/head/value.safetensors").exists()


@pytest.mark.timeout(300)
def test_the_tables_are_those_of_the_script() -> None:
    tables = optima.tables()
    assert tables in TEXT, "run python benchmarks/optima.py, and copy its tables to the page"
    broken = [line for line in tables.splitlines() if line.endswith("| no |")]
    assert [line.split("|")[-4].strip(" `-").split("`")[0] for line in broken] == [
        *("process_rewards additive", "process_rewards min", "reference uniform", "soft_return false"),
        *["value group"] * 4,
        *("importance trajectory", "importance prefix", "importance token", "importance none", "taper true"),
    ]
