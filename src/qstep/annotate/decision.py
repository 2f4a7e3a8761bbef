"""Decides whether a prefix has had enough rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from qstep.runs.options import Bounds, Threshold, check_options

Level = Annotated[float, Bounds(above=0, below=1)]
"""A confidence."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a prefix succeeds more often than `threshold`, decided after as few rollouts as possible.

    One of two things decides:

    - The interval of Beta(1 + successes, 1 + failures) at confidence `level` is on one side of `threshold`, the side of
      the rate. This is the posterior of the success probability under a flat prior; the interval is equal-tailed.
    - The remaining rollouts could not move the rate to the other side.

    With threshold 0 the first success decides, and a prefix is wrong only if all its rollouts failed. This is
    Math-Shepherd's hard label (arXiv 2312.08935, Eq. 3).

    Raises:
        ValueError: `threshold` is outside [0, 1), or `level` outside (0, 1).
    """

    FORM: ClassVar[str] = "{}"

    threshold: Threshold = 0.0
    level: Level = 0.95

    def __post_init__(self) -> None:
        check_options(self)

    def side(self, successes: int, trials: int, left: int) -> bool | None:
        """True above the threshold, False if not, None while undecided. `left` more rollouts are possible."""
        from scipy.special import betainc

        if not trials:
            return None
        above = successes > self.threshold * trials
        if successes > self.threshold * (trials + left) or successes + left <= self.threshold * (trials + left):
            return above
        below = float(betainc(1 + successes, 1 + trials - successes, self.threshold))  # P(probability < threshold)
        return above if (below if above else 1 - below) < (1 - self.level) / 2 else None

    def fewest(self, successes: int, trials: int, left: int) -> int:
        """The smallest number of further rollouts that could decide; 0 if it is decided or none is left."""
        if self.side(successes, trials, left) is not None:
            return 0
        for more in range(1, left + 1):
            after = trials + more, left - more
            if self.side(successes + more, *after) is not None or self.side(successes, *after) is not None:
                return more
        return 0
