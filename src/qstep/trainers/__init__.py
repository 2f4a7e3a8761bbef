"""Trainers: `GroupTrainer`, which trains any objective, and a class for each method in the table.

`PQMTrainer`, `DQOTrainer` and the others are made from the table, one for each method.
"""

from __future__ import annotations

from qstep.objectives import METHODS
from qstep.processes import ProcessFailed
from qstep.trainers.finite import NonFiniteLoss
from qstep.trainers.group_trainer import GroupTrainer
from qstep.trainers.method_trainer import MethodTrainer, trainer_class, trainer_name

_METHODS = {trainer_name(method): method for method in METHODS.values()}

__all__ = ["GroupTrainer", "MethodTrainer", "NonFiniteLoss", "ProcessFailed", "trainer_class", "trainer_name"]
__all__ += [*_METHODS]


def __getattr__(name: str) -> type[MethodTrainer]:
    if name in _METHODS:
        return trainer_class(_METHODS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
