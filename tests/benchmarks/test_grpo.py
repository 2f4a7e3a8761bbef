"""The GRPO benchmark: its diagnostics by hand, and an evaluation of an untrained policy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import grpo
from qstep.tasks import miniature
from scorers import miniature_scorer


def test_diagnostics_by_hand() -> None:
    """Two operations need three steps. Of the four, two are alike; a line is blank; only the first step is right."""
    found = grpo.diagnostics("7+8=5\n5*3=6\n\n5*3=6\n#6", "7+8*3=\n", 25, "stop")
    assert found == {
        "tokens": 25,
        "steps": 4,
        "steps_beyond_needed": 1,
        "repeated_steps": 1,
        "blank_lines": 1,
        "single_step": 0.0,
        "no_answer": 0.0,
        "cut_off": 0.0,
        "right_steps": 0.25,
    }
    assert grpo.diagnostics("", "7+8*3=\n", 1, "stop")["right_steps"] == 0.0
    assert grpo.diagnostics("7+8=5", "7+8*3=\n", 64, "length")["no_answer"] == 1.0


def test_the_control_reads_nothing_but_the_number_of_steps() -> None:
    assert grpo.steps_reward(["7+8=5\n#5", "1\n2\n#3"], prompts=["a", "b"]) == pytest.approx([0.2, 0.3])


def test_a_policy_is_judged_by_every_reward(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rewards = grpo.rewards_of(str(miniature_scorer(tmp_path / "pqm")), tokenizer)
    policy = AutoModelForCausalLM.from_pretrained(base)
    found = grpo.evaluate(policy, tokenizer, list(miniature.problems("test", 3)), 2, rewards, "sum")
    assert found["accuracy"]["mean"] == found["rewards"]["outcome"] and found["accuracy"]["n"] == 3
    assert found["rewards"].keys() == {"outcome", "min", "sum", "sum_cut", "steps"}
    assert found["rewards"]["sum"] <= found["rewards"]["sum_cut"], "what was cut off counts in one of them"
    assert len(found["examples"]) == 2
