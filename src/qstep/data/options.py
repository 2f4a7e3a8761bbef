"""Refusing options that have no effect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any


def refuse_unread(config: Any, names: Iterable[str], without: str) -> None:
    """Raises ValueError for an option that has no effect and differs from its default.

    Args:
        names: the options that have no effect.
        without: what they would need to have one.
    """
    defaults = {field.name: field.default for field in fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"--{name} is {getattr(config, name)!r}, and nothing reads it without {without}")
