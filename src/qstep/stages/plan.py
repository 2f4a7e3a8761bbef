"""`qstep plan train METHOD ...`: the memory, the work and the time of a training, before it is started."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from qstep.models import PretrainedModule
from qstep.models.inference import hide_loading_bars
from qstep.models.loading import load_tokenizer
from qstep.models.packing import Packing
from qstep.models.simulated import Simulated, new_module, simulate
from qstep.objectives import METHODS
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.objective import Objective
from qstep.objectives.responses import collate_rows
from qstep.objectives.source import RowsFile
from qstep.runs.hardware import GIB, Hardware
from qstep.runs.progress import say
from qstep.stages.train import TrainInputs
from qstep.trainers import precision
from qstep.trainers.batches import StepSampler
from qstep.words import counted

_MEASURED_S = 1.0
"""How long products of matrices are timed."""


@dataclass(frozen=True)
class Plan:
    """A plan. Memory is per device, in bytes."""

    method: str
    devices: int
    hardware: Hardware
    step: Simulated
    rows: int
    items: int
    steps: int
    tokens: float
    flops: float
    memory: dict[str, float]

    @property
    def total(self) -> float:
        """Memory per device."""
        return sum(self.memory.values())

    @property
    def hours(self) -> float:
        return self.flops / (self.devices * self.hardware.rate * self.hardware.share) / 3600

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
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


def plan(
    method: str, inputs: TrainInputs, config: GroupConfig, hardware: Hardware | None = None, devices: int = 1
) -> Plan:
    """The plan of a training on devices of a kind; None is the CPUs of this machine.

    The model's config, the tokenizer and the rows are read, its weights are not. Raises ValueError as training does for
    rows and options.
    """
    hide_loading_bars()
    tokenizer = inputs.with_chat(load_tokenizer(inputs.model_name_or_path, **inputs.load_arguments()))
    objective = METHODS[method].objective(config, tokenizer)
    source = RowsFile(inputs.train_file, columns=inputs.columns)
    objective.check(source)
    dataset = objective.rows(source)
    accumulation = config.gradient_accumulation_steps
    per_step = config.per_device_train_batch_size * accumulation * devices
    order = StepSampler(
        dataset.lengths if config.max_tokens_per_batch is None else dataset.tokens,
        per_step,
        accumulation=accumulation,
        max_tokens=config.max_tokens_per_batch,
        processes=devices,
        seed=config.seed,
    )
    parts = map(_counted, chain.from_iterable(order))
    estimated, largest = max((int(dataset.lengths[part].sum()), part) for part in parts)
    items = [dataset[item] for item in largest]
    is_policy = METHODS[method].kind == "policy"
    batch: Any = collate_rows(tokenizer, items) if is_policy else objective.collate(items)
    step = simulate(
        _module(method, inputs, config, on_cpu=hardware is None),
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
    device = _this_machine(bf16=config.bf16) if hardware is None else hardware
    return Plan(
        method=method,
        devices=devices,
        hardware=device,
        step=step,
        rows=len(dataset.rows),
        items=len(dataset),
        steps=steps,
        tokens=tokens,
        flops=_work(objective, dataset, step, tokens, steps / order.steps),
        memory=_memory(step, devices, device, sharded=config.fsdp),
    )


def show(found: Plan) -> None:
    """Prints a plan."""
    step, hardware = found.step, found.hardware
    where = hardware.name if found.devices == 1 else f"{found.devices} x {hardware.name}"
    fits = "fits" if found.total <= hardware.memory else "does not fit"
    lines = {
        "parameters": f"{step.parameters / 1e6:,.1f} million, {step.trained / 1e6:,.1f} million are trained",
        "rows": f"{found.rows:,} in {counted(found.items, 'group')}, {'packed' if step.packed else 'padded'}",
        "optimizer steps": f"{found.steps:,}",
        "tokens": f"{found.tokens:,.0f} in all, {step.tokens:,} in the largest batch of a device",
        **{name: f"{value / GIB:.2f} GiB" for name, value in found.memory.items()},
        "memory": f"{found.total / GIB:.2f} GiB a device of {hardware.memory / GIB:.0f}: {fits}",
        "work": f"{found.flops:.3g} FLOP",
        "time": f"{_duration(found.hours)} at {hardware.share:.0%} of {hardware.rate / 1e12:.3g} TFLOP/s a device",
    }
    say("\n".join([f"qstep train {found.method} on {where}", *(f"  {name:26} {text}" for name, text in lines.items())]))
    if found.total > hardware.memory:
        say(
            "Smaller: --per_device_train_batch_size with --gradient_accumulation_steps, --responses_per_prompt, "
            "--activation_checkpointing true, --use_peft true, --load_in_4bit true, or --fsdp true on more devices"
        )


def _module(method: str, inputs: TrainInputs, config: GroupConfig, *, on_cpu: bool) -> PretrainedModule:
    """The module that is trained, as the trainer prepares it."""
    value = getattr(config, "value", None)
    module = new_module(inputs, METHODS[method].kind, None if value in (None, "group") else value)
    if config.activation_checkpointing:
        given = config.activation_checkpointing_kwargs
        module.activation_checkpointing_enable(given if isinstance(given, dict) else None)
    elif on_cpu and precision.is_wide(module):
        module.keep_products_only()
    return module


def _counted(part: list[int]) -> list[int]:
    return [item if item >= 0 else ~item for item in part]


def _optimizer(config: GroupConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    made, options = Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer: torch.optim.Optimizer = made(parameters, **options)
    return optimizer


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
    return Hardware(name, memory, 2 * 1024**3 / best, 0.25 if bf16 else 0.6, process=0.45 * GIB, unused=0.25)


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
