"""TRL's own GRPO trains by the rewards of `qstep.rewards` (make test-trl)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from pages import ROOT
from scorers import miniature_scorer


def test_the_example_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates by an outcome and by steps; the log has the mean of each reward and what the steps look like."""
    monkeypatch.chdir(tmp_path)
    miniature_scorer(tmp_path / "runs" / "pqm")  # from runs/base, which it also makes
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8"), re.DOTALL)[
        0
    ]
    names: dict[str, Any] = {}
    more = "max_steps=2, logging_steps=1, use_cpu=True, bf16=False, report_to='none', save_strategy='no'"
    exec(example.replace("max_steps=2", more), names)
    log = [entry for entry in names["trainer"].state.log_history if "reward" in entry]
    assert len(log) == 2
    for entry in log:
        outcome, lowest = entry["rewards/outcome/mean"], entry["rewards/pqm_min/mean"]
        assert 0 <= outcome <= 1 and 0 <= lowest < 1
        assert math.isclose(entry["reward"], outcome + 0.5 * lowest, rel_tol=1e-4)
        assert {f"pqm_min/{name}" for name in ("steps", "repeated_steps", "single_step", "unanswered")} <= entry.keys()
