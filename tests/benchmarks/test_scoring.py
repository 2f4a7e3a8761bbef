"""The scoring benchmark: its two sides give the same Qs, and its rows are what it says they are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scoring
from qstep.scoring import StepScorer
from real_data import DATA, needs
from scorers import miniature_scorer


def test_both_sides_score_the_same_rows_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [list(scoring.miniature_rows(128))[g * 64 : (g + 1) * 64] for g in range(2)]
    monkeypatch.setattr(scoring, "problems_of", lambda data, count: rows)
    monkeypatch.setattr(scoring, "matrix_rate", lambda device, dtype: 1e9)
    args = argparse.Namespace(data=tmp_path, pairs=1, batch_size=16, device="cpu", dtype="float32")
    found = scoring.ratio(args, miniature_scorer(tmp_path / "scorer"))
    assert found["runs"][0]["largest_difference"] < 1e-4
    assert found["ratio"] == pytest.approx(found["runs"][0]["padded_loop"] / found["runs"][0]["qstep"])


def test_needed_operations_by_hand(tmp_path: Path) -> None:
    """A prompt of 5 tokens, two responses of 6 (a step of 5 and its separator): 17 tokens, 15 + 2 (30 + 21) keys."""
    scorer = StepScorer.load(miniature_scorer(tmp_path / "scorer"))
    rows = [{"id": str(i), "prompt": "7+8=\n", "completions": [step]} for i, step in enumerate(("7+8=5", "7+8=4"))]
    config = scorer.model.config
    weights = sum(p.numel() for name, p in scorer.model.named_parameters() if "embed" not in name)
    expected = 2 * weights * 17 + 4 * config.num_hidden_layers * config.hidden_size * 117
    assert scoring.needed_flops(scorer, rows) == expected


@needs("gsm8k_responses.jsonl")
def test_each_prompt_has_64_real_responses() -> None:
    problems = scoring.problems_of(DATA, 3)
    assert [len(rows) for rows in problems] == [64] * 3
    assert all(len({row["prompt"] for row in rows}) == 1 for rows in problems)
    assert len({row["prompt"] for rows in problems for row in rows}) == 3
    assert all(row["completions"] for rows in problems for row in rows)
