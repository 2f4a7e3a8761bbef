"""A warning for the classic failure of learning from stored responses: right ones become less likely too."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, variance
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

_log = logging.getLogger(__name__)

Lines = Sequence[Mapping[str, Any]]

_LINES = 5
"""Lines of the log at the beginning and at the end that are compared."""
_NATS, _SHARE = 1.0, 0.05
"""The smallest fall that counts, in nats and as a share of the log-probability."""
_STANDARD_ERRORS = 4.0

_REMEDIES = {
    "learning_rate": "lower --learning_rate",
    "beta": "raise --beta",
    "baseline_shift": "give a --baseline_shift below 0",
}
"""What to do, by the option that a method must have for it."""


class WarnOfCommonFall(TrainerCallback):
    """Warns once when right and wrong responses have both become less likely. It reads the log only."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        lines = [line for line in state.log_history if line.get("logps/chosen") is not None]
        lines = [line for line in lines if line.get("logps/rejected") is not None]
        beta = getattr(args, "beta", None)
        if not state.is_world_process_zero or not lines or lines[-1] is not state.log_history[-1]:
            return
        if has_fallen(lines, beta) and not any(has_fallen(lines[:end], beta) for end in range(len(lines))):
            ways = [words for option, words in _REMEDIES.items() if hasattr(args, option)]
            _log.warning(
                "step %d: right and wrong responses have both become less likely since the start (the mean "
                "log-probability of right ones is %.1f). The policy moves to responses that are not in the data, which "
                "often lowers its accuracy. Watch the accuracy with --eval_samples, and %s",
                *(state.global_step, lines[-1]["logps/chosen"], ", or ".join(ways)),
            )


def has_fallen(lines: Lines, beta: float | None = None) -> bool:
    """Whether the last lines show right and other responses clearly less likely than at the start.

    With `beta`, lines may have implicit rewards, which compare each response with the start exactly. Without them, the
    last lines are compared with the first ones, and the difference must exceed four standard errors.
    """
    return all(_fell(lines, side, beta) for side in ("chosen", "rejected"))


def _fell(lines: Lines, side: str, beta: float | None) -> bool:
    last = lines[-_LINES:]
    least = max(_NATS, _SHARE * abs(fmean(line[f"logps/{side}"] for line in last))) if last else 0.0
    if beta is not None and all(line.get(f"rewards/{side}") is not None for line in last):
        return len(last) == _LINES and all(line[f"rewards/{side}"] / beta < -least for line in last)
    if len(lines) < 2 * _LINES:
        return False
    before, after = ([line[f"logps/{side}"] for line in part] for part in (lines[:_LINES], last))
    fall = fmean(before) - fmean(after)
    return fall > max(least, _STANDARD_ERRORS * sqrt((variance(before) + variance(after)) / _LINES))
