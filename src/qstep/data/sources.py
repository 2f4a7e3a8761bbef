"""Raw rows of a file or of the Hub, with their numbers for errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.data.hub import HubId
from qstep.data.inputs import FILES
from qstep.data.jsonl import count_rows, numbered_rows, rows_fingerprint
from qstep.types import Row


@dataclass(frozen=True)
class Source:
    """A data set as its owners published it.

    path: the file, or the Hub id (with its configuration after a colon, where one was given). name: what its rows'
    ids begin with. split, config and revision: of the Hub; None for a file, which has none of them.
    """

    path: Path
    name: str
    split: str | None = None
    config: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, dataset_name: str, *, split: str = "train", config: str | None = None) -> Source:
        """A file of rows (see `qstep.data.row_files`), or a Hub id such as `owner/name@revision:config`.

        Raises ValueError for a Hub id with a split, which is an option of its own.
        """
        path = Path(dataset_name)
        if path.suffix in FILES or path.is_file() or (path / "dataset_info.json").is_file():
            stem = path.name
            while Path(stem).suffix in FILES:
                stem = Path(stem).stem
            return cls(path, stem)
        if (asked := HubId.of(dataset_name)) is None:
            name, _, named = dataset_name.partition(":")
            return cls(path, name, split, config or named or None)
        if dataset_name.removeprefix(asked.name).endswith(f"/{asked.split}"):
            without = dataset_name.removesuffix(f"/{asked.split}")
            raise ValueError(f"{dataset_name} has a split: give {without}, and --split {asked.split}")
        return cls(path, asked.name, split, config or asked.config, asked.revision)

    @property
    def is_file(self) -> bool:
        return self.split is None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yields each row with its line in a file of JSON lines, or its number counted from 1.

        Raises:
            RowError: a line is no JSON object.
            ValueError: the file is not what its name says.
        """
        return numbered_rows(self.path) if self.is_file else iter(enumerate(self._of_the_hub(), 1))

    def count(self) -> int:
        """How many rows there are."""
        return count_rows(self.path) if self.is_file else len(self._of_the_hub())

    def fingerprint(self) -> str:
        """SHA-256 of the file, or of the Hub's rows."""
        if self.is_file:
            return rows_fingerprint(self.path)
        digest = hashlib.sha256()
        for row in self._of_the_hub():
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def _of_the_hub(self) -> Any:
        import datasets

        return datasets.load_dataset(self.name, self.config, split=self.split, revision=self.revision)
