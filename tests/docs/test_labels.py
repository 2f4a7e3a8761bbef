"""The commands of docs/labels.md, on a model of two layers and three problems."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pages import commands
from qstep.cli import main
from qstep.data import read_rows


def test_every_command_of_the_page_runs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "runs/policy")
    smaller = {
        "--num_problems 50": "--num_problems 3",
        "--num_samples 8": "--num_samples 2",
        "--rollouts 8": "--rollouts 2",
        "--max_new_tokens 64": "--max_new_tokens 24",
        "--rollout_budget 500": "--rollout_budget 5",
    }
    ran = []
    for line in commands("docs/labels.md"):
        for old, new in smaller.items():
            line = line.replace(old, new)
        assert main(shlex.split(line)[1:]) == 0, line
        ran.append(line)
    methods = ["exact", "outcome", "monte_carlo", "adaptive", "binary_search"]
    assert len(ran) == 7 and set(methods) == set(re.findall(r"--method (\w+)", " ".join(ran)))
    for method in methods:
        rows = list(read_rows(Path(f"runs/{method}.jsonl")))
        assert len(rows) == 6 and {row["label_source"] for row in rows} == {method}
    meta = json.loads(Path("runs/binary_search.meta.json").read_text())
    assert meta["summary"]["rollouts"]["drawn"] <= 5
