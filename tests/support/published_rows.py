"""Rows of published step-labelled sets as their owners wrote them, and what `qstep convert` makes of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qstep.data import Audit, Reading, Source, check_row, read_published, recognise

Rows = list[dict[str, Any]]


def read(path: Path, **options: Any) -> tuple[Rows, dict[str, Any]]:
    """The rows of a file, and what was counted; each is one that qstep reads again as it is."""
    source, audit = Source.of(str(path)), Audit()
    rows = list(read_published(source, Reading(options.pop("format", None) or recognise(source), **options), audit))
    for row in rows:
        assert check_row(path, 1, row, "stepwise", need=("id", "problem_id", "task", "step_separator")) == row
        assert all(step == step.strip() for step in row["completions"])
    found = audit.summary()
    assert found["rows_read"] == found["rows_used"] + sum(found["rows_not_used"].values())
    assert found["rows_written"] == len(rows) == len({row["id"] for row in rows})
    assert sum(found["steps"].values()) == sum(len(row["labels"]) for row in rows)
    return rows, {name: value for name, value in found.items() if value}


def shepherd(*steps: str, marks: str, question: str = "How many?") -> dict[str, str]:
    """A row of Math-Shepherd."""
    given = [f"Step {i}: {step}" for i, step in enumerate(steps, 1)]
    return {
        "input": f"{question} " + "\n".join(f"{step} ки" for step in given),
        "label": f"{question} " + "\n".join(f"{step} {mark}" for step, mark in zip(given, marks, strict=True)),
        "task": "GSM8K",
    }


SHEPHERD = shepherd("2 + 3 = <<2+3=5>>5", "It is 5 - 1 = 4. The answer is: 4", marks="+-")


def rated(*completions: tuple[str, int | None], chosen: int | None = 0, human: str | None = None) -> dict[str, Any]:
    """A step of PRM800K."""
    return {
        "completions": [{"text": text, "rating": rating, "flagged": None} for text, rating in completions],
        "human_completion": human and {"text": human, "rating": None, "source": "human", "flagged": False},
        "chosen_completion": chosen,
    }


def prm800k(*steps: dict[str, Any], ended: str = "solution", **changed: Any) -> dict[str, Any]:
    """A row of PRM800K."""
    return {
        "labeler": "340d89bc",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": None,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": "What is 2 + 3?", "ground_truth_answer": "5"},
        "label": {"steps": list(steps), "total_time": 1, "finish_reason": ended},
    } | changed


PHASE_2 = prm800k(
    rated(("I add.", 0)),
    rated(("It is 6.", -1), ("It is 5.", 1), ("It is 5.", 1), ("Hm.", None), chosen=None),
    ended="found_error",
    generation=9,
)
PROCESSBENCH = {
    "id": "omnimath-7",
    "generator": "Qwen2-7B-Instruct",
    "problem": "What is 2 + 3?",
    "steps": ["We add:\n2 + 3", "It is 6.", "So 6."],
    "final_answer_correct": False,
    "label": 1,
}
PRMBENCH = {
    "idx": "circular_prm_test_p1_0",
    "classification": "circular",
    "question": "What?",
    "original_question": "What?",
    "modified_question": "What is 2 + 3?",
    "original_process": ["1. We add.", "2. It is 5."],
    "modified_process": ["1. Let it be 5.", "2. Then it is 5.", "3. So 5."],
    "modified_steps": [1, 2],
    "error_steps": [1, 2],
    "reason": "circular",
}
MISTAKE = {
    "input": "( ( ) -9 + 2 =",
    "steps": ["-9 + 2 = -7.", "So -8.", "The answer is -8."],
    "answer": "-8",
    "target": "-7",
    "mistake_index": 1,
}
APS = {
    "question": "What is 2 + 3 + 4?",
    "process": "We add.\n\n2 + 3 = 5\nand so on. \n\n\n\n\n 5 + 4 = 8 \n\n\n\n\n",
    "label": ["+", "-"],
}
TRL = {"prompt": "What is 2 + 3?", "completions": ["2 + 3", "5"], "labels": [True, False]}
FORMATS: dict[str, dict[str, Any]] = {
    "math_shepherd": SHEPHERD,
    "prm800k": PHASE_2,
    "processbench": PROCESSBENCH,
    "prmbench": PRMBENCH,
    "bigbench_mistake": MISTAKE,
    "math_aps": APS,
    "trl_stepwise": TRL,
}
