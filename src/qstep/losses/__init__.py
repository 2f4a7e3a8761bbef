"""Pure functions in float32 at least. Losses are unreduced: one value per response, or per pair for DPO and IPO.

ranking          PQM's losses on the Q-values of steps
classification   the baselines: BCE and MSE per step, outcome reward model
soft_q           DQO's value and Q losses
bandit           DRO, and V of a prompt from the rewards of its responses
policy_gradient  REINFORCE on stored responses, and the advantages of a problem's responses
preference       DPO and IPO on pairs of responses, KTO on single ones
returns          lambda-returns
importance       off-policy weights and their diagnostics
process_rewards  step scores as token rewards
"""

from qstep.losses.bandit import dro_loss, group_values
from qstep.losses.classification import bce_loss, mse_loss, orm_loss
from qstep.losses.importance import (
    ImportanceMode,
    ImportanceWeights,
    importance_diagnostics,
    importance_weights,
)
from qstep.losses.policy_gradient import Baseline, group_advantages, reinforce_loss
from qstep.losses.preference import dpo_loss, ipo_loss, kto_loss, preference_pairs
from qstep.losses.process_rewards import additive_rewards, min_form_rewards, potential_based_rewards
from qstep.losses.ranking import pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.losses.returns import following, lambda_return
from qstep.losses.soft_q import DQOLosses, dqo_losses, dqo_q_loss, dqo_value_loss

__all__ = [
    "Baseline",
    "DQOLosses",
    "ImportanceMode",
    "ImportanceWeights",
    "additive_rewards",
    "bce_loss",
    "dpo_loss",
    "dqo_losses",
    "dqo_q_loss",
    "dqo_value_loss",
    "dro_loss",
    "following",
    "group_advantages",
    "group_values",
    "importance_diagnostics",
    "importance_weights",
    "ipo_loss",
    "kto_loss",
    "lambda_return",
    "min_form_rewards",
    "mse_loss",
    "orm_loss",
    "potential_based_rewards",
    "pqm_ablation_loss",
    "pqm_loss",
    "pqm_theoretical_loss",
    "preference_pairs",
    "reinforce_loss",
]
