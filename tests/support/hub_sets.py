"""Data sets that the Hub seems to have, without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from qstep.data import hub


def put_on_hub(
    monkeypatch: pytest.MonkeyPatch, cache: Path, sets: Mapping[str, Any] | Callable[[hub.HubId], Any]
) -> list[hub.HubId]:
    """Answers for the Hub with rows: those of a name, or what a function says. Returns what was asked for."""
    asked: list[hub.HubId] = []

    def builder(hub_id: hub.HubId, commit: str | None) -> Any:
        asked.append(hub_id)
        rows = sets(hub_id) if callable(sets) else sets[hub_id.name]
        return SimpleNamespace(
            hash=commit,
            info=SimpleNamespace(splits=dict.fromkeys(("train", "test", "gsm8k"))),
            download_and_prepare=lambda: None,
            as_dataset=lambda split: datasets.Dataset.from_list(rows),
        )

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(hub, "_commit_of_the_hub", lambda hub_id: "c0ffee")
    monkeypatch.setattr(hub, "_is_offline", lambda: False)
    monkeypatch.setattr(hub, "_builder", builder)
    for function in (hub._commit, hub.downloaded):
        function.cache_clear()
    return asked
