"""Raw rows of a file or of the Hub, with their numbers for errors."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qstep.data.call_arguments import with_own_arguments
from qstep.data.hub import HubId, downloaded, fingerprint_of, is_hub_id, missing
from qstep.data.inputs import FILES, Lines, inputs_of, is_several
from qstep.data.jsonl import count_rows, numbered_rows, rows_fingerprint
from qstep.types import Row


@dataclass(frozen=True)
class Source:
    """A data set as its owners published it.

    path: the file, a list or pattern of files, the complete Hub id, or a folder with splits. name: what the ids of its
    rows begin with; for several files the path, since each has its own name. split and config: of the Hub or of a
    folder with splits; None for files, which have neither. hub: the Hub id.
    """

    path: Path
    name: str
    split: str | None = None
    config: str | None = None
    hub: HubId | None = None

    @classmethod
    def of(cls, dataset_name: str, *, split: str = "train", config: str | None = None) -> Source:
        """A file of rows (see `qstep.data.row_files`), several, or a Hub id such as `owner/name@revision:config`.

        Raises:
            FileNotFoundError: the name is neither a path nor a Hub id.
            ValueError: a Hub id has a split, which is an option of its own.
        """
        path = Path(dataset_name)
        if not path.is_dir() and is_several(path):
            return cls(path, dataset_name)
        if path.suffix in FILES or path.is_file() or (path / "dataset_info.json").is_file():
            return cls(path, _stem(path))
        if path.is_dir():
            return cls(path, dataset_name, split, config)
        asked = HubId.of(dataset_name) if is_hub_id(path) else None
        if asked is None:
            raise missing(path)
        if dataset_name.removeprefix(asked.name).endswith(f"/{asked.split}"):
            without = dataset_name.removesuffix(f"/{asked.split}")
            raise ValueError(f"{dataset_name} has a split: give {without}, and --split {asked.split}")
        asked = replace(asked, config=config or asked.config, split=split)
        return cls(Path(str(asked)), asked.name, split, asked.config, asked)

    @property
    def is_file(self) -> bool:
        return self.split is None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yields each row with its line, or its number counted from 1.

        Raises:
            RowError: a line is no JSON object.
            ValueError: the file is not what its name says.
        """
        if self._has_splits:
            return enumerate(map(with_own_arguments, self._of_folder()), 1)
        return numbered_rows(self._file)

    def named_rows(self) -> Iterator[tuple[str, int, int, Row]]:
        """Yields each row with the name of its file or Hub id, its index there from 0, and its number as in `rows`.

        So rows of two files have different names, and a row's name does not depend on the other files.
        """
        if not self._is_several:
            for index, (line, row) in enumerate(self.rows()):
                yield self.name, index, line, row
            return
        lines = Lines.of(self.path)
        names = dict(zip(lines.files, _names(lines.files), strict=True))
        indices: Counter[str] = Counter()
        for line, row in self.rows():
            name = names[lines.located(line)[0]]
            yield name, indices[name], line, row
            indices[name] += 1

    def names(self) -> list[str]:
        """What the ids of the rows begin with, for each file."""
        return _names(inputs_of(self.path)) if self._is_several else [self.name]

    def count(self) -> int:
        """How many rows there are."""
        return len(self._of_folder()) if self._has_splits else count_rows(self._file)

    def fingerprint(self) -> str:
        """That of the files, of the Hub's commit, or of the rows of a folder's split."""
        if not self._has_splits:
            return rows_fingerprint(self.path) if self.hub is None else fingerprint_of(self.hub)
        digest = hashlib.sha256()
        for row in self._of_folder():
            digest.update(repr(row).encode())
        return digest.hexdigest()

    @property
    def _is_several(self) -> bool:
        return self.is_file and is_several(self.path)

    @property
    def _file(self) -> Path:
        return self.path if self.hub is None else downloaded(self.hub)

    @property
    def _has_splits(self) -> bool:
        return not self.is_file and self.hub is None

    def _of_folder(self) -> Any:
        import datasets

        return datasets.load_dataset(str(self.path), self.config, split=self.split)


def _stem(file: Path) -> str:
    """The name of a file without the endings of files of rows."""
    stem = file.name
    while Path(stem).suffix in FILES:
        stem = Path(stem).stem
    return stem


def _names(files: Sequence[Path]) -> list[str]:
    """A name for each of several files or Hub ids. Files with equal names are named by their paths below one folder."""
    names = [str(file) if is_hub_id(file) else _stem(file) for file in files]
    if len({*names}) == len(names):
        return names
    local = [file.absolute() for file in files if not is_hub_id(file)]
    folder = os.path.commonpath([file.parent for file in local])
    return [str(file) if is_hub_id(file) else os.path.relpath(file.absolute(), folder) for file in files]
