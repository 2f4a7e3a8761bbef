"""Weights that are divided among the processes of a training (FSDP2 of torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from qstep.processes import here

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qstep.models.pretrained import PretrainedModule

NO_4_BITS = "--load_in_4bit does not work with --fsdp: remove one of them"

_CALLED = ("policy_logps", "surprises", "q_of_tokens")
"""Methods that are called instead of `forward`. They too need complete weights."""


def shard(model: PretrainedModule, device: torch.device, *, reshard_after_forward: bool, bf16: bool = False) -> None:
    """Divides the weights of a model among all processes. Called by all.

    A layer is complete only while it is computed. Embeddings, the last norm and the heads are complete in the whole
    forward and backward pass. If a policy and its value network share frozen weights, each gets its own shares of them.

    bf16: a complete layer is in bf16, for mixed precision. Autocast would keep a copy of all layers in bf16, on each
    process, until the pass ends.

    Raises ValueError for weights in 4 bits.
    """
    if any(type(parameter).__name__ == "Params4bit" for parameter in model.parameters()):
        raise ValueError(NO_4_BITS)
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if bf16 else {}
    policy = MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (get_world_size(),))
    taken: set[int] = set()
    call_once(model)
    for network in model.networks():
        for layer in decoder_layers(network):
            _make_own(layer, taken)
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    for name in _CALLED:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def call_once(model: nn.Module) -> None:
    """Lets padded batches call each network once, as all processes have to call a model equally often."""
    module: Any
    for module in model.modules():
        if hasattr(module, "is_called_once"):  # `pack` has prepared it
            module.is_called_once = True


def decoder_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model of transformers."""
    names = set(network._no_split_modules or ())
    return [module for module in network.modules() if type(module).__name__ in names]


def _make_own(layer: nn.Module, taken: set[int]) -> None:
    """Gives a layer parameters of its own in place of those that an earlier layer has. Their values stay the same."""
    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in taken:
                setattr(module, name, nn.Parameter(parameter.data, requires_grad=parameter.requires_grad))
    taken.update(map(id, layer.parameters()))


def reshard(model: nn.Module) -> None:
    """Divides the weights that a forward pass without gradient left complete."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full_tensor(value: Any) -> Any:
    """A complete tensor in place of a divided one. Called by all processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A nested state with complete tensors, on the CPU of the first process. Called by all processes.

    Elsewhere its tensors are None. On a device, one tensor at a time is complete. What is one tensor in `state` is one
    in the result.
    """
    first = here()[0] == 0
    taken: dict[int, Tensor | None] = {}

    def take(value: Tensor) -> Tensor | None:
        if id(value) not in taken:
            complete = full_tensor(value.detach())
            taken[id(value)] = complete.cpu() if first else None
        return taken[id(value)]

    found: dict[str, Any] = tree_map_only(Tensor, take, dict(state))
    return found


def shard_of(value: Any, like: Any) -> Any:
    """This process's share of a complete tensor, if `like` is divided. Other values stay as they are."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def shards_of(state: Mapping[str, Tensor], like: Mapping[str, Any]) -> dict[str, Tensor]:
    """This process's shares of a model's complete state, divided as the state `like` is."""
    return {name: shard_of(value, like.get(name)) for name, value in state.items()}
