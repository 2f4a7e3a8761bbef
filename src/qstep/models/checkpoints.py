"""What a checkpoint says of itself: its config, and how its weights are stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

_UNPACKED: dict[str, type] = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
"""Ways to store weights that transformers can undo when it loads them."""


def read_config(name: str, **arguments: Any) -> PretrainedConfig:
    """The config of a model's folder or Hub id. `arguments` are those of `from_pretrained`.

    Raises ValueError if a folder has none, or the model is none that writes text from left to right.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} has no config.json: give the folder of a model of transformers")
    config: PretrainedConfig = AutoConfig.from_pretrained(name, **arguments)
    causal: Any = AutoModelForCausalLM._model_mapping
    if type(config) not in causal and "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        raise ValueError(no_causal_model(config))
    return config


def no_causal_model(config: PretrainedConfig) -> str:
    """What is said of a model that transformers has no causal language model of."""
    return f"transformers has no causal language model {config.model_type}: start from another one"


def stored_weights(name: str, config: PretrainedConfig, *, in_4_bits: bool) -> dict[str, Any]:
    """The arguments of `from_pretrained` with which weights that are stored in fewer bits can be trained.

    MXFP4 and FP8 become the type of the other weights. Weights of bitsandbytes stay as they are.

    Raises ValueError for other kinds, or if they are to be stored in 4 bits once more.
    """
    quantization: Any = getattr(config, "quantization_config", None)
    if quantization is None:
        return {}
    kind = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    kind = str(getattr(kind, "value", kind))
    if in_4_bits:
        raise ValueError(f"the weights of {name} are quantized already ({kind}): remove --load_in_4bit")
    if kind == "bitsandbytes":
        return {}
    if kind not in _UNPACKED:
        raise ValueError(f"the weights of {name} are quantized ({kind}) and cannot be trained: give the model in bf16")
    return {"quantization_config": _UNPACKED[kind](dequantize=True)}


@contextmanager
def fitting_weights(name: str) -> Iterator[None]:
    """Raises ValueError for weights whose shapes are not those of the config."""
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"the weights of {name} have other shapes than its config.json says (see above)") from None
