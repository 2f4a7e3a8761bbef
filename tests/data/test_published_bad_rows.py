"""Bad rows of published sets: each is refused by file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from published_rows import APS, FORMATS, MISTAKE, PHASE_2, PRMBENCH, PROCESSBENCH, SHEPHERD, TRL, prm800k, rated, read
from qstep.data import RowError
from raw_rows import write


def without(format: str, column: str) -> dict[str, Any]:
    return {name: value for name, value in FORMATS[format].items() if name != column}


def step(**changed: Any) -> dict[str, Any]:
    return prm800k({**rated(("5", 1)), **changed})


def completion(**changed: Any) -> dict[str, Any]:
    return step(completions=[{"text": "5", "rating": 1, "flagged": None, **changed}])


NAN = float("nan")
BAD: list[tuple[str, Any, str | None, str]] = [
    ("math_shepherd", without("math_shepherd", "label"), "label", "is missing; found input, task"),
    ("math_shepherd", {**SHEPHERD, "label": None}, "label", "is None; it must be a string"),
    ("math_shepherd", {**SHEPHERD, "input": ["Step 1: ки"]}, "input", "it must be a string"),
    ("math_shepherd", {**SHEPHERD, "input": " "}, "input", "not blank"),
    ("math_shepherd", {**SHEPHERD, "task": 5}, "task", "it must be a string"),
    ("prm800k", without("prm800k", "question"), "question", "is missing"),
    ("prm800k", {**PHASE_2, "question": "What?"}, "question", "it must be an object"),
    ("prm800k", prm800k(question={"problem": "Q"}), "question.ground_truth_answer", "is missing; found problem"),
    ("prm800k", prm800k(question={"problem": "", "ground_truth_answer": "5"}), "question.problem", "not blank"),
    ("prm800k", prm800k(ended="error"), "label.finish_reason", "it must be one of solution, found_error"),
    ("prm800k", without("prm800k", "is_quality_control_question"), "is_quality_control_question", "is missing"),
    ("prm800k", prm800k(is_quality_control_question="false"), "is_quality_control_question", "true or false"),
    ("prm800k", completion(flagged="no"), "label.steps[0].completions[0].flagged", "true, false or null"),
    ("prm800k", prm800k(label={"steps": None, "finish_reason": "solution"}), "label.steps", "must be a list"),
    ("prm800k", prm800k("5"), "label.steps[0]", "must be an object"),
    ("prm800k", step(completions="5"), "label.steps[0].completions", "a list or null"),
    ("prm800k", step(completions=["5"]), "label.steps[0].completions[0]", "must be an object"),
    ("prm800k", step(chosen_completion=1), "label.steps[0].chosen_completion", "from 0 to 0"),
    ("prm800k", step(chosen_completion=True), "label.steps[0].chosen_completion", "is True"),
    ("prm800k", step(chosen_completion=None, human_completion="5"), "label.steps[0].human_completion", "an object"),
    ("prm800k", completion(rating=2), "label.steps[0].completions[0].rating", "-1, 0, 1 or null"),
    ("prm800k", completion(rating="1"), "label.steps[0].completions[0].rating", "is '1'"),
    ("prm800k", completion(rating=1.0), "label.steps[0].completions[0].rating", "is 1.0"),
    ("prm800k", completion(rating=True), "label.steps[0].completions[0].rating", "is True"),
    ("prm800k", completion(text=None), "label.steps[0].completions[0].text", "a step must be a string"),
    ("processbench", {**PROCESSBENCH, "label": 3}, "label", "from -1 to 2"),
    ("processbench", {**PROCESSBENCH, "label": "1"}, "label", "is '1'"),
    ("processbench", {**PROCESSBENCH, "label": True}, "label", "is True"),
    ("processbench", {**PROCESSBENCH, "steps": []}, "steps", "is empty"),
    ("processbench", {**PROCESSBENCH, "steps": ["a", None]}, "steps[1]", "a step must be a string"),
    ("processbench", {**PROCESSBENCH, "steps": "a\nb"}, "steps", "it must be a list"),
    ("processbench", {**PROCESSBENCH, "id": 7}, "id", "it must be a string"),
    ("processbench", {**PROCESSBENCH, "final_answer_correct": 0}, "final_answer_correct", "true or false"),
    ("processbench", PROCESSBENCH, "id", "'omnimath-7' occurs twice"),
    ("prmbench", {**PRMBENCH, "idx": "z", "error_steps": [0]}, "error_steps[0]", "whole number from 1"),
    ("prmbench", {**PRMBENCH, "idx": "z", "error_steps": [1, "2"]}, "error_steps[1]", "is '2'"),
    ("prmbench", {**PRMBENCH, "idx": "z", "error_steps": None}, "error_steps", "must be a list"),
    ("prmbench", {**PRMBENCH, "classification": None}, "classification", "it must be a string"),
    ("bigbench_mistake", {**MISTAKE, "mistake_index": 3}, "mistake_index", "from 0 to 2"),
    ("bigbench_mistake", {**MISTAKE, "mistake_index": 1.0}, "mistake_index", "is 1.0"),
    ("bigbench_mistake", {**MISTAKE, "mistake_index": -1}, "mistake_index", "is -1"),
    ("bigbench_mistake", {**MISTAKE, "target": -7.5}, "target", "it must be a string"),
    ("bigbench_mistake", {**MISTAKE, "answer": -8}, "answer", "a string or null"),
    ("trl_stepwise", {**TRL, "labels": ["true", "false"]}, "labels", "give true or false for each step"),
    ("trl_stepwise", {**TRL, "labels": [1, 0]}, "labels", "has integers, and there are truth values on line 1"),
    ("trl_stepwise", {**TRL, "labels": [True, 0.5]}, "labels", "never both kinds"),
    ("trl_stepwise", {**TRL, "labels": [1.5, 0.0]}, "labels", "in \\[0, 1\\]"),
    ("trl_stepwise", {**TRL, "labels": [True]}, "labels", "has 1 entry, and completions has 2"),
    ("trl_stepwise", {**TRL, "labels": True}, "labels", "is True"),
    ("trl_stepwise", {**TRL, "labels": [NAN, 0.5]}, None, "NaN is not JSON"),
    ("trl_stepwise", without("trl_stepwise", "labels"), "labels", "is missing; found prompt, completions"),
    ("trl_stepwise", {**TRL, "completions": ["a", None]}, "completions[1]", "a step must be a string"),
    ("math_aps", {**APS, "label": ["+", None]}, "label[1]", r'must be "\+" or "-"'),
    ("math_aps", {**APS, "label": "+"}, "label", "a list"),
    ("math_aps", {**APS, "process": " "}, "process", "not blank"),
    ("trl_stepwise", {**TRL, "completions": "ab"}, "completions", "it must be a list"),
    ("trl_stepwise", {**TRL, "completions": [], "labels": []}, "completions", "is empty"),
    ("trl_stepwise", {**TRL, "completions": ["a", {"role": "user", "content": "b"}]}, "completions[1]", "assistant"),
    ("trl_stepwise", without("trl_stepwise", "prompt"), "prompt", "is missing"),
    ("trl_stepwise", {**TRL, "prompt": []}, "prompt", "give a string, or messages"),
    ("trl_stepwise", {**TRL, "prompt": [{"role": "user"}]}, "prompt", "give a string, or messages"),
    ("trl_stepwise", {**TRL, "id": ""}, "id", "give a string or a whole number"),
    ("trl_stepwise", {**TRL, "gold": 5.5}, "gold", "in quotes even if it is a number"),
    ("trl_stepwise", {**TRL, "id": "first"}, "id", "'first' occurs twice"),
    ("trl_stepwise", [TRL], None, "a list, not a JSON object"),
]


@pytest.mark.parametrize(("format", "bad", "field", "what"), BAD)
def test_a_bad_row_is_named_by_file_line_and_field(
    tmp_path: Path, format: str, bad: Any, field: str | None, what: str
) -> None:
    good = {**FORMATS[format], **({"id": "first"} if format == "trl_stepwise" else {})}
    path = write(tmp_path / "set.jsonl", good, bad)
    with pytest.raises(RowError, match=what) as error:
        read(path, format=format)
    assert (error.value.path, error.value.line, error.value.field) == (path, 2, field)
    assert str(error.value).startswith(f"{path}, line 2" + (f", field {field!r}: " if field else ": "))
