"""Merging an adapter into its base: the result is a plain checkpoint, which any program can load."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qstep.models.adapters import load_adapter, merged, saved_adapter
from qstep.models.loading import ADAPTER_CONFIG, ModelOptions, load_causal_lm, load_tokenizer
from qstep.models.packing import collate_groups
from qstep.models.policy import VALUE_FILE, PolicyModel, PolicyWithValue
from qstep.models.scorer import ScorerModel, collate_steps


def merge_adapter(folder: str | Path, output: str | Path) -> None:
    """Writes the plain checkpoint that computes what the adapter in `folder` computes on its base model.

    A scorer's step contract, a policy's value function and the tokenizer are copied too. What was written is loaded
    again, and its Qs or log-probabilities are compared with those of the adapter.

    Raises ValueError if the folder holds no adapter, the base model that it names is missing, or the outputs differ.
    """
    if not (Path(folder) / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder} holds no adapter ({ADAPTER_CONFIG}); there is nothing to merge")
    load = _loader(Path(folder))
    model, tokenizer = load(folder), load_tokenizer(folder)
    outputs = _outputs(model, len(tokenizer))
    value = _merged_value(model) if isinstance(model, PolicyWithValue) else None
    adapted: Any = model.pretrained
    merged(adapted).save_pretrained(str(output))
    tokenizer.save_pretrained(str(output))
    if value is not None:
        from safetensors.torch import save_file

        save_file(value, Path(output) / VALUE_FILE)
    del model
    for before, after in zip(outputs, _outputs(load(output), len(tokenizer)), strict=True):
        difference = float((after - before).abs().max() / before.abs().max().clamp(min=1))
        if not difference < _TOLERANCE:
            raise ValueError(f"the merged model computes something else: its outputs differ by {difference:.2g}")


_TOLERANCE = 1e-3
"""The greatest difference of outputs after a merge in float32, relative to the largest."""


def _loader(folder: Path) -> Callable[[str | Path], ScorerModel | PolicyModel]:
    """The function that loads what the adapter in `folder` adapts, and what its merge will be."""
    if saved_adapter(folder).task_type == "TOKEN_CLS":
        return ScorerModel.load
    if (folder / VALUE_FILE).exists():
        return PolicyWithValue.load
    return _load_policy


def _load_policy(folder: str | Path) -> PolicyModel:
    def base(name: str, revision: str | None = None) -> PreTrainedModel:
        return load_causal_lm(ModelOptions(model_name_or_path=name, model_revision=revision))

    return PolicyModel(load_adapter(folder, base) if (Path(folder) / ADAPTER_CONFIG).exists() else base(str(folder)))


@torch.no_grad()
def _outputs(model: ScorerModel | PolicyModel, vocabulary: int) -> list[Tensor]:
    """The Qs, or log-probabilities and values, of 64 tokens from the complete vocabulary."""
    ids = [vocabulary * n // 64 for n in range(64)]
    model.eval()
    if isinstance(model, ScorerModel):
        return [model(collate_steps([ids[:16]], [[ids[16:]]], [[*range(48)]]))]
    outputs = model(collate_groups([ids[:16]], [[ids[16:]]]))
    return [*outputs] if isinstance(outputs, tuple) else [outputs]


@torch.no_grad()
def _merged_value(policy: PolicyWithValue) -> dict[str, Tensor]:
    """The complete state of V. A copy of its trunk is merged, since the policy shares the weights."""
    state = {f"value_head.{name}": tensor for name, tensor in policy.value_head.state_dict().items()}
    if policy.value_trunk is None:
        return state
    from peft.tuners.tuners_utils import BaseTunerLayer

    trunk = deepcopy(policy.value_trunk)
    for layer in trunk.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in trunk.state_dict().items()}
    return state | {f"value_trunk.{name}": tensor for name, tensor in plain.items() if ".lora_" not in name}
