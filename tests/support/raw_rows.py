"""Files of rows as others may have written them, NaN included, which `write_jsonl` refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: Path, *rows: Any) -> Path:
    """Puts the rows on a line each."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
