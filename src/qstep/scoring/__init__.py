"""Who gives a step its Q: one protocol, and our own checkpoints behind it."""

from qstep.scoring.checkpoint import StepScorer
from qstep.scoring.scorer import Scored, Scorer

__all__ = ["Scored", "Scorer", "StepScorer"]
