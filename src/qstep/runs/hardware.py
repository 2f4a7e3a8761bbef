"""Devices that a training can be planned for."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """A device.

    memory: in bytes. rate, fp32_rate: of matrix products in bf16 without sparsity and in fp32, in FLOP/s. mfu: model
    FLOPs utilization, the part of the rate that a training reaches. process: memory of a process before it has a model,
    in bytes. unused: memory that the allocator holds in addition, as a part of that of activations.
    """

    name: str
    memory: float
    rate: float
    fp32_rate: float
    mfu: float = 0.4
    process: float = 1.0 * GIB
    unused: float = 0.1


HARDWARE = {
    "a100": Hardware("A100 80 GB", 80e9, 312e12, 19.5e12),
    "a100-40": Hardware("A100 40 GB", 40e9, 312e12, 19.5e12),
    "h100": Hardware("H100 SXM", 80e9, 989e12, 67e12),
    "h200": Hardware("H200 SXM", 141e9, 989e12, 67e12),
    "b200": Hardware("B200", 180e9, 2250e12, 75e12),
    "l4": Hardware("L4", 24e9, 121e12, 30.3e12),
    "l40s": Hardware("L40S", 48e9, 362e12, 91.6e12),
    "rtx4090": Hardware("RTX 4090", 24e9, 165e12, 82.6e12),
}
"""Memory and rate as the makers state them. The other numbers are assumptions."""
