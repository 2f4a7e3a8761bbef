"""What a stage reads, named in its settings so that changed input is not mixed with old output."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qstep.data import canonical_json, check_model_name, file_fingerprint, is_finished, splitter_version
from qstep.types import Dtype, Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

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
        digest.update(f"{file.relative_to(folder)} {_digest(file)}\n".encode())
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        described = json.loads(adapter.read_text())
        base = described["base_model_name_or_path"]
        digest.update(model_fingerprint(base, described.get("revision")).encode())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    """The hash of a file; a process that asks again, and finds its size, time and inode as they were, has it."""
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


def hide_loading_bars() -> None:
    """Silences the bars of reading and writing weights: a stage shows its own progress."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def load_for_sampling(
    model_name_or_path: str, *, device: str, dtype: Dtype, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer for sampling; an adapter is merged into the base model that it names."""
    import torch
    from transformers import AutoModelForCausalLM

    from qstep.models.adapters import load_adapter
    from qstep.models.loading import ADAPTER_CONFIG

    hide_loading_bars()
    tokenizer = load_tokenizer(model_name_or_path, revision)
    if (Path(model_name_or_path) / ADAPTER_CONFIG).exists():

        def base(name: str, revision: str | None) -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, revision=revision)

        model = load_adapter(model_name_or_path, base).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(model_name_or_path, dtype=dtype, revision=revision)
    torch.nn.Module.to(model, choose_device(device))
    return model.eval(), tokenizer


def load_tokenizer(model_name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is to write text; its weights are not read. Raises ValueError for a step scorer."""
    from transformers import AutoConfig

    from qstep.models import loading

    has_config = (Path(model_name_or_path) / "config.json").is_file()  # a foreign adapter may have none
    if has_config and loading.is_scorer(AutoConfig.from_pretrained(model_name_or_path)):
        raise ValueError(f"{model_name_or_path} is a step scorer and writes no text; give a causal language model")
    return loading.load_tokenizer(model_name_or_path, revision=revision)


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU. Raises ValueError for a device that is not there."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()  # meta holds nothing that could be brought back
    except (RuntimeError, AssertionError, ImportError) as error:  # no such device; a torch without CUDA; without hpu
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device} cannot be used here: {reason}. Give cpu, cuda or auto") from None
    return chosen


def finished(path: Path) -> str:
    """The fingerprint of a stage's input.

    Raises:
        ValueError: the stage that writes it has not finished, so that part of its rows would be left out silently.
    """
    if not is_finished(path):
        raise ValueError(f"{path} is unfinished: run the command that writes it to its end first")
    return file_fingerprint(path)


def in_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items, the last of as many as are left."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def refuse_overwriting(config: Any) -> None:
    """Raises ValueError, naming both options, where a file to write is one to read, or is to be written twice."""
    options = vars(config)
    outputs = {name: path for name in ("output", "summary") if (path := options.get(name)) is not None}
    for output, path in outputs.items():
        for name, value in options.items():
            for other in _paths(value) if name != output else ():
                twice = name in outputs and os.path.abspath(path) == os.path.abspath(other)
                if twice or (os.path.isfile(path) and os.path.isfile(other) and os.path.samefile(path, other)):
                    raise ValueError(f"--{output} {path} is the file of --{name} too: choose another file to write")


def refuse_foreign(option: str, path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Raises ValueError where a file to write is there already and is not what this command writes."""
    if path.is_dir():
        raise ValueError(f"--{option} {path} is a folder: give a file to write")
    if path.exists() and path.stat().st_size and not is_ours(path):
        raise ValueError(f"--{option} {path} is there and holds something else: choose another file, or delete it")


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes, letters of either case."""
    with path.open("rb") as file:
        return file.read(len(start)).lower() == start


def is_json_with(*names: str) -> Callable[[Path], bool]:
    """Whether a file is a JSON object with these entries, laid out as `write_json` does; rows begin otherwise."""

    def holds(path: Path) -> bool:
        if not begins_with(path, b"{\n"):
            return False
        try:
            return {*names} <= json.loads(path.read_bytes()).keys()
        except ValueError:
            return False

    return holds


def _paths(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(item)


def settings_of(config: Any, *ignored: str, **inputs: Any) -> dict[str, Any]:
    """The settings that determine a stage's rows: its config without what cannot change them, and its inputs; a user's
    splitter with the content of its file."""
    settings = {name: value for name, value in asdict(config).items() if name not in ignored} | inputs
    if settings.get("step_separator"):
        settings["step_separator"] = splitter_version(settings["step_separator"])
    return settings
