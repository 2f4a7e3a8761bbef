"""Fingerprints of a stage's inputs. Settings hold them, so that old output never mixes with changed input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from qstep.data import canonical_json, check_model_name, file_fingerprint
from qstep.data.model_names import CONFIG_FILES
from qstep.runs.stage_file import is_finished
from qstep.runs.training_log import TRAINING_LOG
from qstep.types import Problem

# The files that decide a model's output: its weights, its adapter, its settings and its tokenizer.
_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "spiece*"),
    *("chat_template*", "additional_chat_templates/*", "preprocessor_config.json"),
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide its output: weights, settings and tokenizer."""
    return sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()})


def model_fingerprint(model_name_or_path: str, revision: str | None = None) -> str:
    """A string that changes with everything that decides a model's output.

    For a folder it is the hash of its files, at 1.5 GB a second. An adapter's includes the hash of its base. For a Hub
    id it contains the commit of the revision.

    Raises:
        ValueError: the folder has its weights in pickles only, or `qstep train` has not finished it.
        OSError: the Hub id is not in the cache, and the Hub cannot be reached or does not have it.
    """
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        return f"{model_name_or_path}@{_commit(model_name_or_path, revision)}"
    if not any((folder / name).is_file() for name in CONFIG_FILES):
        raise ValueError(f"{folder} holds no model: it needs *.safetensors and {' or '.join(CONFIG_FILES)}")
    log = folder / TRAINING_LOG
    if log.exists() and not is_finished(log):
        raise ValueError(
            f"the training of {folder} has not finished: run the same `qstep train` again to its end first"
        )
    files = model_files(folder)
    if not any(file.suffix == ".safetensors" for file in files):
        found = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if found:
            raise ValueError(
                f"{folder} has its weights in {', '.join(found)}. These are pickles, which can run code when they are "
                "loaded. If you trust them, load the model and save it as safetensors with save_pretrained()"
            )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)} {remembered_fingerprint(file)}\n".encode())
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        described = json.loads(adapter.read_text())
        base = described["base_model_name_or_path"]
        digest.update(model_fingerprint(base, described.get("revision")).encode())
    return digest.hexdigest()


def remembered_fingerprint(file: Path) -> str:
    """The hash of a file. A process computes it again only if the file's size, time or inode changed."""
    status = file.stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _digest_of(file: Path, size: int, modified_ns: int, inode: int) -> str:
    return file_fingerprint(file)


def _commit(model_id: str, revision: str | None) -> str:
    """The commit of a Hub id's revision, from the cache or the Hub. It is the name of the cache's folder."""
    check_model_name(model_id)
    from transformers.utils import cached_file

    for name in CONFIG_FILES:
        try:
            file = cached_file(model_id, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise OSError(f"{model_id} is not a folder here, and the Hub id was not found: {error}") from error
        if file is not None:
            return Path(file).parent.name
    raise OSError(
        f"{model_id} is not a folder here. As a Hub id it was not reached, or it has no {' or '.join(CONFIG_FILES)}"
    )


def problems_fingerprint(problems: Iterable[Problem]) -> str:
    """SHA-256 of the problems, whatever their source."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(canonical_json(asdict(problem)) + b"\n")
    return digest.hexdigest()
