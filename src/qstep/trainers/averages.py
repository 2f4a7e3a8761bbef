"""The averages that a line of the log shows."""

from __future__ import annotations

import torch
from torch import Tensor

from qstep.trainers.processes import gathered


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
