"""Who gives a step its Q: one protocol, and our own checkpoints behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qstep.scoring.scorer import Scorer

if TYPE_CHECKING:
    from qstep.scoring.checkpoint import StepScorer

__all__ = ["Scorer", "StepScorer"]


def __getattr__(name: str) -> Any:
    """Loads the scorer, and torch with it, when it is first asked for."""
    if name == "StepScorer":
        from qstep.scoring.checkpoint import StepScorer

        return StepScorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
