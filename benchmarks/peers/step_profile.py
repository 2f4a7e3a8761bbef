"""Where the time of qstep's training steps goes, by kind of operation."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm"),
    "attention kernels": ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention"),
    "optimizer": ("Optimizer.step", "aten::_fused_adam"),
    "gradient clipping": ("aten::_foreach_norm", "aten::_foreach_mul_", "aten::linalg_vector_norm"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone", "aten::contiguous", "aten::index", "aten::_index_put"),
}
"""The first kind one of whose names an operation begins with; the rest is elementwise."""


def kind_of(name: str) -> str:
    # A matrix product's name is whole: aten::mm is one, aten::mmap would not be.
    for kind, names in KINDS.items():
        if name in names or (kind != "matrix products" and name.startswith(names)):
            return kind
    return "elementwise and the rest"


class StepProfiler(TrainerCallback):
    """Profiles every optimizer step after the first."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.steps = 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1
        if self.steps == 1:
            self.profiler.start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.profiler.stop()

    def table(self) -> dict[str, Any]:
        """Seconds a step by kind and by operation, each operation's own time.

        Calls that a dispatch mode sees (selective checkpointing) are counted once more than they are computed.
        """
        steps = self.steps - 1
        seconds: dict[str, float] = defaultdict(float)
        operations: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        for event in self.profiler.key_averages():
            own = event.self_cpu_time_total / 1e6 / steps
            kind = kind_of(event.key)
            seconds[kind] += own
            operations[f"{event.key} ({kind})"][0] += own
            operations[f"{event.key} ({kind})"][1] += event.count / steps
        top = sorted(operations.items(), key=lambda item: -item[1][0])[:25]
        total = sum(seconds.values())
        return {
            "threads": torch.get_num_threads(),
            "seconds_a_step": total,
            "share": {kind: value / total for kind, value in sorted(seconds.items(), key=lambda item: -item[1])},
            "operations": [{"name": name, "seconds": value, "calls": count} for name, (value, count) in top],
        }
