"""How long the rest of a recipe takes: the recipe's own hints, scaled by what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass
class Forecast:
    """The jobs of a run, and how long those that have ended took.

    Args:
        hints: seconds of each job on the recipe's hardware, by its name.
        after: the jobs that each job waits for.
        processes: jobs that run side by side.
    """

    hints: Mapping[str, float]
    after: Mapping[str, Set[str]]
    processes: int
    measured: dict[str, float] = field(default_factory=dict)

    def seconds_left(self, running: Mapping[str, float]) -> float | None:
        """Seconds until the last job ends; None before any job has ended.

        It is the work that is left, shared among the processes, or the longest chain of jobs, whichever is longer.

        Args:
            running: for each job that runs now, the seconds since it began.
        """
        if not self.measured:
            return None
        scale = sum(self.measured.values()) / sum(self.hints[name] for name in self.measured)
        left = {
            name: max(0.0, hint * scale - running.get(name, 0.0))
            for name, hint in self.hints.items()
            if name not in self.measured
        }
        chains: dict[str, float] = {}

        def chain(name: str) -> float:
            if name not in chains:
                chains[name] = left[name] + max((chain(other) for other in self.after[name] & left.keys()), default=0.0)
            return chains[name]

        return max([sum(left.values()) / self.processes, *(chain(name) for name in left)])


def duration(seconds: float) -> str:
    """`40 s`, `3 min` or `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
