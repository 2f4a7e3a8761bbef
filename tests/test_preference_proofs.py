"""Which pairs make DPO, IPO and KTO reach which policy, on a tree small enough to solve exactly.

Every expectation is a sum over all trajectories or pairs of them, so the gradients are exact. The optimum maximises
the expected reward less beta times the KL to the reference.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qstep.losses import dpo_loss, ipo_loss, kto_loss, preference_pairs
from qstep.mdp import TokenTree

TREE = TokenTree.random(3, 4, seed=0, eos=2, step_rewards=True)
ROWS = TREE.trajectories
REWARDS = ROWS.rewards.sum(dim=1)
BETA = 0.7
OPTIMUM = TREE.solve(BETA).log_policy
Objective = Callable[[Tensor], Tensor]
"""The expected loss of a log-policy [N, A]."""


def behavior() -> Tensor:
    """A random policy: neither the reference nor the optimum."""
    generator = torch.Generator().manual_seed(1)
    return (0.5 * torch.randn(TREE.rewards.shape, generator=generator, dtype=torch.float64)).log_softmax(1)


def log_ratios(log_policy: Tensor) -> Tensor:
    return ROWS.of_tokens(log_policy - TREE.reference_logps).sum(dim=1)


def gradient(objective: Objective, log_policy: Tensor) -> Tensor:
    logits = log_policy.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(logits.log_softmax(1)), logits)
    return found


def trained(objective: Objective, steps: int = 300) -> Tensor:
    """The log-policy that L-BFGS finds from the reference."""
    logits = TREE.reference_logps.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(logits.log_softmax(1))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().log_softmax(1)


def over_all_pairs(sampler: Tensor, prefers: Tensor, loss: Callable[..., Tensor] = dpo_loss) -> Objective:
    """The mean over independent pairs that the sampler draws. `prefers[i, j]` is how often i is preferred to j."""
    often = ROWS.probabilities(sampler)
    better, worse = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(len(often))] * 2, indexing="ij"))
    weights = (often[better] * often[worse] * prefers[better, worse]).detach()

    def objective(log_policy: Tensor) -> Tensor:
        ratios = log_ratios(log_policy)
        return weights @ loss(ratios[better], ratios[worse], BETA)

    return objective


BRADLEY_TERRY = torch.sigmoid(REWARDS[:, None] - REWARDS)
BY_REWARD = (REWARDS[:, None] > REWARDS).double()
"""The preferences of a file with rewards: the greater reward always wins."""


@pytest.mark.parametrize("sampler", [TREE.reference_logps, behavior()], ids=["reference", "another policy"])
def test_dpo_reaches_the_optimum_from_bradley_terry_preferences(sampler: Tensor) -> None:
    """All pairs, each labelled at random with the odds that the rewards give, from any policy that draws everything."""
    objective = over_all_pairs(sampler, BRADLEY_TERRY)
    assert gradient(objective, OPTIMUM).abs().max() < 1e-12
    assert gradient(objective, TREE.reference_logps).abs().max() > 1e-3
    assert TREE.kl(trained(objective), OPTIMUM) < 1e-4


def test_dpo_does_not_stop_at_the_optimum_if_the_greater_reward_always_wins() -> None:
    """These are the pairs of `qstep train dpo`. The loss falls without end as their margins grow."""
    objective = over_all_pairs(TREE.reference_logps, BY_REWARD)
    assert gradient(objective, OPTIMUM).abs().max() > 1e-3
    values = [float(objective(_tilted(scale * REWARDS / BETA))) for scale in (0, 1, 2, 8)]
    assert values == sorted(values, reverse=True)
    assert TREE.kl(trained(objective), OPTIMUM) > 0.1


def test_the_pairs_of_a_group_are_those_of_the_greater_reward() -> None:
    """The mean over the pairs of all trajectories in one group, as the trainer computes it, is the expectation above
    for a sampler that draws all trajectories equally often."""
    better, worse = preference_pairs(REWARDS, torch.zeros(len(REWARDS), dtype=torch.long))
    assert len(better) == BY_REWARD.sum()
    ratios = log_ratios(OPTIMUM)
    mean = dpo_loss(ratios[better], ratios[worse], BETA).mean()
    expected = (
        BY_REWARD * dpo_loss(ratios[:, None] - ratios, torch.zeros_like(BY_REWARD), BETA)
    ).sum() / BY_REWARD.sum()
    torch.testing.assert_close(mean, expected)


def test_best_against_worst_does_not_determine_the_policy() -> None:
    """With right odds, but of the best and the worst trajectory only, all policies with one difference are as good."""
    best, worst = int(REWARDS.argmax()), int(REWARDS.argmin())
    prefers = torch.zeros_like(BRADLEY_TERRY)
    prefers[best, worst], prefers[worst, best] = BRADLEY_TERRY[best, worst], BRADLEY_TERRY[worst, best]
    objective = over_all_pairs(TREE.reference_logps, prefers)
    assert gradient(objective, OPTIMUM).abs().max() < 1e-12  # the optimum is one of them
    other = trained(objective)
    assert gradient(objective, other).abs().max() < 1e-8  # and this is another
    assert TREE.kl(other, OPTIMUM) > 0.1


def test_dpo_does_not_reach_the_optimum_from_a_policy_that_never_draws_some_responses() -> None:
    """The gradient vanishes at the optimum there too, and also at policies with other odds of what is never drawn."""
    often = TREE.reference_logps.clone()
    often[0, 0] = -1e9
    sampler = often.log_softmax(1)
    objective = over_all_pairs(sampler, BRADLEY_TERRY)
    assert gradient(objective, OPTIMUM).abs().max() < 1e-12
    moved = OPTIMUM.clone()
    moved[0, 0] += 2.0
    assert gradient(objective, moved.log_softmax(1)).abs().max() < 1e-12
    assert TREE.kl(moved.log_softmax(1), OPTIMUM) > 0.1


@pytest.mark.parametrize("prefers", [BRADLEY_TERRY, BY_REWARD], ids=["Bradley-Terry", "greater reward"])
def test_ipo_stops_at_the_share_of_pairs_won(prefers: Tensor) -> None:
    """IPO of sums reaches pi_ref exp(win rate / beta), also where one side always wins. That is not DQO's optimum."""
    sampler = behavior()
    objective = over_all_pairs(sampler, prefers, ipo_loss)
    wins = prefers.clone().fill_diagonal_(0.5) @ ROWS.probabilities(sampler)
    goal = _tilted(wins / BETA)
    assert gradient(objective, goal).abs().max() < 1e-10
    assert gradient(objective, TREE.reference_logps).abs().max() > 1e-3
    assert TREE.kl(goal, OPTIMUM) > 0.01


