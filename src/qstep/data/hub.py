"""Data sets of the Hub as files of rows: `owner/name[@revision][:configuration][/split]`.

Only a name that is no path here is read so. Its rows are written once to the user's cache as JSON lines, in a file for
each commit, so a run reads one commit from its beginning to its end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from qstep.data.cached import user_cache
from qstep.data.inputs import FILES
from qstep.data.jsonl import dump_foreign_row, write_whole
from qstep.data.tables import plain_rows
from qstep.words import listed

FORM = "owner/name[@revision][:configuration][/split]"
"""How a data set of the Hub is written."""

_VERSION = 2
"""That of the files of rows. Rows that an earlier version wrote are read again."""
_PART = r"[A-Za-z0-9][\w.-]*"
_FORM = re.compile(
    rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>refs/\w+/[\w.-]+|[^/:,@]+))?(?::(?P<config>[^/:,@]+))?(?:/(?P<split>\w+))?"
)
CONFIGS = {"openai/gsm8k": "main"}
"""The configuration of a data set that has several, if nobody names one."""


@dataclass(frozen=True)
class HubId:
    """A data set of the Hub, as a user names it."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        revision, config = self.revision and f"@{self.revision}", self.config and f":{self.config}"
        return f"{self.name}{revision or ''}{config or ''}/{self.split}"

    @classmethod
    def of(cls, text: str) -> HubId | None:
        """The parts of a text that has the form of an id; None for any other."""
        found = _FORM.fullmatch(text)
        if found is None or text.endswith(FILES):
            return None
        config = found["config"] or CONFIGS.get(found["name"])
        return cls(found["name"], found["revision"], config, found["split"] or "train")


def is_hub_id(path: Path) -> bool:
    """Whether a path that does not exist is read as a data set of the Hub.

    It is not if a folder of the owner's name is here, because then a file in it is meant.
    """
    return HubId.of(str(path)) is not None and not os.path.lexists(path.parts[0]) and not os.path.exists(path)


def missing(path: Path) -> FileNotFoundError:
    """The error for a path that does not exist and is no Hub id."""
    why = "no such file or directory"
    if HubId.of(str(path)) is not None:
        why += f". It is not read as a data set of the Hub, because {path.parts[0]} is a folder here"
    elif not str(path).endswith(FILES):
        why += f", and not the id of a data set of the Hub, which is {FORM}"
    return FileNotFoundError(2, why, str(path))


def hub_lines(path: Path) -> Path:
    """The file of JSON lines with the rows of a Hub id. Raises ValueError if the data set cannot be read."""
    return downloaded(_asked(path))


def hub_fingerprint(path: Path) -> str:
    """As `fingerprint_of`, for a path that is an id."""
    return fingerprint_of(_asked(path))


def fingerprint_of(asked: HubId) -> str:
    """The data set with the commit that is read, its configuration and split. Only the commit is looked up."""
    return str(replace(asked, revision=_commit(asked)))


def _asked(path: Path) -> HubId:
    asked = HubId.of(str(path))
    assert asked is not None, path
    return asked


def _folder(asked: HubId) -> Path:
    return user_cache() / "hub" / asked.name.replace("/", "--")


@lru_cache(maxsize=64)
def _commit(asked: HubId) -> str:
    """The commit of a data set. A process asks the Hub once, so all that it reads is of one commit.

    Offline it is the one that this machine read last under the same revision.
    """
    revision = asked.revision or "main"
    ref = _folder(asked) / "refs" / revision.replace("/", "--")
    if not _is_offline():
        commit = _commit_of_the_hub(asked)
        write_whole(ref, [commit.encode()])
        return commit
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    if ref.is_file():
        return ref.read_text()
    if asked.revision is None:
        return str(_builder(asked, None).hash)
    raise ValueError(_not_offline(asked))


def _commit_of_the_hub(asked: HubId) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    failures: Any = HfHubHTTPError.__bases__  # of its HTTP client, and OSError
    try:
        return str(HfApi().dataset_info(asked.name, revision=asked.revision).sha)
    except RevisionNotFoundError:
        raise ValueError(f"{asked.name} has no revision {asked.revision!r}: give a branch, tag or commit") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{asked.name} is neither a file or folder here nor a data set of the Hub that you may read. Check the "
            f"path, or the id: {FORM}"
        ) from None
    except failures as error:
        raise ValueError(
            f"{asked.name} is no file or folder here, and the Hub was not reached ({error}). Check the path, or set "
            "HF_HUB_OFFLINE=1 to read the copy on this machine"
        ) from None


@lru_cache(maxsize=64)
def downloaded(asked: HubId) -> Path:
    """The file of JSON lines with the rows of a data set. Its split may be a slice or a sum, as `datasets` has them.

    Raises ValueError if the data set cannot be read.
    """
    commit = _commit(asked)
    place = _folder(asked) / commit / (asked.config or "default") / f"v{_VERSION}" / f"{asked.split}.rows.jsonl"
    if not place.is_file():
        builder = _builder(asked, commit)
        if builder.hash != commit:
            raise ValueError(_not_offline(asked, builder.hash))
        builder.download_and_prepare()
        known = sorted(map(str, builder.info.splits or ()))
        parts = [part.partition("[")[0] for part in asked.split.split("+")]
        if unknown := [part for part in parts if part not in (*known, "all")]:
            raise ValueError(f"{asked.name} has no split {unknown[0]!r}; it has {listed(known)}: give {FORM}")
        write_whole(place, _lines(asked, builder.as_dataset(split=asked.split)))
    return place


def _lines(asked: HubId, rows: Any) -> Iterator[bytes]:
    for number, row in enumerate(plain_rows(rows, asked.name), 1):
        try:
            yield dump_foreign_row(row) + b"\n"
        except ValueError as error:
            raise ValueError(f"{asked.name}, row {number}: {error}") from None


def _builder(asked: HubId, commit: str | None) -> Any:
    """What `datasets` reads a data set with. Offline it is a copy in the cache, perhaps of another commit."""
    import datasets

    try:
        return datasets.load_dataset_builder(asked.name, asked.config, revision=commit)
    except (OSError, ValueError) as error:
        raise ValueError(_why_not_read(asked, error)) from None


def _why_not_read(asked: HubId, error: Exception) -> str:
    if configs := re.search(r"available configs: \[(.*?)\]", str(error)):
        names = re.findall(r"'([^']*)'", configs[1])
        return f"{asked.name} has the configurations {listed(names)}: give {asked.name}:CONFIGURATION"
    if unknown := re.search(r"BuilderConfig '(.*?)' not found. Available: \[(.*?)\]", str(error)):
        names = re.findall(r"'([^']*)'", unknown[2])
        return f"{asked.name} has no configuration {unknown[1]!r}; it has {listed(names)}"
    if _is_offline():
        return _not_offline(asked)
    return f"{asked.name} cannot be read from the Hub: {str(error).partition(chr(10))[0]}"


def _not_offline(asked: HubId, copy: str | None = None) -> str:
    """Why a data set cannot be read without the Hub. `copy` is the commit that is on this machine instead."""
    unreached = "HF_HUB_OFFLINE is set" if _is_offline() else "the Hub was not reached"
    remedy = "unset HF_HUB_OFFLINE" if _is_offline() else "try again"
    wanted = f"revision {asked.revision} of it" if asked.revision else "it"
    found = f"only commit {copy} of it is on this machine" if copy else f"{wanted} is not on this machine"
    return (
        f"{asked.name} is no file or folder here, and cannot be read as a data set of the Hub: {unreached}, "
        f"and {found}. Give a file, or {remedy}"
    )


def _is_offline() -> bool:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)
