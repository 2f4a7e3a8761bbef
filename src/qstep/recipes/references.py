"""References in the options of stages, such as `${base}/model`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

REFERENCE = re.compile(r"\$\{([^}]*)\}")


def references(value: Any) -> set[str]:
    """The names that a value refers to."""
    return {name for text in _texts(value) for name in REFERENCE.findall(text)}


def fill(value: Any, names: Mapping[str, Any]) -> Any:
    """Replaces the references to these names. A value that is only a reference becomes the named value itself."""
    if isinstance(value, Mapping):
        return {key: fill(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole and whole[1] in names:
        return names[whole[1]]
    return REFERENCE.sub(lambda match: str(names.get(match[1], match[0])), value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
