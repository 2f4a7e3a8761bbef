"""JSONL files: line numbers, and files that are replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qstep.data import numbered_rows, write_json


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": "∑"})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})

    def broken(source: Path, target: Path) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "replace", broken)
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "∑"} and list(tmp_path.iterdir()) == [path]


def test_numbered_rows_counts_from_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert list(numbered_rows(path)) == [(1, {"a": 1}), (2, {"a": 2})]
