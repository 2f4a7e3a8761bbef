"""Low-rank adapters (peft) on a model of transformers: put on, saved, restored, merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from qstep.models.loading import ADAPTER_CONFIG, bare

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def adapted(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """The model with a fresh adapter; its own weights are frozen."""
    from peft import get_peft_model

    return get_peft_model(model, lora)


def saved_adapter(folder: str | Path) -> LoraConfig:
    """The configuration of a saved adapter, to be trained on.

    Raises ValueError where peft is not installed, or the adapter is of another kind than LoRA.
    """
    try:
        from peft import LoraConfig, PeftConfig
    except ImportError:
        raise ValueError(f"{folder} holds an adapter, which needs peft: pip install 'qstep[peft]'") from None
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{Path(folder) / ADAPTER_CONFIG} is of a {type(config).__name__}; qstep knows LoRA")
    config.inference_mode = False
    return config


def base_of(folder: str | Path) -> str:
    """The base model that a saved adapter names. Raises ValueError where it names none."""
    base = saved_adapter(folder).base_model_name_or_path
    if not base:
        raise ValueError(f"{Path(folder) / ADAPTER_CONFIG} does not name the base model of the adapter")
    return base


def load_adapter(folder: str | Path, load_base: Callable[[str], PreTrainedModel]) -> PeftModel:
    """A saved adapter on the base model that it names; raises as `base_of` does."""
    base = load_base(base_of(folder))
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder))


def save_pretrained(
    model: PreTrainedModel | PeftModel, folder: str | Path, state_dict: dict[str, Tensor] | None, prefix: str
) -> None:
    """Writes a model, or an adapter with the config of its base, from its own state or a part of `state_dict`."""
    arguments: dict[str, Any] = {}
    if state_dict is not None:
        arguments["state_dict"] = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    model.save_pretrained(str(folder), **arguments)
    if model is not bare(model):
        bare(model).config.save_pretrained(str(folder))


def restore_pretrained(model: PreTrainedModel | PeftModel, folder: str | Path) -> None:
    """Takes back into `model` what `save_pretrained` wrote.

    Raises ValueError where the folder does not hold all of it.
    """
    from safetensors.torch import load_file

    if model is not bare(model):
        from peft import set_peft_model_state_dict

        state = load_file(Path(folder) / "adapter_model.safetensors")
        set_peft_model_state_dict(model, state)
        return
    saved = type(model).from_pretrained(str(folder), config=model.config, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
