"""examples/score_published_prm.py and examples/best_of_n.py run, and print what they promise."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import qstep
from examples import example
from published_scorers import qwen_prm
from scorers import miniature_scorer

PROBLEMS = [
    {"prompt": "1+2*3=\n", "gold": "9", "task": "miniature", "responses": ["1+2=3\n3*3=9\n#9", "1+2=4\n4*3=2\n#2"]},
    {"prompt": "4+4-1=\n", "gold": "7", "task": "miniature", "responses": ["4+4=8\n8-1=7\n#7", "4+4=8\n8-1=7\n#7"]},
]


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    module = example(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    module.main()


def test_a_published_model_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("score_published_prm", monkeypatch, "--scorer", str(qwen_prm(tmp_path / "prm")))
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r" *(-?\d+\.\d{3})  +\d+\.\d%  (.+)", line) for line in lines]
    module = example("score_published_prm")
    assert [match[2] for match in found if match] == module.RESPONSE.split("\n")
    scorer = qstep.load_scorer(str(tmp_path / "prm"))
    q_values = scorer.score(module.QUESTION, module.RESPONSE.split("\n"))
    assert [float(match[1]) for match in found if match] == pytest.approx(q_values, abs=6e-4)


@pytest.mark.parametrize(("graded", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_the_best_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], graded: bool, dtype: Any
) -> None:
    problems = [{name: of[name] for name in of if graded or name != "gold"} for of in PROBLEMS]
    qstep.write_rows(problems, tmp_path / "rows.jsonl")
    scorer = str(miniature_scorer(tmp_path / "scorer"))
    run("best_of_n", monkeypatch, "--rows", str(tmp_path / "rows.jsonl"), "--scorer", scorer, "--dtype", dtype)
    printed = capsys.readouterr().out
    first, second, *_ = qstep.score(problems, qstep.load_scorer(scorer, dtype=dtype))
    best = max(first, second, key=lambda row: row["score"])
    assert f"score {best['score']}: {best['completion']!r}" in printed and printed.count("    score ") == 2
    assert ("majority" in printed) == graded
    if graded:
        [line] = [line for line in printed.splitlines() if line.startswith("scorer ")]
        assert f"{(1 + (best is first)) / 2:.3f} [" in line
