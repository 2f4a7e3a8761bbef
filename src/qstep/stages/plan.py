"""`qstep plan train METHOD ...`: the memory, the work and the time of a training, before it is started."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from qstep.models import PretrainedModule
from qstep.models.inference import hide_loading_bars
from qstep.models.loading import EmptyModel, ModelOptions, load_tokenizer
from qstep.models.packing import Packing
from qstep.models.sharding import NO_4_BITS
from qstep.models.simulated import Simulated, simulate
from qstep.objectives import METHODS
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.objective import Objective
from qstep.objectives.responses import collate_rows
from qstep.objectives.source import RowsFile
from qstep.runs.fsdp_settings import check_processes
from qstep.runs.hardware import GIB, Hardware
from qstep.runs.progress import say
from qstep.stages.train import TrainInputs
from qstep.trainers import precision
from qstep.trainers.arguments import check_evaluation, check_positions
from qstep.trainers.batches import step_sampler
from qstep.words import counted

KIND = "plan"
"""What a file of a plan calls itself."""

_MEASURED_S = 1.0
"""How long products of matrices are timed."""

_CPU_MFU = {False: 0.6, True: 0.25}
"""The part of this rate that a training reaches on CPUs, without and with `--bf16`, as in the file below."""
_CPU_PROCESS, _CPU_UNUSED = 0.45 * GIB, 0.25
"""Memory of Python and torch, and what the allocator holds beyond activations (`benchmarks/results/plan.json`)."""


@dataclass(frozen=True)
class Plan:
    """A plan. Memory is per device, in bytes. rate: FLOP/s of a device in the training's precision."""

    method: str
    devices: int
    hardware: Hardware
    step: Simulated
    rows: int
    items: int
    steps: int
    rate: float
    tokens: float
    flops: float
    memory: dict[str, float]

    @property
    def total(self) -> float:
        """Memory per device."""
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        return self.flops / (self.devices * self.rate * self.hardware.mfu) / 3600

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "kind": KIND,
            "method": self.method,
            "hardware": self.hardware.name,
            "devices": self.devices,
            "parameters": self.step.parameters,
            "trained_parameters": self.step.trained,
            "batches": "packed" if self.step.packed else "padded",
            "rows": self.rows,
            "optimizer_steps": self.steps,
            "tokens_of_largest_batch": self.step.tokens,
            "tokens": round(self.tokens),
            "flops": self.flops,
            "hours": self.hours,
            "memory_gib": {name: value / GIB for name, value in self.memory.items()},
            "total_gib": self.total / GIB,
            "device_gib": self.hardware.memory / GIB,
        }


