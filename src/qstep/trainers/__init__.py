"""Trainers: `GroupTrainer`, which trains any objective, and two classes for each method in the table.

`PQMTrainer`, `DQOTrainer` and the others are made from the table. `PQMConfig`, `DQOConfig` and the others are the
classes of their `args`. Methods with the same options share one.
"""

from __future__ import annotations

from typing import Any

from qstep.objectives import METHODS
from qstep.processes import ProcessFailed
from qstep.trainers.finite import NonFiniteLoss
from qstep.trainers.group_trainer import GroupTrainer
from qstep.trainers.method_trainer import MethodTrainer, trainer_class, trainer_name

_METHODS = {trainer_name(method): method for method in METHODS.values()}
_CONFIGS = {f"{name.removesuffix('Trainer')}Config": method for name, method in _METHODS.items()}

__all__ = ["GroupTrainer", "MethodTrainer", "NonFiniteLoss", "ProcessFailed", "trainer_class", "trainer_name"]
__all__ += [*_METHODS, *_CONFIGS]


def __getattr__(name: str) -> type[Any]:
    if name in _METHODS:
        return trainer_class(_METHODS[name])
    if name in _CONFIGS:
        return _CONFIGS[name].config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
