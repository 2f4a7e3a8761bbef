"""Models: the step scorer and its contract, the policy's log-probabilities, the value network, forward on groups."""

from qstep.models.forward import Batch, collate_groups, response_hidden
from qstep.models.policy import PolicyWithValue, ValueNetwork, load_policy, policy_logps, token_logps
from qstep.models.scorer import (
    StepContract,
    StepScorer,
    collate_steps,
    encode_steps,
    new_scorer,
    step_q_values,
)

__all__ = [
    "Batch",
    "PolicyWithValue",
    "StepContract",
    "StepScorer",
    "ValueNetwork",
    "collate_groups",
    "collate_steps",
    "encode_steps",
    "load_policy",
    "new_scorer",
    "policy_logps",
    "response_hidden",
    "step_q_values",
    "token_logps",
]
