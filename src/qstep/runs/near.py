"""What a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], form: str = "{}") -> str:
    """` (did you mean X?)` with the known name nearest to this one, written in a form; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {form.format(near[0])}?)" if near else ""
