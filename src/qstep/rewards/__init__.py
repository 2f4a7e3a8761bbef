"""Rewards for reinforcement learning in other libraries: TRL's GRPO, verl and OpenRLHF.

    OutcomeReward     1 for a right final answer, 0 for a wrong one
    StepReward        what a scorer, here or at a server, gives the steps of a response
    verl_reward       either of them as verl's `compute_score`
    openrlhf_reward   either of them as OpenRLHF's `reward_func`

A reward is an object that TRL calls: `reward(prompts, completions, completion_ids, **columns)` returns a number for
each completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.rewards.libraries import openrlhf_reward, verl_reward
    from qstep.rewards.outcome import OutcomeReward
    from qstep.rewards.steps import StepReward

__all__ = ["OutcomeReward", "StepReward", "openrlhf_reward", "verl_reward"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys(("openrlhf_reward", "verl_reward"), "libraries"),
        "OutcomeReward": "outcome",
        "StepReward": "steps",
    },
)
