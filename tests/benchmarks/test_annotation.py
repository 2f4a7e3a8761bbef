"""The annotation benchmark: its naive side continues the same prefixes, and its agreement is what it says it is."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import annotation
from qstep.annotate import RolloutSettings, label_by_rollouts
from qstep.generation import HFEngine, SamplingSettings
from real_data import DATA, needs

PROMPT = "1+1+1=\n"  # 1+1=2, 2+1=3, #3


def row(problem: str, text: str, labels: list[float | bool | None]) -> dict[str, object]:
    return {"problem_id": problem, "prompt": PROMPT, "completions": text.split("\n"), "labels": labels}


def test_agreement_by_hand() -> None:
    """Exact labels: 1 1 1; 1 0 0; 0 0. Found 1 1 1; 1 1 0 (its second step is not); none of 0 null, of which one is."""
    rows = [
        row("a", "1+1=2\n2+1=3\n#3", [1.0, 0.25, 1.0]),
        row("a", "1+1=2\n2+1=4\n#4", [True, True, False]),
        row("b", "1+1=3\n#3", [None, False]),
    ]
    found = annotation.agreement(rows)
    assert found["steps"] == ([5, 1], [6, 2])
    assert found["first_error"] == ([1, 1], [2, 1]), "null is not right: the first error of b is its first step"


def test_the_naive_side_continues_every_prefix_of_every_response(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    engine = HFEngine(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    texts = ["1+1=2\n2+1=3\n#3", "1+1=2\n2+1=4\n#4"]
    rows = [
        {"id": str(i), "problem_id": "p", "task": "miniature", "prompt": PROMPT, "gold": "3", "completion": text}
        | {"verdict": "right" if i == 0 else "wrong"}
        for i, text in enumerate(texts)
    ]
    settings = RolloutSettings(3, SamplingSettings(20))
    steps, lengths, successes = annotation.naive_labels(engine, rows, settings)
    assert steps == 6 and len(lengths) == len(successes) == 4 * 3, "two prefixes of each, the shared one twice"
    assert all(1 <= length <= 20 - 6 for length in lengths)
    labelled = label_by_rollouts(engine, rows, settings)
    assert [of["rollouts"]["prefixes"] for of in labelled] == [2, 1]


@needs("gsm8k_responses.jsonl")
def test_pairs_are_of_different_problems() -> None:
    pairs = [annotation.real_rows(DATA, 2, 3, skip) for skip in (0, 2)]
    assert [len(rows) for rows in pairs] == [6, 6]
    assert len({row["problem_id"] for rows in pairs for row in rows}) == 4