def is_plan(path: Path) -> bool:
    """Whether a file is a plan of an earlier run."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def plan(
    method: str, inputs: TrainInputs, config: GroupConfig, hardware: Hardware | None = None, devices: int = 1
) -> Plan:
    """The plan of a training on devices of a kind; None is the CPUs of this machine.

    The model's config, the tokenizer and the rows are read, its weights are not. Raises ValueError as training does for
    rows and options.
    """
    hide_loading_bars()
    check_plan(inputs, config, devices)
    tokenizer = inputs.with_chat(load_tokenizer(inputs.model_name_or_path, **inputs.load_arguments()))
    objective = METHODS[method].objective(config, tokenizer)
    source = RowsFile(inputs.train_file, columns=inputs.columns)
    objective.check(source)
    dataset = objective.rows(source)
    order = step_sampler(dataset, config, training=True, processes=devices)
    parts = map(_items, chain.from_iterable(order))
    estimated, largest = max((int(dataset.lengths[part].sum()), part) for part in parts)
    items = [dataset[item] for item in largest]
    module = _module(objective, inputs, config, on_cpu=hardware is None)
    check_positions(config, module)
    is_policy = METHODS[method].kind == "policy"
    batch: Any = collate_rows(tokenizer, items) if is_policy else objective.collate(items)
    step = simulate(
        module,
        Packing.of(batch),
        int(batch["response_mask"].sum() if is_policy else (batch["step_ends"] >= 0).sum()),
        optimizer=partial(_optimizer, config),
        bf16=config.bf16,
        in_4_bits=inputs.load_in_4bit,
        sharded=config.fsdp,
        one_kernel=hardware is not None,
    )
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * order.steps)
    tokens = float(dataset.lengths.sum()) / estimated * step.tokens * steps / order.steps
    device = hardware or _this_machine(bf16=config.bf16 or inputs.dtype == "bfloat16")
    return Plan(
        method=method,
        devices=devices,
        hardware=device,
        step=step,
        rows=len(dataset.rows),
        items=len(dataset),
        steps=steps,
        rate=_rate(device, inputs, config),
        tokens=tokens,
        flops=_work(objective, dataset, step, tokens, steps / order.steps),
        memory=_memory(step, devices, device, sharded=config.fsdp),
    )


def check_plan(inputs: TrainInputs, config: GroupConfig, devices: int) -> None:
    """Raises ValueError for options that the training refuses."""
    if config.fsdp:
        check_processes(config, devices)
        if inputs.load_in_4bit:
            raise ValueError(NO_4_BITS)
    check_evaluation(config, None if inputs.eval_file is None else RowsFile(inputs.eval_file, columns=inputs.columns))


def show(found: Plan) -> None:
    """Prints a plan."""
    step, hardware = found.step, found.hardware
    where = hardware.name if found.devices == 1 else f"{found.devices} x {hardware.name}"
    fits = "fits" if found.total <= hardware.memory else "does not fit"
    lines = {
        "parameters": f"{step.parameters / 1e6:,.1f} million, {step.trained / 1e6:,.1f} million are trained",
        "rows": f"{found.rows:,} in {counted(found.items, 'group')}",
        "batches": "packed" if step.packed else "padded",
        "optimizer steps": f"{found.steps:,}",
        "tokens": f"{found.tokens:,.0f} in all, {step.tokens:,} in the largest batch of a device",
        **{name: f"{value / GIB:.2f} GiB" for name, value in found.memory.items()},
        "memory": f"{found.total / GIB:.2f} of {hardware.memory / GIB:.0f} GiB a device: {fits}",
        "work": f"{found.flops:.3g} FLOP",
        "time": f"{_duration(found.hours)} at {hardware.mfu:.0%} of {found.rate / 1e12:.3g} TFLOP/s a device",
        "time a step": _duration(found.hours / found.steps),
    }
    say("\n".join([f"qstep train {found.method} on {where}", *(f"  {name:26} {text}" for name, text in lines.items())]))
    if found.total > hardware.memory:
        say(
            "It does not fit. Give one or more of: a smaller --per_device_train_batch_size with more "
            "--gradient_accumulation_steps, --max_tokens_per_batch, --responses_per_prompt, --activation_checkpointing "
            "true, --use_peft true, --load_in_4bit true, or --fsdp true on more devices"
        )


def _module(objective: Objective[Any], inputs: TrainInputs, config: GroupConfig, *, on_cpu: bool) -> PretrainedModule:
    """The module that is trained, without weights, as the trainer prepares it."""
    options = EmptyModel(**{field.name: getattr(inputs, field.name) for field in fields(ModelOptions)})
    module: PretrainedModule = objective.new_model(options)
    if config.activation_checkpointing:
        kwargs = config.activation_checkpointing_kwargs
        more = dict(kwargs) if isinstance(kwargs, dict) else {}  # Trainer takes these two out too
        every_n_layers, offload = more.pop("every_n_layers", 1), more.pop("offload", False)
        module.activation_checkpointing_enable(more or None, every_n_layers, offload)
    elif on_cpu and precision.is_wide(module):
        module.keep_products_only()
    return module


def _items(part: list[int]) -> list[int]:
    return [item if item >= 0 else ~item for item in part]


def _optimizer(config: GroupConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    made, options = Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer: torch.optim.Optimizer = made(parameters, **options)
    return optimizer


def _rate(device: Hardware, inputs: TrainInputs, config: GroupConfig) -> float:
    """The rate of products of matrices in the precision of the training."""
    if config.bf16 or config.fp16 or inputs.dtype in ("bfloat16", "float16"):
        return device.rate
    return device.rate / 2 if config.tf32 else device.fp32_rate


def _memory(step: Simulated, devices: int, device: Hardware, *, sharded: bool) -> dict[str, float]:
    """What a device holds, in bytes."""
    parts = {
        "process": device.process,
        "weights": step.weights / (devices if sharded else 1),
        "optimizer": step.states / (devices if sharded else 1),
        "gradients and activations": float(step.peak),
        "held by the allocator": device.unused * step.peak,
    }
    if sharded:
        parts["gradients and activations"] += step.gradients / devices
        parts["complete layers"] = float(step.outside + 2 * step.layer)
    elif devices > 1:
        parts["buckets of gradients"] = float(step.gradients)  # DDP's copies
    return parts


def _work(objective: Objective[Any], dataset: GroupDataset, step: Simulated, tokens: float, epochs: float) -> float:
    """Floating-point operations: training, the reference once, and what a step begins with."""
    flops = step.flops * tokens / step.tokens
    if objective.needs_reference(dataset):
        flops += step.forward * tokens / step.tokens / max(epochs, 1.0)
    if type(objective).begin_step is not Objective.begin_step:
        flops += 2 * step.forward * tokens / step.tokens
    return flops


def _this_machine(*, bf16: bool) -> Hardware:
    """The CPUs that torch uses here, with the rate of a product of matrices that is measured now."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    left = torch.ones(1024, 1024, dtype=torch.bfloat16 if bf16 else torch.float32)
    best, end = math.inf, time.perf_counter() + _MEASURED_S
    while (begin := time.perf_counter()) < end:
        left @ left
        best = min(best, time.perf_counter() - begin)
    threads = torch.get_num_threads()
    name = f"this machine, {counted(threads, 'thread')}"
    rate = 2 * 1024**3 / best
    return Hardware(name, memory, rate, rate, _CPU_MFU[bf16], process=_CPU_PROCESS, unused=_CPU_UNUSED)


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} seconds"
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
