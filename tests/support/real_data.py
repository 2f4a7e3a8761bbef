"""Where real data lies, which is not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("QSTEP_DATA", Path(__file__).parents[3] / "shared" / "data"))


def needs(*files: str) -> pytest.MarkDecorator:
    """Skips a test where there is none of it, or a file of it is missing."""
    missing = [file for file in files if not (DATA / file).exists()] or ([] if DATA.is_dir() else ["real data"])
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} in {DATA}; set QSTEP_DATA")


needs_data = needs()
