"""The memory and the work of a training step, found without computing it.

A model of fake tensors runs forward and backward. They have shapes and types but no values, so no weights are read, and
no memory is allocated.
"""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from qstep.models.attention import NotPassedOn, packed_attention
from qstep.models.loading import bare
from qstep.models.logps import token_logps_and_entropies
from qstep.models.packing import PACKED_ATTENTION, Packing, is_packed, states_of
from qstep.models.padding import caches_attention_only
from qstep.models.policy import PolicyWithValue
from qstep.models.pretrained import PretrainedModule
from qstep.models.scorer import ScorerModel
from qstep.models.sharding import call_once, decoder_layers

_BITS_4 = 0.516
"""Bytes of a weight in NF4, with its double-quantized scales."""

_COLLECTED_EVERY = 400
"""Operations between two collections of garbage."""


@dataclass(frozen=True)
class Simulated:
    """What a training step takes. Memory is in bytes.

    parameters, trained: numbers of parameters. weights, gradients, states: memory of the weights, of their gradients,
    and of the optimizer's states. peak: greatest memory of activations, temporary results and gradients together.
    outside: weights outside the decoder layers. layer: weights of the largest decoder layer. forward, flops:
    floating-point operations of a forward pass, and of forward and backward. tokens: tokens of the batch. packed:
    whether its rows are packed.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    states: int
    peak: int
    outside: int
    layer: int
    forward: int
    flops: int
    tokens: int
    packed: bool


def simulate(
    module: PretrainedModule,
    packing: Packing,
    read: int,
    *,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    bf16: bool = False,
    in_4_bits: bool = False,
    sharded: bool = False,
    one_kernel: bool = False,
) -> Simulated:
    """A training step of a module of the meta device on the segments of a batch. The module cannot be used afterwards.

    Args:
        read: the number of states that the loss reads: response tokens of a policy, steps of a scorer.
        optimizer: makes the optimizer of parameters.
        bf16: mixed precision.
        in_4_bits: whether the frozen linear layers of the decoder are in 4 bits.
        sharded: whether a layer's weights and gradients are complete only while it is computed. `peak` has no others.
        one_kernel: whether one operation computes the attention of all segments, as on a GPU.

    Raises ValueError for a family whose layers depend on the values of tensors.
    """
    packing = Packing(packing.lengths, packing.prompt_of)  # without masks, which have values
    with FakeTensorMode():
        _replace_tensors(module)
        _pad_if_not_packable(module)
        module.train()
        layers = [layer for network in module.networks() for layer in decoder_layers(network)]
        inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
        outside = [parameter for parameter in module.parameters() if id(parameter) not in inside]
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        sizes = {
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "trained": sum(parameter.numel() for parameter in trained),
            "weights": _bytes(module.parameters()) - (_saved_by_4_bits(layers) if in_4_bits else 0),
            "gradients": _bytes(trained),
            "states": _states(optimizer, trained),
            "outside": _bytes(outside),
        }
        if sharded:
            call_once(module)
            for layer in layers if bf16 else ():
                _replace_tensors(layer, torch.bfloat16)
            for parameter in itertools.chain.from_iterable(layer.parameters() for layer in layers):
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(_drop_gradient)
        recomputes = any(network.is_activation_checkpointing for network in module.networks())
        memory = _Memory(module, recomputes=recomputes)
        flops = FlopCounterMode(display=False, custom_mapping=_flops(packing))
        try:
            with (
                _Experts(),
                _attention_at_once() if one_kernel else nullcontext(),
                memory,
                flops,
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            ):
                loss = _loss(module, packing, read)
                forward = flops.get_total_flops()
                loss.backward()
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ValueError(
                f"{module.config.model_type} cannot be planned: its layers read values, and a plan has none ({error})"
            ) from None
    return Simulated(
        **sizes,
        peak=memory.peak,
        layer=max((_bytes(layer.parameters()) for layer in layers), default=0),
        forward=forward,
        flops=flops.get_total_flops(),
        tokens=sum(packing.lengths),
        packed=is_packed(module.trunk),
    )


def _replace_tensors(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Puts fake tensors of the CPU in the place of a module's own. What is shared stays shared.

    dtype: that of the new ones; None keeps it.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    kept = [*module.parameters(), *module.buffers()]  # so that no id is used twice
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = fake(tensor)  # type: ignore[assignment]
    del kept


@torch.no_grad()
def _pad_if_not_packable(module: PretrainedModule) -> None:
    """Lets a model compute padded batches if its layers do not give its attention a packed one."""
    packed: Any = bare(module.pretrained)
    try:
        with _Experts():
            _hidden(module.trunk, Packing([2, 1], [0, 0]))
    except NotPassedOn:
        for network in module.networks():
            network.set_attn_implementation(packed.unpacked_attention)
        part: Any
        for part in module.modules():
            if hasattr(part, "shares_prompts"):
                part.shares_prompts = caches_attention_only(module.config)


def _loss(module: Any, packing: Packing, read: int) -> Tensor:
    states = _hidden(module.trunk, packing).index_select(0, torch.zeros(read, dtype=torch.long))
    if isinstance(module, ScorerModel):
        return module.read(states).sum()
    logps, _ = token_logps_and_entropies(bare(module.pretrained), states, torch.zeros(read, dtype=torch.long))
    loss = logps.sum()
    if isinstance(module, PolicyWithValue):
        if module.value_trunk is not None:
            states = _hidden(module.value_trunk, packing).index_select(0, torch.zeros(read, dtype=torch.long))
        with torch.autocast("cpu", enabled=False):
            loss = loss + module.value_head(states.float()).sum()
    return loss


def _hidden(trunk: nn.Module, packing: Packing) -> Tensor:
    return states_of(trunk, torch.zeros(sum(packing.lengths), dtype=torch.long), packing)


def _states(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], parameters: list[nn.Parameter]) -> int:
    """The memory of an optimizer's states, which it makes in its first step."""
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer = make(parameters)
    optimizer.step()
    optimizer.zero_grad()
    values = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return _bytes(values)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _saved_by_4_bits(layers: list[nn.Module]) -> int:
    weights = [
        module.weight
        for layer in layers
        for module in layer.modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    return round(_bytes(weights) - _BITS_4 * sum(weight.numel() for weight in weights))


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _attention_at_once() -> Iterator[None]:
    """Computes the attention of all segments in one operation."""
    AttentionInterface.register(PACKED_ATTENTION, _one_operation)
    try:
        yield
    finally:
        AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _one_operation(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """`packed_attention` in shape, work and memory."""
    packing: Packing | None = options.get("packing")
    shaped = options.get("softcap") is not None or options.get("s_aux") is not None
    if packing is None or shaped or query.shape[-1] != value.shape[-1]:  # torch has no kernel for these
        return packed_attention(module, query, key, value, attention_mask, **options)
    seen = packing.spans(query.device).key_positions  # a prompt's keys are copied for each of its responses
    query, key = query.to(value.dtype), key.to(value.dtype).index_select(2, seen)
    grouped = key.shape[1] != query.shape[1]
    found = F.scaled_dot_product_attention(query, key, value.index_select(2, seen), enable_gqa=grouped)
    return found.transpose(1, 2).contiguous(), None


class _Experts(TorchDispatchMode):
    """Gives the products of experts their shapes in every precision. torch's own shapes are for bf16 only."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right, *_ = args
        groups = {(2, 2): args[2:3] or [(kwargs or {})["offs"]], (3, 3): [left]}.get((left.dim(), right.dim()), [])
        shape = [*(group.shape[0] for group in groups), left.shape[-2], right.shape[-1]]
        return torch.empty(shape, dtype=left.dtype)


class _Memory(TorchDispatchMode):
    """Counts the memory of tensors made inside. peak: the most at one time, in bytes.

    module: its own tensors, and views of them, are not counted. recomputes: whether activations are recomputed. With
    fake tensors this leaves cycles, which are collected.
    """

    def __init__(self, module: nn.Module, *, recomputes: bool = False) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.now = self.peak = self.operations = 0
        self.seen = WeakIdKeyDictionary()
        for tensor in (*module.parameters(), *module.buffers()):
            self.seen[tensor.untyped_storage()] = 0

    def __enter__(self) -> _Memory:
        gc.collect()
        gc.freeze()  # what was there before is not searched again and again
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        gc.unfreeze()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.recomputes and self.operations % _COLLECTED_EVERY == 0:
            gc.collect()
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            size = storage.nbytes()
            self.seen[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _flops(packing: Packing) -> dict[Any, Callable[..., int]]:
    """`FLOPS`, where attention between all tokens of a batch stands for that within its segments."""
    keys = [start + length for start, length in zip(packing.starts, packing.lengths, strict=True)]
    tokens, seen = sum(packing.lengths), sum(keys)
    products = sum(length * key for length, key in zip(packing.lengths, keys, strict=True))

    def within(counted: Callable[..., int], first: int) -> Callable[..., int]:
        def count(*shapes: Any, **_: Any) -> int:
            flops = counted(*shapes)
            at_once = (shapes[first][2], shapes[first + 1][2]) == (tokens, seen)
            return flops * products // (tokens * seen) if at_once else flops

        return count

    return {**FLOPS, _ATTENTION: within(_attention, 0), _ATTENTION_BACKWARD: within(_attention_backward, 1)}


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    flops: int = sdpa_backward_flop_count(gradient, query, key, value)
    return flops


def _experts(left: Any, right: Any, *_: Any, **__: Any) -> int:
    rows = math.prod(left) if len(right) == 3 or len(left) == 2 else math.prod(left[-2:])
    return 2 * rows * int(right[-1])


FLOPS: dict[Any, Callable[..., int]] = {
    _ATTENTION: _attention,
    _ATTENTION_BACKWARD: _attention_backward,
    torch.ops.aten._grouped_mm: _experts,
}
"""The work of operations that the counter of torch does not know."""
