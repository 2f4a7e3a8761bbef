"""Token classifiers, the models of step scorers: loaded, or made of a causal language model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GenericForTokenClassification

from qstep.models.checkpoints import no_causal_model
from qstep.models.loading import without_dropout, without_dropout_layers
from qstep.models.packable import pack
from qstep.models.packing import trunk_of

_log = logging.getLogger(__name__)

_HEADS = ("score", "classifier")


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
    exact = _class_of(config, head)
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
            model, report = exact.from_pretrained(path, config=config, output_loading_info=True, **arguments)
            found.update(report["missing_keys"])
    return _finished(model)


def empty_token_classifier(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A token classifier on the meta device, without weights."""
    with torch.device("meta"):
        model: PreTrainedModel = _class_of(without_dropout(config))._from_config(config, dtype=dtype)
    return _finished(model)


def _class_of(config: PretrainedConfig, head: Callable[[PretrainedConfig], nn.Module] | None = None) -> Any:
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
    return type(model_class.__name__, (model_class,), members)


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
        raise ValueError(no_causal_model(config))
    causal = classes[type(config)]
    family = next(base for base in causal.__mro__ if base.__name__.endswith("PreTrainedModel"))
    name = causal.__name__.replace("ForCausalLM", "") + "ForTokenClassification"
    with torch.device("meta"):
        whole = causal(config)
    trunk = trunk_of(whole)
    prefix = next(name for name, module in whole.named_children() if module is trunk)
    members = {
        "base_model_prefix": prefix,  # where `from_pretrained` looks for the trunk's weights
        "__module__": causal.__module__,  # transformers would not initialise the buffers of custom code
    }
    return type(name, (GenericForTokenClassification, family), members)


def head_name(model: PreTrainedModel) -> str:
    """The name of a token classifier's last layer: `score` or `classifier`."""
    return next(name for name in _HEADS if hasattr(model, name))
