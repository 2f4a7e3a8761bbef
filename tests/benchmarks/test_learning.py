"""benchmarks/learning.py: the means of five parts of a log over seeds, and greedy answers of the same problems."""

from __future__ import annotations

import sys
from pathlib import Path

from pages import ROOT
from qstep.data import write_jsonl

sys.path.insert(0, str(ROOT / "benchmarks"))
import learning


def test_curves_and_answers_by_hand(tmp_path: Path) -> None:
    for seed, start in ((1, 0.0), (2, 10.0)):
        log = [{"id": str(n), "loss": 1.0, "logps/chosen": start + n} for n in range(10)]
        write_jsonl(tmp_path / f"seed-{seed}" / "rs" / "train_log.jsonl", [*log, {"id": "end"}])
    seeds = [tmp_path / "seed-1", tmp_path / "seed-2"]
    found = learning.curves(seeds, "rs")
    assert found == {"right": [5.5, 7.5, 9.5, 11.5, 13.5], "wrong": [None] * 5}
    for name, problems in (("taught", "abcd"), ("rs", "dcba")):
        rows = [
            {"problem_id": p, "prompt": p, "gold": "1", "completion": name + p, "verdict": "right"} for p in problems
        ]
        write_jsonl(seeds[0] / f"eval_{name}" / "greedy_graded.jsonl", rows)
    shown = learning.answers(seeds[0], ["taught", "rs"])
    assert [problem["answers"]["rs"]["completion"] for problem in shown] == ["rsa", "rsb", "rsc"]
    text = learning.shown({"curves": {"rs": found}, "answers": shown})
    assert "| rs | right | 5.5 | 7.5 | 9.5 | 11.5 | 13.5 |" in text and "| rs | wrong | - |" in text
    assert "`taught`, right:\n\n```text\ntaughta\n```" in text
