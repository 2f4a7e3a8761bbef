"""Data sets of the Hub as files of rows: `owner/name[@revision][:configuration][/split]`.

Only a name that is no path here is read so. Its rows are written once to the user's cache as JSON lines, in a file for
each commit, so a run reads one commit from its beginning to its end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from qstep.data.cached import user_cache
from qstep.data.inputs import FILES
from qstep.data.jsonl import dump_row, write_whole
from qstep.data.tables import plain_rows
from qstep.words import listed

FORM = "owner/name[@revision][:configuration][/split]"
"""How a data set of the Hub is written."""

_PART = r"[A-Za-z0-9][\w.-]*"
_FORM = re.compile(
    rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>refs/\w+/[\w.-]+|[^/:,@]+))?(?::(?P<config>[^/:,@]+))?(?:/(?P<split>\w+))?"
)
_CONFIGS = {"openai/gsm8k": "main"}
"""The configuration of a data set that has several, if nobody names one."""


@dataclass(frozen=True)
class HubId:
    """A data set of the Hub, as a user names it."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"

    @classmethod
    def of(cls, text: str) -> HubId | None:
        """The parts of a text that has the form of an id; None for any other."""
        found = _FORM.fullmatch(text)
        if found is None or text.endswith(FILES):
            return None
        config = found["config"] or _CONFIGS.get(found["name"])
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
    return _downloaded(_asked(path))


def hub_fingerprint(path: Path) -> str:
    """The data set with the commit that is read, its configuration and split. Only the commit is looked up."""
    asked = _asked(path)
    builder = _builder(asked)
    return f"{asked.name}@{builder.hash}:{builder.config_id}/{asked.split}"


def _asked(path: Path) -> HubId:
    asked = HubId.of(str(path))
    assert asked is not None, path
    return asked


@lru_cache(maxsize=64)
def _downloaded(asked: HubId) -> Path:
    builder = _builder(asked)
    folder = user_cache() / "hub" / asked.name.replace("/", "--") / builder.hash / builder.config_id
    place = folder / f"{asked.split}.rows.jsonl"
    if not place.is_file():
        builder.download_and_prepare()
        known = sorted(map(str, builder.info.splits or ()))
        if asked.split not in known:
            raise ValueError(f"{asked.name} has no split {asked.split!r}; it has {listed(known)}: give {FORM}")
        write_whole(place, _lines(builder.as_dataset(split=asked.split)))
    return place


def _lines(rows: Any) -> Iterator[bytes]:
    for row in plain_rows(rows):
        yield dump_row(row) + b"\n"


@lru_cache(maxsize=64)
def _builder(asked: HubId) -> Any:
    """What reads a data set. A process asks the Hub once, so all that it reads is of one commit."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(asked.name, asked.config, revision=asked.revision)
    except (OSError, ValueError) as error:
        raise ValueError(_why_not_read(asked, error)) from None
    commit = builder.hash
    if asked.revision not in (None, commit) and _is_offline() and not _was_commit(asked, commit):
        raise ValueError(
            f"{asked.name}: HF_HUB_OFFLINE is set, and the copy on this machine is commit {commit}, which may not be "
            f"{asked.revision}. Give @{commit}, or unset HF_HUB_OFFLINE"
        )
    return builder


def _why_not_read(asked: HubId, error: Exception) -> str:
    neither = f"{asked.name} is neither a file or folder here"
    if configs := re.search(r"available configs: \[(.*?)\]", str(error)):
        names = re.findall(r"'([^']*)'", configs[1])
        return f"{asked.name} has the configurations {listed(names)}: give {asked.name}:CONFIGURATION"
    if unknown := re.search(r"BuilderConfig '(.*?)' not found. Available: \[(.*?)\]", str(error)):
        names = re.findall(r"'([^']*)'", unknown[2])
        return f"{asked.name} has no configuration {unknown[1]!r}; it has {listed(names)}"
    if _is_offline():
        return (
            f"{neither} nor in the cache of Hub data sets, and HF_HUB_OFFLINE forbids to download it. Give a file, or "
            "unset HF_HUB_OFFLINE"
        )
    first = str(error).partition("\n")[0]
    return f"{neither} nor a data set that the Hub gives ({first}). Check the path, or the id: {FORM}"


def _is_offline() -> bool:
    from datasets import config

    return bool(config.HF_HUB_OFFLINE)


def _was_commit(asked: HubId, commit: str) -> bool:
    """Whether a branch or tag was this commit when this machine last asked the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    refs = Path(HF_HUB_CACHE) / f"datasets--{asked.name.replace('/', '--')}" / "refs" / str(asked.revision)
    return refs.is_file() and refs.read_text().strip() == commit
