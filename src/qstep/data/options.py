"""Options that would do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any


def refuse_unread(config: Any, names: Iterable[str], without: str) -> None:
    """Raises ValueError for an option of a dataclass that is not at its default, though nothing reads it.

    Args:
        names: the options that are not read.
        without: what they would need.
    """
    defaults = {field.name: field.default for field in fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"--{name} is {getattr(config, name)!r}, and nothing reads it without {without}")
