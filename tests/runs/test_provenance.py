"""What a result says about where it comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qstep.runs.provenance import provenance


def test_provenance_can_be_written_and_names_the_commit(tmp_path: Path) -> None:
    written = json.loads(json.dumps(provenance({"seed": 3, "output_dir": tmp_path, "base": {"files": [tmp_path]}})))
    assert written["seeds"] == {"seed": 3}
    assert written["settings"] == {"seed": 3, "output_dir": str(tmp_path), "base": {"files": [str(tmp_path)]}}
    assert written["versions"]["torch"]
    assert written["git_commit"] is None or re.fullmatch("[0-9a-f]{40}", written["git_commit"])


def test_a_machine_without_git_loses_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance({"seed": 0})["git_commit"] is None
