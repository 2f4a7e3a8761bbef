"""Checking the name of a model before the Hub is asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from qstep.words import listed

CONFIG_FILES = ("config.json", "adapter_config.json")
"""A model's folder has one of these files."""
_LOOKED_AT = 2000
"""The maximum number of folders that are searched for a similar name."""


def check_model_name(name: str | Path) -> None:
    """Raises ValueError for a name that is neither a folder here nor a Hub id, such as `owner/model`.

    A name without an owner, such as the old id `gpt2`, is accepted only if the local cache has it. So the Hub is not
    asked for a misspelled folder, which takes long.
    """
    name = str(name)
    if Path(name).is_dir() or (_may_be_hub_id(name) and not Path(name).parent.is_dir()):
        return
    if "/" not in name:
        from huggingface_hub import try_to_load_from_cache

        if any(isinstance(try_to_load_from_cache(name, config), str) for config in CONFIG_FILES):
            return
    what = "is a file" if Path(name).is_file() else "is not a folder here"
    near = [str(path) for path in _near(Path(name).expanduser())]
    advice = f"Did you mean {listed(near, 'or')}?" if near else "Give a folder, or a Hub id such as owner/model."
    raise ValueError(f"{name} {what}. {advice}")


def _may_be_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not name.endswith("/")


def _near(wanted: Path) -> list[Path]:
    """At most three model folders with a similar name, near the wanted one or in the working directory."""
    folders = {path for root in (wanted.parent, Path()) for path in _models(root)}
    root = wanted.parent if wanted.is_absolute() else Path()  # a long root would make any two names similar
    by_path = {str(path.relative_to(root) if path.is_relative_to(root) else path): path for path in folders}
    by_name = {path.name: path for path in sorted(folders, reverse=True)}
    found = [by_path[match] for match in get_close_matches(str(wanted.relative_to(root)), by_path, cutoff=0.65)]
    found += [by_name[match] for match in get_close_matches(wanted.name, by_name, cutoff=0.75)]
    return list(dict.fromkeys(found))[:3]


def _models(root: Path) -> Iterator[Path]:
    """The folders with a model in them, in this folder and one or two levels below."""
    for pattern in ("*", "*/*"):
        for folder in islice(root.glob(pattern), _LOOKED_AT):
            if any((folder / config).is_file() for config in CONFIG_FILES):
                yield folder
