"""Merging an adapter into its base: the result is a plain checkpoint, which any program can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qstep.models.adapters import load_adapter, saved_adapter
from qstep.models.loading import ADAPTER_CONFIG, ModelOptions, load_causal_lm, load_tokenizer
from qstep.models.policy import VALUE_FILE, PolicyWithValue
from qstep.models.scorer import ScorerModel


def merge_adapter(folder: str | Path, output: str | Path) -> None:
    """Writes the plain checkpoint that computes what the adapter in `folder` computes on its base model.

    A scorer's step contract, a policy's value function and the tokenizer are copied too.

    Raises ValueError if the folder holds no adapter, or the base model that it names is missing.
    """
    if not (Path(folder) / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder} holds no adapter ({ADAPTER_CONFIG}); there is nothing to merge")
    value: dict[str, Tensor] | None = None
    if saved_adapter(folder).task_type == "TOKEN_CLS":
        model: Any = ScorerModel.load(folder).pretrained
    elif (Path(folder) / VALUE_FILE).exists():
        policy = PolicyWithValue.load(folder)
        value, model = _merged_value(policy), policy.pretrained
    else:
        model = load_adapter(
            folder,
            lambda base, revision: load_causal_lm(ModelOptions(model_name_or_path=base, model_revision=revision)),
        )
    model.merge_and_unload().save_pretrained(str(output))
    load_tokenizer(folder).save_pretrained(str(output))
    if value is not None:
        from safetensors.torch import save_file

        save_file(value, Path(output) / VALUE_FILE)


@torch.no_grad()
def _merged_value(policy: PolicyWithValue) -> dict[str, Tensor]:
    """The complete state of V: its adapter is added to copies of the weights, since the policy shares these."""
    state = {f"value_head.{name}": tensor for name, tensor in policy.value_head.state_dict().items()}
    if policy.value_trunk is None:
        return state
    weights = policy.value_trunk.state_dict()
    layers: dict[str, nn.Module] = dict(policy.value_trunk.named_modules())
    for name, tensor in weights.items():
        if ".lora_" in name:
            continue
        owner, _, kind = name.rpartition(".")
        plain = name.replace(".base_layer.", ".")
        layer: Any = layers.get(owner.removesuffix(".base_layer"))
        changed = owner.endswith(".base_layer") and kind == "weight"
        delta = layer.get_delta_weight("default") if changed else 0
        state[f"value_trunk.{plain}"] = (tensor + delta).contiguous()
    return state
