"""docs/python.md: its snippets run one after another, and print what the page shows below them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import qstep
from pages import ROOT
from published_scorers import generative, qwen_prm

PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, re.DOTALL)


def test_every_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    qwen_prm(tmp_path / "Qwen" / "Qwen2.5-Math-PRM-7B")
    generative(tmp_path / "Qwen" / "Qwen2.5-Math-1.5B")
    names: dict[str, object] = {}
    printed = [shown for snippet, shown in BLOCKS if shown]
    assert PAGE.index("```python") < 40 and len(BLOCKS) > 7 and len(printed) > 6
    same = doctest.OutputChecker().check_output
    for snippet, shown in BLOCKS:
        exec(compile(snippet, snippet, "exec"), names)
        found = capsys.readouterr().out
        assert not shown or same(shown, found, doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS), f"{snippet}\n{found}"
    assert {qstep.load_scorer(Path("runs") / trained).objective for trained in ("pqm", "trainer")} == {"pqm"}


def test_every_function_is_told() -> None:
    losses = {name for name in qstep.__all__ if name.endswith(("_loss", "_losses"))} | {"importance_weights"}
    named = {*re.findall(r"\bqstep\.(\w+)", PAGE), *re.findall(r"`(\w+)", PAGE)}
    assert not {*qstep.__all__} - losses - {"ChoiceAccuracies", "StepScorer"} - named
