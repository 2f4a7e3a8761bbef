"""Rows of steps with labels, and the index of a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qstep.data import Format, Index, index_rows, write_jsonl


def row(prompt: str, steps: list[str], labels: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completions": steps, "labels": labels}


def index(path: Path, rows: list[dict[str, Any]], format: Format = "stepwise") -> Index:
    write_jsonl(path, rows)
    return index_rows(path, format)
