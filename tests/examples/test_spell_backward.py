"""examples/spell_backward.py: its textbook, verdicts and labels are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from examples import example
from pages import ROOT
from qstep.data import read_rows, write_jsonl


def test_a_line_is_right_while_all_before_it_are() -> None:
    spelling = example("spell_backward")
    assert spelling.worked("tang", lambda _, letter: letter) == "t\nta\ntan\ntang\n#tang"
    assert spelling.worked("tang", lambda before, letter: "o" if before == "t" else letter).endswith("#tong")
    lines = ["t\n", "to\n", "tan\n", "tang\n", "#tang"]
    assert spelling.TASK.check_steps({"gold": "tang"}, lines) == [True, False, False, False, False]
    lines[1] = "ta\n"
    assert spelling.TASK.check_steps({"gold": "tang"}, [*lines, "#tang"]) == [True] * 5 + [False]
    assert spelling.TASK.check_steps({"gold": "tang"}, lines[:2]) == [True] * 2


def test_a_fifth_of_the_pairs_is_misread_at_times() -> None:
    """A word has about six pairs, and .9^6 = .53 of the rows are right if all pairs are as frequent."""
    spelling = example("spell_backward")
    rows = list(spelling.textbook(400, seed=801))
    right = [row["completion"].rpartition("#")[2] == row["prompt"].strip().rpartition(" ")[2][::-1] for row in rows]
    assert 0.4 < sum(right) / len(right) < 0.75
    tokenizer = spelling.tokenizer()
    ids = tokenizer(rows[0]["prompt"])["input_ids"]
    assert tokenizer.decode(tokenizer("#thpelSpell this word backward (example: sun -> nus):")["input_ids"]).endswith(
        "nus):"
    )
    assert tokenizer.decode(ids) == rows[0]["prompt"] and len(ids) == len(rows[0]["completion"].rpartition("#")[2]) + 2


def test_its_rows_are_graded_and_labelled(tmp_path: Path) -> None:
    """By the commands of studies/domains.yaml, from the repository's root."""
    spelling = example("spell_backward")
    [problem] = spelling.TASK.problems("test", seed=801, offset=0, limit=1)
    shared = {"problem_id": problem.id, "task": spelling.NAME, "prompt": problem.prompt, "gold": problem.gold}
    right = spelling.worked(problem.gold, lambda _, letter: letter)
    responses = {"a": right, "b": right.replace("#", "#x"), "c": right.rpartition("\n")[0]}
    entry = {"metadata": dict(problem.metadata)}
    write_jsonl(
        tmp_path / "rows.jsonl", [{"id": id, **shared, **entry, "completion": text} for id, text in responses.items()]
    )
    for command, source, output in (("grade", "rows", "graded"), ("annotate", "graded", "labelled")):
        arguments = ["--task", spelling.NAME, "--input", f"{tmp_path}/{source}.jsonl"]
        arguments += ["--output", f"{tmp_path}/{output}.jsonl"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([sys.executable, "-m", "qstep.cli", command, *arguments], cwd=ROOT, env=environment, check=True)
    rows = list(read_rows(tmp_path / "labelled.jsonl"))
    assert [row["label"] for row in rows] == [True, False, False]
    lines = len(problem.gold)
    assert [row["labels"] for row in rows] == [[True] * (lines + 1), [True] * lines + [False], [True] * lines]
