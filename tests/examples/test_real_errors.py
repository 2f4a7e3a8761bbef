"""examples/data/make_real_errors.py: which annotations are used, and what the files hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import example
from qstep.data import check_row, read_rows

QUESTION = "Tom has {} apples and buys 24 more. Each costs $2. What does he pay for all?"


def annotation(apples: int, first: int) -> dict[str, Any]:
    """A wrong solution of a language model, as StepVerify has it."""
    return {
        "problem": QUESTION.format(apples) + " ",
        "steps": [f"He has {apples} + 24 = {apples + 24} apples.", "He pays  $3 for each.", f" {3 * (apples + 24)}"],
        "incorrect_index": first,
        "correct_response": f"He has {apples} + 24 = {apples + 24} apples. He pays 2 dollars for each.",
    }


def solution(apples: int) -> dict[str, str]:
    """A worked solution, as GSM8K has it."""
    total = apples + 24
    steps = f"He has {apples} + 24 = <<{apples}+24={total}>>{total}.\nHe pays {total} x 2 = <<{total}*2={2 * total}>>"
    answer = f"{steps}{2 * total}."
    return {"question": QUESTION.format(apples), "answer": f"{answer}\n#### {2 * total}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the script writes: 31 and 57 have both kinds; teachers disagree about 43; 68 has no worked solution."""
    annotations = [annotation(31, 1), annotation(31, 1), annotation(43, 0), annotation(43, 1), annotation(57, 0)]
    annotations.append(annotation(68, 1))
    inputs = {"marks": annotations, "gsm8k": [solution(apples) for apples in (31, 43, 57)]}
    for name, rows in inputs.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = Path(__file__).parents[2] / "examples" / "data"
    monkeypatch.syspath_prepend(str(script))
    given = ["--annotations", f"{tmp_path}/marks", "--input", f"{tmp_path}/gsm8k", "--num_validation", "1"]
    monkeypatch.setattr(sys, "argv", ["make_real_errors.py", *given, "--output_dir", f"{tmp_path}/out"])
    example("data/make_real_errors").main()
    return tmp_path / "out"


def test_both_files_are_about_the_same_problems(folder: Path) -> None:
    for suffix, apples in (("", 31), ("_validation", 57)):
        files = {kind: list(read_rows(folder / f"{kind}{suffix}.jsonl")) for kind in ("real", "made", "both")}
        assert files["both"] == files["real"] + files["made"]
        for rows in files.values():
            assert {row["prompt"].strip() for row in rows} == {QUESTION.format(apples)}
            assert [row["label"] for row in rows] == [True, False] * (len(rows) // 2)
            for number, row in enumerate(rows):
                check_row(folder, number, row, "stepwise")


def test_steps_after_a_marked_one_have_no_label(folder: Path) -> None:
    right, wrong = read_rows(folder / "real.jsonl")
    assert right["completions"] == ["He has 31 + 24 = 55 apples.", "He pays 2 dollars for each."]
    assert right["labels"] == [True, True]
    assert wrong["completions"] == ["He has 31 + 24 = 55 apples.", "He pays $3 for each.", "165"]
    assert wrong["labels"] == [True, False, None]
