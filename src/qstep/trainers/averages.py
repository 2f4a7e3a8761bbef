"""The averages in a line of the log, and the steps at which a line is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from qstep.processes import gathered


class Averages:
    """Sums of recorded values by name, each with its number of values."""

    def __init__(self, sums: dict[str, tuple[Tensor, int]] | None = None) -> None:
        self._sums = sums or {}

    def copy(self) -> Averages:
        """A copy that later additions do not change."""
        return Averages(dict(self._sums))

    def add(self, name: str, values: Tensor, count: int | None = None) -> None:
        """Adds values. Their number is that of the elements, unless `count` gives it."""
        total, before = self._sums.get(name, (torch.zeros((), device=values.device), 0))
        self._sums[name] = (total + values.sum(), before + (values.numel() if count is None else count))

    def means(self) -> dict[str, float]:
        """The averages over all processes, which all call it. Names without values are left out."""
        everywhere = gathered({name: (total.item(), count) for name, (total, count) in self._sums.items()})
        means: dict[str, float] = {}
        for name in sorted({name for sums in everywhere for name in sums}):
            parts = [sums[name] for sums in everywhere if name in sums]
            count = sum(number for _, number in parts)
            if count:
                means[name] = sum(total for total, _ in parts) / count
        return means


class LogWhereItMatters(TrainerCallback):
    """Writes a line of the log at the last step, also where an evaluation may end the run, and before each checkpoint.

    The next line's averages begin after it, so a resumed run logs the same as an uninterrupted one. Each folder with
    a checkpoint also has a log, and a resumed run compares its settings with that log's.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        saves_best = args.save_strategy == SaveStrategy.BEST or args.load_best_model_at_end
        may_save = control.should_save or (saves_best and control.should_evaluate)
        may_stop = control.should_evaluate and args.early_stopping_patience is not None
        if may_save or may_stop or state.global_step >= state.max_steps:
            control.should_log = True

    on_epoch_end = on_step_end
