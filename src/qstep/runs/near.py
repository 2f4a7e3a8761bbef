"""A suggestion for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], form: str = "{}") -> str:
    """` (did you mean X?)` with the nearest known name in the given form, or an empty string if none is near."""
    known, name = list(known), name.replace("-", "_") if name.replace("-", "_") in known else name
    near = difflib.get_close_matches(name, known, 1) or [other for other in known if name and other.startswith(name)]
    return f" (did you mean {form.format(near[0])}?)" if near else ""
