"""Scorers, which give each step its Q: our own checkpoints here or at a server, published ones, policies, ensembles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.lazy import lazy
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Ensemble", "is_ensemble", "read_ensemble"), "ensemble"),
        **dict.fromkeys(("load_scorer", "recognise"), "loading"),
        "StepScorer": "step_scorer",
        "score_sequences": "sequences",
    },
)
