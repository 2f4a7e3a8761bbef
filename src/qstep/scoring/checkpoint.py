"""Reads a checkpoint's config.json and the names of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import cached_file


@dataclass(frozen=True)
class Checkpoint:
    """A folder or Hub id, and its config.json."""

    name: str
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """The name of the model's class; empty if the config does not name it."""
        [architecture] = (self.config.get("architectures") or [""])[:1]
        return str(architecture)

    @property
    def labels(self) -> int:
        """The number of outputs of a classifier."""
        return len(self.config.get("id2label") or "01")

    @cached_property
    def weights(self) -> list[str]:
        """The names of the weights in the safetensors files; empty if there are no such files."""
        index = cached_file(self.name, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        if index is not None:
            return list(json.loads(Path(index).read_text())["weight_map"])
        single = cached_file(self.name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if single is None:
            return []
        with safe_open(single, "pt") as tensors:
            return list(tensors.keys())
