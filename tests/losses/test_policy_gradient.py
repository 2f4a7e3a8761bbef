from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import Baseline, group_advantages, reinforce_loss

MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [("mean", [0.25, -0.75, 0.25, 0.25, 0.0]), ("leave_one_out", [1 / 3, -1.0, 1 / 3, 1 / 3, 0.0])],
)
def test_advantages_by_hand(baseline: Baseline, expected: list[float]) -> None:
    """Rewards 1, 0, 1, 1 of one problem, apart from each other, and the only response to another problem."""
    rewards, groups = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5]), torch.tensor([7, 7, 7, 7, 3])
    order = torch.tensor([3, 4, 0, 1, 2])
    found = group_advantages(rewards[order], groups[order], baseline)
    torch.testing.assert_close(found, torch.tensor(expected)[order])
    shifted = group_advantages(rewards, groups, baseline, shift=-0.5)
    torch.testing.assert_close(shifted, torch.tensor(expected) + 0.5)


def test_another_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="choose leave_one_out or mean"):
        group_advantages(torch.ones(2), torch.zeros(2, dtype=torch.int64), "median")  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_give_exactly_0(baseline: Baseline) -> None:
    """The mean of twelve times .7 in fp32 is not .7."""
    for size in range(1, 40):
        found = group_advantages(torch.full((size,), 0.7), torch.zeros(size, dtype=torch.int64), baseline)
        assert (found == 0).all(), size


def test_the_loss_by_hand() -> None:
    """A = 2 and -1, log pi = -1 - 3 and -2: losses 8 and -2; with weights 1/2 and 1/4 of the responses 4 and -1/2."""
    logps = torch.tensor([[-1.0, -3.0, math.nan], [-2.0, math.nan, math.inf]], requires_grad=True)
    advantages = torch.tensor([2.0, -1.0])
    assert reinforce_loss(logps, advantages, MASK).tolist() == [8.0, -2.0]
    weights = torch.tensor([0.5, 0.25], requires_grad=True)
    loss = reinforce_loss(logps, advantages, MASK, weights)
    assert loss.tolist() == [4.0, -0.5]
    by_logps, by_weights = torch.autograd.grad(loss.sum(), [logps, weights], allow_unused=True)
    assert by_logps.tolist() == [[-1.0, -1.0, 0.0], [0.25, 0.0, 0.0]] and by_weights is None
    by_token = torch.tensor([[0.5, 1.0, math.nan], [0.25, math.nan, math.nan]])
    assert reinforce_loss(logps, advantages, MASK, by_token.nan_to_num()).tolist() == [7.0, -0.5]
