"""What a stage reads, named in its settings so that changed input is not mixed with old output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from qstep.data import canonical_json, check_model_name, file_fingerprint
from qstep.runs.stage_file import is_finished
from qstep.types import Problem

# What a model's words follow from: its weights, its adapter, its settings, and how text becomes tokens.
_MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "spiece*"),
    *("chat_template*", "additional_chat_templates/*", "preprocessor_config.json"),
)
_CONFIGS = ("config.json", "adapter_config.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what it computes and how its text becomes tokens."""
    return sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()})


def model_fingerprint(model_name_or_path: str, revision: str | None = None) -> str:
    """Names a model by all that its words follow from: a folder by the hash of its files (1.5 GB a second) and, where
    it is an adapter, of its base; a Hub id by the commit its revision stands for.

    Raises:
        ValueError: the folder has its weights in pickles only, or `qstep train` has not finished it.
        OSError: the Hub id is neither in the cache nor to be reached.
    """
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        return f"{model_name_or_path}@{_commit(model_name_or_path, revision)}"
    if not any((folder / name).is_file() for name in _CONFIGS):
        raise ValueError(f"{folder} holds no model: expected {' or '.join(_CONFIGS)} in it, beside *.safetensors")
    log = folder / "train_log.jsonl"
    if log.exists() and not is_finished(log):
        raise ValueError(f"{folder}: its training has not finished; run the same `qstep train` again to its end first")
    files = model_files(folder)
    if not any(file.suffix == ".safetensors" for file in files):
        found = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if found:
            raise ValueError(
                f"{folder} has its weights in {', '.join(found)}, which are pickles and run code when loaded: "
                "load them where you trust them, and save_pretrained() them again as safetensors"
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
    """The hash of a file, computed once by a process as long as the file's size, time and inode stay as they are."""
    status = file.stat()
    return _digest_of(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _digest_of(file: Path, size: int, modified_ns: int, inode: int) -> str:
    return file_fingerprint(file)


def _commit(model_id: str, revision: str | None) -> str:
    """The commit a revision of a Hub id stands for, of the cache or of the Hub: the folder its files are cached in."""
    check_model_name(model_id)
    from transformers.utils import cached_file

    for name in _CONFIGS:
        try:
            file = cached_file(model_id, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise OSError(f"{model_id} is no folder here, and as a Hub id it was not found: {error}") from error
        if file is not None:
            return Path(file).parent.name
    raise OSError(
        f"{model_id} is no folder here, and as a Hub id it was not reached, or has no {' or '.join(_CONFIGS)}"
    )


def problems_fingerprint(problems: Iterable[Problem]) -> str:
    """SHA-256 of the problems themselves, wherever they come from."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(canonical_json(asdict(problem)) + b"\n")
    return digest.hexdigest()
