"""The serving benchmark: its own side as a real process, its rounds, and that who is not asked does not run."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import serving
from scorers import miniature_scorer


def test_rounds_of_two_servers(tmp_path: Path) -> None:
    """Two of `qstep serve`, one in vLLM's place: 2 rounds with 1 and with 16 clients, of 3 requests of their own."""
    scorer = miniature_scorer(tmp_path / "scorer")
    requests = [[2 + i % 10, 3, 15, 4, 15] for i in range(serving.WARM_UP + 12)]
    with (
        serving.qstep_serving(scorer, tmp_path / "a.log") as ours,
        serving.qstep_serving(scorer, tmp_path / "b.log") as theirs,
    ):
        found = serving.measure({"qstep": ours, "vllm": theirs}, requests, rounds=2)
        with serving.awake(["qstep"], {"qstep": [], "vllm": serving.listening_at(theirs)}):
            assert serving.listening_at(theirs)[0].status() == psutil.STATUS_STOPPED
    assert [run["clients"] for run in found["runs"]] == [1, 16, 1, 16]
    assert [run["requests"] for run in found["runs"]] == [3] * 4
    assert max(run["largest_difference"] for run in found["runs"]) < 1e-5
    of = [run for run in found["runs"] if run["clients"] == 16]
    expected = sum(3 / run["qstep"] for run in of) / 2
    assert found["clients_16"]["requests_per_second_qstep"] == pytest.approx(expected)
