"""A suggestion for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], form: str = "{}") -> str:
    """` (did you mean X?)` with the nearest known name in the given form, or an empty string if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {form.format(near[0])}?)" if near else ""
