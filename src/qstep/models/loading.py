"""Loads causal language models and tokenizers. Dropout is turned off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from qstep.data import check_model_name
from qstep.extras import missing
from qstep.models.checkpoints import fitting_weights, read_config, stored_weights
from qstep.models.four_bits import four_bits
from qstep.models.packable import pack
from qstep.runs.options import AtLeast1, Bounds, ReadIf
from qstep.runs.shared_options import ChatOptions, ModelName
from qstep.types import Dtype

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")

_MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Families whose fused kernels read the weights of some layers directly, so peft refuses adapters on these."""

_PEFT = ReadIf(use_peft=True)


@dataclass(kw_only=True)
class ModelOptions(ChatOptions):
    """The model to train, completely or with a low-rank adapter. The options have TRL's names.

    Args:
        model_name_or_path: the causal language model to start from: a folder or a Hub id.
        model_revision: branch, tag or commit of a Hub id.
        dtype: type of the weights: float32, bfloat16, float16, or auto for the checkpoint's own.
        trust_remote_code: run the checkpoint's own code. The other commands do not run it, so they refuse such models.
        use_peft: train a LoRA adapter and freeze the model's weights. Needs the extra `peft`,
            `pip install -e '.[peft]'` in a clone of the repository.
        lora_r: rank of the adapter.
        lora_alpha: the adapter's scale is lora_alpha / lora_r.
        lora_dropout: dropout before the adapter.
        lora_target_modules: the linear layers that the adapter changes. The default is all but the head, some routers
            of experts, and in Mamba layers those that fused kernels read.
        use_rslora: scale the adapter by lora_alpha / sqrt(lora_r) (rsLoRA, arXiv 2312.03732).
        use_dora: learn the size of each weight vector apart from its direction (DoRA, arXiv 2402.09353).
        load_in_4bit: keep the frozen weights in 4 bits while training (QLoRA, arXiv 2305.14314). Needs the extra `bnb`.
            The adapter is later merged, scored or sampled on the weights as they were published.
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
    use_rslora: Annotated[bool, _PEFT] = False
    use_dora: Annotated[bool, _PEFT] = False
    load_in_4bit: Annotated[bool, _PEFT] = False

    def lora(
        self, model: PreTrainedModel, task_type: str, modules_to_save: list[str] | None = None
    ) -> LoraConfig | None:
        """The configuration of an adapter on the model; None if all weights are trained.

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
            exclude_modules=None if self.lora_target_modules else _not_adapted(model),
            modules_to_save=modules_to_save,
            task_type=task_type,
            revision=self.model_revision,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )

    def load_arguments(self) -> dict[str, Any]:
        """The arguments of `from_pretrained`.

        Raises ValueError if the model is an adapter, or its name is neither a folder nor a Hub id.
        """
        check_model_name(self.model_name_or_path)
        if (Path(self.model_name_or_path) / ADAPTER_CONFIG).exists():
            raise ValueError(
                f"{self.model_name_or_path} is an adapter. Merge it with `qstep merge`, and give the merged folder"
            )
        return {"revision": self.model_revision, "trust_remote_code": self.trust_remote_code}

    def weights_arguments(self, config: PretrainedConfig) -> dict[str, Any]:
        """The arguments of `from_pretrained` for the weights of a model with this config.

        Raises as `load_arguments`, `four_bits` and `stored_weights` do.
        """
        stored = stored_weights(self.model_name_or_path, config, in_4_bits=self.load_in_4bit)
        return self.load_arguments() | {"dtype": self.dtype} | stored | (four_bits() if self.load_in_4bit else {})

    def as_published(self, model: PreTrainedModel) -> PreTrainedModel:
        """Removes the 4 bits from the model's config, because the adapter is later put on the published weights."""
        if self.load_in_4bit:
            del model.config.quantization_config
        return model


@dataclass(kw_only=True)
class LoadedModel(ModelOptions):
    """A model in memory, to be trained as it is.

    Args:
        model: a causal language model of transformers or, for a scorer, a token classifier.
    """

    model: PreTrainedModel
    model_name_or_path: str = ""


@dataclass(kw_only=True)
class EmptyModel(ModelOptions):
    """A model on the meta device, without weights. Only its config is read."""


def _not_adapted(model: PreTrainedModel) -> list[str] | None:
    """The names of linear layers that have no adapter: in Mamba layers, and routers whose result is not one tensor."""
    names = {"out_proj", "conv1d"} if model.config.model_type in _MAMBA else set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and type(module).__name__.endswith("Router"):
            names.add(name.rpartition(".")[2])
    return sorted(names) or None


def is_scorer(config: PretrainedConfig) -> bool:
    """Whether a checkpoint is a step scorer: its config has a step contract."""
    return isinstance(getattr(config, "qstep", None), dict)


def load_causal_lm(options: ModelOptions, **arguments: Any) -> PreTrainedModel:
    """Loads a causal language model without dropout.

    Args:
        arguments: further arguments of `from_pretrained`.

    Raises:
        ValueError: qstep cannot compute the model's layers or logits. The message says which.
    """
    if isinstance(options, LoadedModel):
        if is_scorer(options.model.config):
            raise ValueError("the model is a step scorer; give a causal language model")
        return pack(without_dropout_layers(options.model))
    config = read_config(options.model_name_or_path, **options.load_arguments())
    if is_scorer(config):
        raise ValueError(f"{options.model_name_or_path} is a step scorer; give a causal language model")
    if isinstance(options, EmptyModel):
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(
                without_dropout(config),
                dtype=dtype_of(config, options),
                trust_remote_code=options.trust_remote_code,
            )
        return pack(empty)
    with fitting_weights(options.model_name_or_path):
        model = AutoModelForCausalLM.from_pretrained(
            options.model_name_or_path,
            config=without_dropout(config),
            **options.weights_arguments(config),
            **arguments,
        )
    return options.as_published(pack(model))


def dtype_of(config: PretrainedConfig, options: ModelOptions) -> torch.dtype:
    """The type of a model's weights."""
    named = config.dtype if options.dtype == "auto" else options.dtype
    return named if isinstance(named, torch.dtype) else getattr(torch, named or "float32")


def load_tokenizer(name: str | Path, **arguments: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id.

    Raises ValueError for a folder without a tokenizer, or a name that is neither a folder nor a Hub id, and OSError if
    the Hub does not give it.
    """
    check_model_name(name)
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ValueError(
            f"{name} has no tokenizer ({', '.join(_TOKENIZER_FILES)}). Copy it from the model it was trained from"
        )
    try:
        return AutoTokenizer.from_pretrained(name, **arguments)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{name} is not a folder here. As a Hub id it was not reached: {reason}") from error


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """Sets every dropout of a config to 0, in place, so that Qs are the same in training and in use."""
    text = config.get_text_config()
    for name, value in vars(text).items():
        if ("dropout" in name or "pdrop" in name or name == "layerdrop") and isinstance(value, float):
            setattr(text, name, 0.0)
    if "classifier_dropout" in vars(text) or hasattr(text, "classifier_dropout"):
        text.classifier_dropout = 0.0
    return config


def without_dropout_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Sets a model's dropout to 0, in place: in its config, and in its layers with the values they read from it."""
    without_dropout(model.config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def adapter_off(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which a peft model computes as its base model does. Other models are unchanged."""
    peft_model: Any = model
    return peft_model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def bare(model: Any) -> PreTrainedModel:
    """The model of transformers inside a peft model. Its adapted layers stay in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
