"""benchmarks/weights.py: which updates jump, and how large their weights were, counted by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from pages import ROOT
from qstep.data import write_jsonl

sys.path.insert(0, str(ROOT / "benchmarks"))
import weights


def test_a_jump_is_twice_the_median_around_it(tmp_path: Path) -> None:
    losses = [1.0] * 30
    losses[5], losses[20], losses[29] = 2.0, 2.1, 9.0
    assert np.flatnonzero(weights.jumps(np.array(losses))).tolist() == [20, 29]
    largest = [1.5] * 30
    largest[20], largest[29] = 50.0, 0.5
    rows = [
        {
            "id": str(step),
            "loss": loss,
            "importance/log_weight_max": math.log(raw),
            "importance/effective_sample_size": 0.5,
        }
        for step, (loss, raw) in enumerate(zip(losses, largest, strict=True), 1)
    ]
    write_jsonl(tmp_path / "train_log.jsonl", rows)
    found = weights.histogram([tmp_path / "train_log.jsonl"])
    assert (found["updates"], found["jumps"], found["effective_sample_size"]) == (30, 2, 0.5)
    assert found["by_largest_weight"] == {
        "up to 1": {"updates": 1, "jumps": 1},
        "1 to 2": {"updates": 28, "jumps": 0},
        "2 to 5": {"updates": 0, "jumps": 0},
        "5 to 10": {"updates": 0, "jumps": 0},
        "10 to 100": {"updates": 1, "jumps": 1},
        "above 100": {"updates": 0, "jumps": 0},
    }
