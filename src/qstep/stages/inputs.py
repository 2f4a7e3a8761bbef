"""What a stage reads, named in its settings so that changed input is not mixed with old output."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLED = 1 << 20


def model_fingerprint(model_name_or_path: str) -> str:
    """Names a model's weights: a Hub id as it is; a folder by its config, and its weight files' sizes and ends."""
    folder = Path(model_name_or_path)
    if not folder.is_dir():
        return model_name_or_path
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLED))
            stream.seek(max(0, file.stat().st_size - _SAMPLED))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


def hide_loading_bars() -> None:
    """Silences the bars of reading and writing weights: a stage shows its own progress."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def load_causal_lm(
    model_name_or_path: str, *, device: str, dtype: str, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer for sampling."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hide_loading_bars()
    tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, trust_remote_code=trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(model_name_or_path, dtype=dtype, trust_remote_code=trust_remote_code)
    torch.nn.Module.to(model, choose_device(device))
    return model.eval(), tokenizer


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def finished(path: Path) -> str:
    """The fingerprint of a stage's input.

    Raises:
        ValueError: the stage that writes it has not finished, so that part of its rows would be left out silently.
    """
    from qstep.data import file_fingerprint, is_finished

    if not is_finished(path):
        raise ValueError(f"{path} is unfinished: run the command that writes it to its end first")
    return file_fingerprint(path)


def settings_of(config: Any, *ignored: str, **inputs: Any) -> dict[str, Any]:
    """The settings that determine a stage's rows: its config without what cannot change them, and its inputs."""
    return {name: value for name, value in asdict(config).items() if name not in ignored} | inputs
