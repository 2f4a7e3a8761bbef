"""Who gives a step its Q: one protocol; our own checkpoints, here or served, published ones, policies, ensembles."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qstep.scoring.scorer import Scored, Scorer

if TYPE_CHECKING:
    from qstep.scoring.ensemble import Ensemble, is_ensemble, read_ensemble
    from qstep.scoring.loading import load_scorer, recognise
    from qstep.scoring.sequences import score_sequences
    from qstep.scoring.step_scorer import StepScorer

__all__ = [
    "Ensemble",
    "Scored",
    "Scorer",
    "StepScorer",
    "is_ensemble",
    "load_scorer",
    "read_ensemble",
    "recognise",
    "score_sequences",
]

_ROOMS = {
    **dict.fromkeys(("Ensemble", "is_ensemble", "read_ensemble"), "ensemble"),
    "StepScorer": "step_scorer",
    **dict.fromkeys(("load_scorer", "recognise"), "loading"),
    "score_sequences": "sequences",
}


def __getattr__(name: str) -> Any:
    """Loads a scorer, and the library under it, when it is first asked for."""
    if name in _ROOMS:
        return getattr(import_module(f"qstep.scoring.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
