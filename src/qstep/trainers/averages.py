"""The averages that a line of the log shows, and when there is a line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from qstep.processes import gathered


class Averages:
    """Sums of what was recorded, by name, each with how many values it is of."""

    def __init__(self, sums: dict[str, tuple[Tensor, int]] | None = None) -> None:
        self._sums = sums or {}

    def copy(self) -> Averages:
        """The same, which what is added later does not change."""
        return Averages(dict(self._sums))

    def add(self, name: str, values: Tensor, count: int | None = None) -> None:
        """Adds values, which count as many as they are, or as `count` says."""
        total, before = self._sums.get(name, (torch.zeros((), device=values.device), 0))
        self._sums[name] = (total + values.sum(), before + (values.numel() if count is None else count))

    def means(self) -> dict[str, float]:
        """The averages over all processes, called by all of them; without names of which there is no value."""
        everywhere = gathered({name: (total.item(), count) for name, (total, count) in self._sums.items()})
        means: dict[str, float] = {}
        for name in sorted({name for sums in everywhere for name in sums}):
            parts = [sums[name] for sums in everywhere if name in sums]
            count = sum(of_part for _, of_part in parts)
            if count:
                means[name] = sum(total for total, _ in parts) / count
        return means


class LogWhereItMatters(TrainerCallback):
    """A line of the log at the last step, and before each checkpoint.

    What the next line averages begins after it, so a resumed run logs what an undisturbed one does; and a folder with a
    checkpoint has a log, whose settings are compared.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        may_save = control.should_save or (args.save_strategy == SaveStrategy.BEST and control.should_evaluate)
        if may_save or state.global_step >= state.max_steps:
            control.should_log = True

    on_epoch_end = on_step_end
