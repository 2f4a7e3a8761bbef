"""Who gives a step its Q: one protocol; our own checkpoints behind it, here or on a server."""

from qstep.scoring.checkpoint import StepScorer
from qstep.scoring.endpoint import EndpointError, EndpointScorer, served_model
from qstep.scoring.scorer import Scored, Scorer
from qstep.scoring.sequences import score_sequences

__all__ = ["EndpointError", "EndpointScorer", "Scored", "Scorer", "StepScorer", "score_sequences", "served_model"]