def _tilted(exponents: Tensor) -> Tensor:
    """The log-policy whose trajectories are those of the reference times exp(exponents), by backward induction."""
    rewards = torch.zeros_like(TREE.rewards)
    last = ROWS.mask.sum(dim=1) - 1
    at = torch.arange(len(last))
    rewards[ROWS.states[at, last], ROWS.tokens[at, last]] = exponents
    return TokenTree(TREE.depth, TREE.reference_logps, rewards, TREE.eos).solve(1.0).log_policy


def test_kto_does_not_stop_at_the_optimum() -> None:
    """KTO saturates: with right and wrong as the only signal, more distance from the reference is never worse."""
    right = REWARDS.argsort().argsort() >= len(REWARDS) // 2
    often = ROWS.probabilities(TREE.reference_logps)

    def objective(log_policy: Tensor) -> Tensor:
        kl = ROWS.expectation(log_policy, log_ratios(log_policy)).clamp(min=0)
        return often @ kto_loss(log_ratios(log_policy), right, kl, BETA)

    goal = _tilted(right.double() / BETA)
    assert gradient(objective, goal).abs().max() > 1e-4
    values = [float(objective(_tilted(right.double() * scale))) for scale in (0.0, 1.0, 4.0, 16.0)]
    assert values == sorted(values, reverse=True)
