"""The commands of docs/scale.md with a tiny model: plans, trainings, dry runs. tests/trainers has several processes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from pages import ROOT, commands
from qstep.cli import main

PAGE = "docs/scale.md"
TINY = {"--max_steps": "1", "--use_cpu": "true", "--report_to": "none", "--per_device_train_batch_size": "2"}


def test_the_commands(base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("labels", "graded"):
        shutil.copy(rows_file, f"{name}.jsonl")
    seen = set[str]()
    for command in commands(PAGE):
        words = shlex.split(command)[1:]
        seen.add(words[0])
        if words[0] == "run":
            assert main(["run", str(ROOT / words[1]), "--dry_run"]) == 0, command
            continue
        model = words[words.index("--model_name_or_path") + 1]
        if not Path(model).exists():
            shutil.copytree(base, model)
        shutil.rmtree("runs", ignore_errors=True)
        tiny = [word for option in TINY.items() if option[0] not in words for word in option]
        assert main([*words, *tiny]) == 0, command
    assert seen == {"plan", "train", "run"}


def test_the_table_of_plans_is_the_result() -> None:
    """Each row of docs/scale.md is of benchmarks/results/plan.json, and within what is promised."""
    found = json.loads((ROOT / "benchmarks/results/plan.json").read_text())["settings"]
    assert len(found) >= 6
    page = (ROOT / PAGE).read_text()
    for row in found:
        assert 0.75 <= row["memory_ratio"] <= 1.25, row["setting"]
        assert 0.5 <= row["time_ratio"] <= 2.0, row["setting"]
        figures = (row["memory_gib"], row["planned_memory_gib"], row["step_seconds"], row["planned_step_seconds"])
        cells = [row["setting"], f"{row['tokens_of_largest_batch']:,}", *(f"{figure:.1f}" for figure in figures)]
        assert f"| {' | '.join(cells)} |" in page
