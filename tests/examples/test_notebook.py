"""notebooks/quickstart.ipynb runs from top to bottom, and shows what its text says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notebooks import run
from pages import ROOT


@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = ROOT / "notebooks" / "quickstart.ipynb"
    made, names = run(file)
    curves = names["result"].curves
    assert curves["scorer"][8].mean > curves["majority"][8].mean + 0.05 > curves["mean"][8].mean
    assert (names["result"].problems, names["result"].responses) == (40, 320)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    stored = json.loads(file.read_text(encoding="utf-8"))
    assert _kinds(made) == _kinds(stored)  # what GitHub shows was made by this code


def _kinds(notebook: dict[str, Any]) -> list[list[str]]:
    return [[output["output_type"] for output in cell.get("outputs", ())] for cell in notebook["cells"]]
