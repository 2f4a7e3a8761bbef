"""Loading a model for training or scoring: its options, its adapter, and whether it can be packed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForTokenClassification

from qstep.data import check_model_name
from qstep.extras import missing
from qstep.models.logps import finished_logits
from qstep.models.packing import PACKED_ATTENTION, collate_groups, moved, packed_hidden
from qstep.runs.options import Options, ReadIf
from qstep.runs.shared_options import ModelName
from qstep.types import Dtype

if TYPE_CHECKING:
    from peft import LoraConfig

_log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_HEADS = ("score", "classifier")
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
    lora_r: Annotated[int, _PEFT] = 16
    lora_alpha: Annotated[int, _PEFT] = 32
    lora_dropout: Annotated[float, _PEFT] = 0.0
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


def load_token_classifier(
    path: str | Path | None,
    config: PretrainedConfig,
    *,
    head: Callable[[PretrainedConfig], nn.Module] | None = None,
    complete: bool = False,
    **arguments: Any,
) -> PreTrainedModel:
    """An `AutoModelForTokenClassification`. If transformers has none for a family, an equivalent class is made.

    Args:
        head: makes a module that replaces the linear head; it is called `score`.
        complete: read safetensors only, and refuse a checkpoint that lacks weights; no head is initialised.
    """
    config = without_dropout(config)
    classes: Any = AutoModelForTokenClassification._model_mapping
    model_class = classes[type(config)] if type(config) in classes else _token_classifier(config)
    # A Q has more digits than half precision holds, so the head stays in fp32 whatever the trunk's dtype.
    kept = {*(model_class._keep_in_fp32_modules_strict or ()), "score", "classifier"}
    members: dict[str, Any] = {"_keep_in_fp32_modules_strict": kept, "__module__": model_class.__module__}
    if head is not None:

        def with_head(self: Any, config: PretrainedConfig) -> None:
            model_class.__init__(self, config)
            self.score = head(config)

        members["__init__"] = with_head
    exact: Any = type(model_class.__name__, (model_class,), members)
    if complete:
        arguments |= {"use_safetensors": True, "ignore_mismatched_sizes": True}  # without this the error says less
        model, found = exact.from_pretrained(path, config=config, output_loading_info=True, **arguments)
        lacking = sorted(found["missing_keys"]) + sorted(name for name, *_ in found["mismatched_keys"])
        if lacking:
            raise ValueError(
                f"{path} lacks {', '.join(lacking)}, or has it in another size. It is not a scorer of this kind, or is "
                "another release of one"
            )
    else:
        with _own_report(*(f"{name}." for name in _HEADS)) as found:
            model, told = exact.from_pretrained(path, config=config, output_loading_info=True, **arguments)
            found.update(told["missing_keys"])
    return _finished(model)


def token_classifier_of(model: PreTrainedModel) -> PreTrainedModel:
    """A token classifier as it is, or one made of a causal language model's trunk, which it shares."""
    if any(hasattr(model, name) for name in _HEADS):
        return _finished(without_dropout_layers(model))
    config = copy.deepcopy(model.config)
    config.num_labels, config.problem_type = 1, "regression"
    return load_token_classifier(None, config, state_dict=model.state_dict(), dtype=model.dtype)


def _finished(model: PreTrainedModel) -> PreTrainedModel:
    pack(model)
    model.get_submodule(head_name(model)).float()  # a fresh one
    return model


@contextmanager
def _own_report(*heads: str) -> Iterator[set[str]]:
    """Says of the weights that are added to the set that they start at random, unless a head has their names.

    transformers' own report, which takes a fresh head for a fault, is shown only where loading fails.
    """
    report: list[logging.LogRecord] = []

    def withheld(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        report.append(record)
        return False

    logger, missing = logging.getLogger("transformers.modeling_utils"), set[str]()
    logger.addFilter(withheld)
    try:
        yield missing
    except BaseException:
        logger.removeFilter(withheld)
        for record in report:
            logger.handle(record)
        raise
    finally:
        logger.removeFilter(withheld)
    if lacking := sorted(name for name in missing if not name.startswith(heads)):
        _log.warning("the model lacks %s, which start at random", ", ".join(lacking))


def _token_classifier(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that transformers would have for this family's token classification."""
    classes: Any = AutoModelForCausalLM._model_mapping
    if type(config) not in classes:
        raise ValueError(f"transformers has no causal language model {config.model_type}: start from another one")
    causal = classes[type(config)]
    family = next(base for base in causal.__mro__ if base.__name__.endswith("PreTrainedModel"))
    name = causal.__name__.replace("ForCausalLM", "") + "ForTokenClassification"
    # The trunk's name within the model is where `from_pretrained` looks for its weights.
    members = {"base_model_prefix": causal.base_model_prefix, "__module__": __name__}
    return type(name, (GenericForTokenClassification, family), members)


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


def head_name(model: PreTrainedModel) -> str:
    """The name of a token classifier's last layer: `score` or `classifier`."""
    return next(name for name in _HEADS if hasattr(model, name))


@torch.no_grad()
def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Lets the model attend within packed batches, after a check that its results stay the same.

    Raises ValueError if they do not, for example because its layers carry a state along the sequence. Also if its
    logits are not what `finished_logits` makes of its output embedding.
    """
    original = model.config._attn_implementation
    if original == PACKED_ATTENTION:
        return model
    training = model.training
    model.eval()
    trunk, tolerance = model.base_model, 1e-3 if model.dtype == torch.float32 else 0.1
    ids = [token % model.config.get_text_config().vocab_size for token in range(11, 18)]
    prompt, responses = ids[:3], [ids[3:5], ids[3:7]]
    hidden_size = model.config.get_text_config().hidden_size
    refusal = f"{type(model).__name__} ({model.config.model_type}) cannot be used:"
    expected = []
    for response in responses:
        inputs = torch.tensor([prompt + response], device=model.device)
        expected.append(trunk(input_ids=inputs, use_cache=False).last_hidden_state[0])
        if expected[-1].shape[-1] != hidden_size:
            raise ValueError(f"{refusal} its last states have {expected[-1].shape[-1]} entries, not {hidden_size}")
        head = model.get_output_embeddings()
        if head is not None:
            logits = finished_logits(model.config.get_text_config(), head(expected[-1]))
            if not _alike(model(input_ids=inputs, use_cache=False).logits[0], logits, tolerance):
                raise ValueError(
                    f"{refusal} its logits are not those of its output embedding, in a way that qstep does not know"
                )
    try:
        model.set_attn_implementation(PACKED_ATTENTION)
        batch = moved(collate_groups([prompt], [responses]), model.device)
        hidden = packed_hidden(trunk, batch)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{refusal} its attention cannot be replaced by attention on packed batches: {error}"
        ) from error
    rows = [torch.cat([hidden[:3], hidden[3:5]]), torch.cat([hidden[:3], hidden[5:9]])]
    if not all(_alike(*pair, tolerance) for pair in zip(expected, rows, strict=True)):
        raise ValueError(f"{refusal} a response's states depend on the other responses of a packed batch")
    model.train(training)
    return model


def _alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).float().norm() <= tolerance * a.float().norm())


def adapter_off(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which a peft model computes what its base does. It changes nothing for other models."""
    peft_model: Any = model
    return peft_model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()


def bare(model: Any) -> PreTrainedModel:
    """The model of transformers inside a peft model, its adapted layers in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
