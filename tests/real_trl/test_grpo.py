"""TRL's own GRPO trains by the rewards of `qstep.rewards` (make test-trl)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from pages import ROOT
from qstep.data import write_jsonl
from scorers import miniature_scorer


def test_the_example_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates by an outcome and by steps; the log has the mean of each reward and what the steps look like."""
    monkeypatch.chdir(tmp_path)
    miniature_scorer(tmp_path / "runs" / "pqm")  # from runs/base, which it also makes
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    more = "max_steps=2, logging_steps=1, use_cpu=True, bf16=False, report_to='none', save_strategy='no'"
    published = r'load_scorer\("Qwen/Qwen2.5-Math-PRM-7B", dtype="bfloat16", options=\{.*?\}, windows=True\)'
    small = {
        published: 'load_scorer("runs/pqm", windows=True)',
        '"Qwen/Qwen2.5-Math-1.5B-Instruct"': '"runs/base"',
        '"math"': '"miniature"',
        "num_generations=8, max_completion_length=2048": f"num_generations=4, max_completion_length=64, {more}",
    }
    for old, new in small.items():
        example, found = re.subn(old, new, example)
        assert found, f"the page no longer has {old}"
    problems = [{"prompt": "7+8*3=\n", "answer": "5"}, {"prompt": "1+2*3=\n", "answer": "9"}] * 4
    write_jsonl(tmp_path / "problems.jsonl", problems)
    names: dict[str, Any] = {}
    exec(example, names)
    log = [entry for entry in names["trainer"].state.log_history if "reward" in entry]
    assert len(log) == 2
    for entry in log:
        outcome, lowest = entry["rewards/outcome/mean"], entry["rewards/pqm_min/mean"]
        assert 0 <= outcome <= 1 and 0 <= lowest < 1
        assert math.isclose(entry["reward"], outcome + 0.5 * lowest, rel_tol=1e-4)
        assert {f"pqm_min/{name}" for name in ("steps", "repeated_steps", "single_step", "unanswered")} <= entry.keys()
