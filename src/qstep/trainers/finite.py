"""Losses and gradients that are not finite: an error that names the row, or a skipped step in fp16."""

from __future__ import annotations

from torch import Tensor

from qstep.models import Batch
from qstep.objectives.dataset import GroupDataset
from qstep.processes import somewhere

_OVERFLOWS = 25
"""Maximum number of fp16 steps in a row that may overflow. The loss scale starts at 2^16 and halves at each."""


class NonFiniteLoss(RuntimeError):
    """A row's loss, or the gradient, is NaN or infinite. The message names the row or the step."""


class FiniteWatch:
    """Watches the losses and gradients of a run, and counts the steps that fp16's loss scale skips.

    Args:
        scaled: whether there is a loss scale, which skips steps that are not finite.

    steps, skipped: their numbers since the last line of the log. learned: whether any step was not skipped; None before
    the first step.
    """

    def __init__(self, scaled: bool) -> None:
        self.scaled = scaled
        self.overflows, self.overflowed_at = 0, -1
        self.steps, self.skipped = 0, 0
        self.learned: bool | None = None

    def see_losses(self, losses: Tensor, counted: Tensor, batch: Batch, step: int, dataset: GroupDataset) -> None:
        """Raises NonFiniteLoss on all processes if a counted loss is not finite on any. Called by all processes."""
        bad = ~losses.isfinite() & counted
        if not somewhere(bad.any()) or self._is_overflow(step):
            return
        if not bad.any():
            raise NonFiniteLoss(f"step {step}: a row's loss is not finite on another process")
        places = bad.nonzero().flatten().tolist()
        number = int(batch["row_index"][places[0]])  # type: ignore[typeddict-item]
        where, name = dataset.where(number), dataset.row(number).get("id")
        row = where if name is None else f"row {name!r} ({where})"
        raise NonFiniteLoss(
            f"step {step}: the loss of {row} is {losses[places[0]].item()} ({len(places)} such rows in this batch). "
            f"Check the row{'' if step == 0 else ', or lower the learning rate'}"
        )

    def end_step(self, step: int, *, finite: bool, norm: float | None) -> bool:
        """Counts a step after its gradient, and returns whether it is skipped. Raises NonFiniteLoss."""
        if not finite and not self._is_overflow(step):
            raise NonFiniteLoss(
                f"step {step}: the gradient is not finite ({norm}), although every row's loss is. "
                "Lower the learning rate, or train in bf16 or fp32"
            )
        skipped = self.overflowed_at == step
        self.steps += 1
        self.skipped += skipped
        self.learned = bool(self.learned) or not skipped
        return skipped

    def begin_line(self) -> None:
        """Restarts the counts for the next line of the log."""
        self.steps, self.skipped = 0, 0

    def end(self) -> None:
        """Raises NonFiniteLoss if all steps of a run were skipped."""
        if self.learned is False:
            raise NonFiniteLoss(
                "every step overflowed fp16 and was skipped, so nothing was learned. Train in bf16 or fp32: if a "
                "row's loss is not finite there, an error names the row"
            )

    def _is_overflow(self, step: int) -> bool:
        """Counts a step that is not finite, and returns whether fp16's loss scale will skip it."""
        if step != self.overflowed_at:  # else an earlier micro-batch of this step has overflowed
            self.overflows = self.overflows + 1 if step == self.overflowed_at + 1 else 1
            self.overflowed_at = step
        return self.scaled and self.overflows <= _OVERFLOWS
