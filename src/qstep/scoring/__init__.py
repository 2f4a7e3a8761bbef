"""Who gives a step its Q: one protocol; our own checkpoints, here or served, published ones, policies, ensembles."""

from qstep.scoring.ensemble import Ensemble, is_ensemble, read_ensemble
from qstep.scoring.groups import StepScorer
from qstep.scoring.kinds import load_scorer, recognise
from qstep.scoring.scorer import Scored, Scorer
from qstep.scoring.sequences import score_sequences

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
