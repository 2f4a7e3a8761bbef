"""Loading a causal language model and its tokenizer: the options, no dropout, and the model inside an adapter."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from qstep.data import check_model_name
from qstep.extras import missing
from qstep.models.packable import pack
from qstep.runs.options import AtLeast1, Bounds, Options, ReadIf
from qstep.runs.shared_options import ModelName
from qstep.types import Dtype

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")

_PEFT = ReadIf(use_peft=True)


@dataclass(kw_only=True)
class ModelOptions(Options):
    """Which model to train, and whether all of it or a low-rank adapter (TRL's names).

    Args:
        model_name_or_path: the causal language model to start from: a folder or a Hub id.
        model_revision: branch, tag or commit of a Hub id.
        dtype: type of the weights: float32, bfloat16, float16, or auto for the checkpoint's own.
        trust_remote_code: run code that comes with the checkpoint.
        use_peft: train a LoRA adapter on frozen weights instead of the weights; needs the extra `peft`,
            `pip install -e '.[peft]'` in a clone of the repository.
        lora_r: rank of the adapter.
        lora_alpha: its scale is lora_alpha / lora_r.
        lora_dropout: dropout before the adapter.
        lora_target_modules: the linear layers it changes; all but the head by default.
    """

    GROUP = "model options"

    model_name_or_path: ModelName
    model_revision: str | None = None
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    use_peft: bool = False
    lora_r: Annotated[AtLeast1, _PEFT] = 16
    lora_alpha: Annotated[AtLeast1, _PEFT] = 32
    lora_dropout: Annotated[float, Bounds(least=0, below=1), _PEFT] = 0.0
    lora_target_modules: Annotated[list[str] | None, _PEFT] = None

    def lora(self, task_type: str, modules_to_save: list[str] | None = None) -> LoraConfig | None:
        """The adapter's configuration; None if all weights are trained.

        Raises ValueError if peft is not installed and an adapter is requested.
        """
        if not self.use_peft:
            return None
        try:
            from peft import LoraConfig
        except ImportError:
            raise missing("--use_peft", "peft", "peft") from None
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules or "all-linear",
            modules_to_save=modules_to_save,
            task_type=task_type,
            revision=self.model_revision,
        )

    def load_arguments(self) -> dict[str, Any]:
        """The arguments of `from_pretrained`.

        Raises ValueError where the model is an adapter without its base, or its name is neither a folder nor a Hub id.
        """
        check_model_name(self.model_name_or_path)
        if (Path(self.model_name_or_path) / ADAPTER_CONFIG).exists():
            raise ValueError(
                f"{self.model_name_or_path} is an adapter: make a plain checkpoint from it with `qstep merge` first"
            )
        return {"revision": self.model_revision, "trust_remote_code": self.trust_remote_code}


@dataclass(kw_only=True)
class LoadedModel(ModelOptions):
    """A model that is in memory already, to be trained as it is.

    Args:
        model: a causal language model of transformers or, for a scorer, a token classifier.
    """

    model: PreTrainedModel
    model_name_or_path: str = ""


def is_scorer(config: PretrainedConfig) -> bool:
    """Whether a checkpoint is a step scorer: it carries a step contract."""
    return isinstance(getattr(config, "qstep", None), dict)


def load_causal_lm(options: ModelOptions, **arguments: Any) -> PreTrainedModel:
    """A causal language model to train or to take log-probabilities from, without dropout.

    Args:
        arguments: further arguments of `from_pretrained`.

    Raises:
        ValueError: qstep cannot compute its layers or its logits; the message says which.
    """
    if isinstance(options, LoadedModel):
        if is_scorer(options.model.config):
            raise ValueError("the model is a step scorer; give a causal language model")
        return pack(without_dropout_layers(options.model))
    config = AutoConfig.from_pretrained(options.model_name_or_path, **options.load_arguments())
    if is_scorer(config):
        raise ValueError(f"{options.model_name_or_path} is a step scorer; give a causal language model")
    model = AutoModelForCausalLM.from_pretrained(
        options.model_name_or_path,
        config=without_dropout(config),
        dtype=options.dtype,
        **options.load_arguments(),
        **arguments,
    )
    return pack(model)


def load_tokenizer(name: str | Path, **arguments: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id.

    Raises ValueError for a folder without one, and a name that is neither a folder nor a Hub id.
    """
    check_model_name(name)
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ValueError(
            f"{name} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}): copy it from the model it was trained from"
        )
    return AutoTokenizer.from_pretrained(name, **arguments)


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """The config with every dropout at 0, in place: a Q-value is one number, the same in training and in use."""
    text = config.get_text_config()
    for name, value in vars(text).items():
        if ("dropout" in name or "pdrop" in name or name == "layerdrop") and isinstance(value, float):
            setattr(text, name, 0.0)
    if "classifier_dropout" in vars(text) or hasattr(text, "classifier_dropout"):
        text.classifier_dropout = 0.0
    return config


def without_dropout_layers(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its dropout at 0, in place: in its config, its layers, and what they have read of the config."""
    without_dropout(model.config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def adapter_off(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which a peft model computes what its base does. It changes nothing for other models."""
    peft_model: Any = model
    return peft_model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def bare(model: Any) -> PreTrainedModel:
    """The model of transformers inside a peft model, its adapted layers in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
