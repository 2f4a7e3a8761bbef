"""Low-rank adapters (peft) on models of transformers: adding, saving, restoring and merging them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from qstep.extras import missing
from qstep.models.loading import ADAPTER_CONFIG, bare
from qstep.models.sharding import shards_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def adapted(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """The model with a new adapter; its own weights are frozen. A base in a folder is recorded by its absolute path."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's own name
        peft_model = get_peft_model(model, lora)
    base = Path(str(model.name_or_path))
    if base.is_dir():
        peft_model.peft_config["default"].base_model_name_or_path = str(base.resolve())
    return peft_model


def saved_adapter(folder: str | Path) -> LoraConfig:
    """The configuration of a saved adapter, in a form that can be trained.

    Raises ValueError if peft is not installed, or the adapter is not a LoRA adapter.
    """
    try:
        from peft import LoraConfig, PeftConfig
    except ImportError:
        raise missing(f"the adapter in {folder}", "peft", "peft") from None
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{Path(folder) / ADAPTER_CONFIG} is a {type(config).__name__}; qstep supports LoRA only")
    config.inference_mode = False
    return config


def base_of(folder: str | Path) -> tuple[str, str | None]:
    """The base model that a saved adapter names, and its revision.

    Raises ValueError if it names no model, or a folder that does not exist.
    """
    config = saved_adapter(folder)
    base = config.base_model_name_or_path
    if not base or (Path(base).is_absolute() and not Path(base).is_dir()):
        raise ValueError(
            f"{Path(folder) / ADAPTER_CONFIG}: the adapter's base model {base!r} was not found. Restore that folder"
        )
    return base, config.revision


def load_adapter(folder: str | Path, load_base: Callable[[str, str | None], PreTrainedModel]) -> PeftModel:
    """A saved adapter on its base model, at the revision that it names. Raises as `base_of` does.

    The generation config is the adapter's, if it has one.
    """
    base = load_base(*base_of(folder))
    _take_generation_config(base, folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(base, str(folder))


def merged(model: PeftModel) -> PreTrainedModel:
    """The model with its adapter added to the weights.

    In some models the input embeddings and the head are one matrix. If the adapter changes one of them, they become two
    matrices, and the model's config says so.
    """
    inner: Any = bare(model)
    embeddings, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    is_changed = any(hasattr(layer, "base_layer") for layer in (embeddings, head))
    if head is not None and is_changed and inner.config.get_text_config().tie_word_embeddings:
        layer = getattr(head, "base_layer", head)
        layer.weight = nn.Parameter(layer.weight.detach().clone())
        inner.config.tie_word_embeddings = inner.config.get_text_config().tie_word_embeddings = False
    whole: Any = model
    return whole.merge_and_unload()


def save_pretrained(
    model: PreTrainedModel | PeftModel, folder: str | Path, state_dict: dict[str, Tensor] | None, prefix: str
) -> None:
    """Writes a model, or an adapter with its base's configs. If `state_dict` is given, weights come from it."""
    arguments: dict[str, Any] = {}
    if state_dict is not None:
        arguments["state_dict"] = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    model.save_pretrained(str(folder), **arguments)
    if model is not bare(model):
        bare(model).config.save_pretrained(str(folder))
        if bare(model).can_generate():
            bare(model).generation_config.save_pretrained(str(folder))


def _take_generation_config(model: PreTrainedModel, folder: str | Path) -> None:
    """Training may have added the end of a turn to the ends of a response that an adapter's base has."""
    if (Path(folder) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))


def restore_pretrained(model: PreTrainedModel | PeftModel, folder: str | Path) -> None:
    """Loads into `model` what `save_pretrained` wrote.

    Raises ValueError if the folder lacks some of it.
    """
    from safetensors.torch import load_file

    if model is not bare(model):
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        state = load_file(Path(folder) / "adapter_model.safetensors")
        set_peft_model_state_dict(model, shards_of(state, get_peft_model_state_dict(model)))
        _take_generation_config(bare(model), folder)
        return
    # fp32 represents all saved dtypes exactly, as for a head in fp32 on a trunk in bf16.
    saved = type(model).from_pretrained(str(folder), config=model.config, dtype=torch.float32)
    model.load_state_dict(shards_of(saved.state_dict(), model.state_dict()))
