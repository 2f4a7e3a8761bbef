"""Raw rows of a file or of the Hub, with their numbers for errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.data.jsonl import (
    RowError,
    canonical_json,
    count_rows,
    file_fingerprint,
    numbered_rows,
    refuse_constant,
)
from qstep.types import Row

_FILES = (".jsonl", ".json", ".parquet")
_HUB_CONFIG = {"openai/gsm8k": "main"}


@dataclass(frozen=True)
class Source:
    """A data set as its owners published it.

    path: the file, or the Hub id (with its configuration after a colon, where one was given). name: what its rows'
    ids begin with. split and config: of the Hub; None for a file, which has neither.
    """

    path: Path
    name: str
    split: str | None = None
    config: str | None = None

    @classmethod
    def of(cls, dataset_name: str, *, split: str = "train", config: str | None = None) -> Source:
        """A `.jsonl`, `.json` (a list of objects) or `.parquet` file, or a Hub id such as `owner/name:config`.

        Raises ValueError for a file of another kind.
        """
        path = Path(dataset_name)
        if path.suffix in _FILES:
            return cls(path, path.stem)
        if path.is_file():
            raise ValueError(f"{path} is a file of a kind that is not read: give {', '.join(_FILES)}")
        name, _, named = dataset_name.partition(":")
        return cls(path, name, split, config or named or _HUB_CONFIG.get(name))

    @property
    def is_file(self) -> bool:
        return self.split is None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yields each row with its line in a `.jsonl` file, or its number counted from 1.

        A `.json` file is held in memory as a whole; the others are read as they are reached.

        Raises:
            RowError: a line is no JSON object.
            ValueError: the file is not what its name says.
        """
        return numbered_rows(self.path) if self._is(".jsonl") else iter(enumerate(self._table(), 1))

    def count(self) -> int:
        """How many rows there are."""
        return count_rows(self.path) if self._is(".jsonl") else len(self._table())

    def fingerprint(self) -> str:
        """SHA-256 of the file, or of the Hub's rows."""
        if self.is_file:
            return file_fingerprint(self.path)
        digest = hashlib.sha256()
        for row in self._table():
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def _is(self, suffix: str) -> bool:
        return self.is_file and self.path.suffix == suffix

    def _table(self) -> Any:
        """The rows where they are not lines: a list, or a `datasets.Dataset`."""
        if self._is(".json"):
            return self._list()
        import datasets

        if not self.is_file:
            return datasets.load_dataset(self.name, self.config, split=self.split)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist")
        return datasets.Dataset.from_parquet(str(self.path))

    def _list(self) -> list[Row]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        except ValueError as error:
            raise ValueError(f"{self.path} is not JSON: {error}") from None
        except RecursionError:
            raise ValueError(f"{self.path} cannot be read: its JSON is nested too deeply") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                f"{self.path} is not a list of objects. A .json file is one; a file with an object on each line is "
                ".jsonl"
            )
        for number, row in enumerate(rows, 1):
            try:
                canonical_json(row)
            except ValueError as error:
                raise RowError(self.path, number, None, f"holds something that is not JSON: {error}") from None
        return rows
