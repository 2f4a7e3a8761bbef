from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import additive_rewards, min_form_rewards, potential_based_rewards

ENDS = torch.tensor([[1, 3, -1], [0, -1, 2]])
MASK = torch.tensor([[True, True, True, True, False], [True, True, True, True, True]])


def test_potentials_by_hand() -> None:
    """Phi after the steps is 3, 7 and 4, 5; the question's is 2 and 1.

    row 0: 3 - 2 where step 0 ends; step 1 ends the response, so 0 - 3
    row 1: 4 - 1 and 5 - 4 where the steps end; 0 - 5 at the last token, which no step ends
    """
    potentials = torch.tensor([[3.0, 7.0, math.nan], [4.0, math.inf, 5.0]])
    rewards = potential_based_rewards(potentials, ENDS, MASK, initial=torch.tensor([2.0, 1.0]))
    assert rewards.tolist() == [[0.0, 1.0, 0.0, -3.0, 0.0], [3.0, 0.0, 1.0, 0.0, -5.0]]
    without = potential_based_rewards(potentials, ENDS, MASK)
    assert without.tolist() == [[0.0, 3.0, 0.0, -3.0, 0.0], [4.0, 0.0, 1.0, 0.0, -5.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_potentials_telescope(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(50, 20, dtype=torch.bool)
    ends = torch.full((50, 4), -1)
    for row in range(50):
        start, stop = sorted(torch.randperm(20, generator=generator)[:2].tolist())
        mask[row, start : stop + 1] = True
        count = min(int(torch.randint(0, 5, (1,), generator=generator)), stop - start + 1)
        chosen = start + torch.randperm(stop - start + 1, generator=generator)[:count]
        ends[row, :count] = chosen.sort().values
    potentials = torch.randn(50, 4, generator=generator).to(dtype)
    initial = torch.randn(50, generator=generator).to(dtype)
    rewards = potential_based_rewards(potentials, ends, mask, initial)
    assert rewards.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(rewards.sum(dim=1), -initial.to(rewards.dtype), rtol=0, atol=1e-5)
    assert (rewards[~mask] == 0).all()


def test_additive_by_hand() -> None:
    """Rewards 1, 3 and 5, -1: less 2, the mean of all four in one problem, and of each two in two."""
    step_rewards = torch.tensor([[1.0, 3.0, math.nan], [5.0, math.nan, -1.0]])
    together = additive_rewards(step_rewards, ENDS, MASK, torch.tensor([7, 7]))
    assert together.tolist() == [[0.0, -1.0, 0.0, 1.0, 0.0], [3.0, 0.0, -3.0, 0.0, 0.0]]
    assert torch.equal(together, additive_rewards(step_rewards, ENDS, MASK, torch.tensor([7, 8])))


def test_additive_is_centred_per_problem() -> None:
    """Problem 0 is rows 0 and 2 (1, 3 and 8; mean 4), problem 1 row 1 (5, -1; mean 2); row 3 has no step."""
    step_rewards = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, -1.0], [8.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    ends = torch.cat([ENDS, torch.tensor([[4, -1, -1], [-1, -1, -1]])])
    mask = torch.cat([MASK, torch.ones(2, 5, dtype=torch.bool)])
    rewards = additive_rewards(step_rewards, ends, mask, torch.tensor([0, 1, 0, 2]))
    assert rewards.sum(dim=1).tolist() == [-4.0, 0.0, 4.0, 0.0]
    assert rewards[2].tolist() == [0.0, 0.0, 0.0, 0.0, 4.0]


def test_min_form_by_hand() -> None:
    """Rewards 0 and T ln 3: weights softmax(0, -ln 3) = 3/4, 1/4. Rewards 2, -1: at T = 0 all weight on the second.

    Three equal rewards share the weight, so they sum to the reward, at T = 0 too.
    """
    temperature = 0.1
    step_rewards = torch.tensor([[0.0, temperature * math.log(3), math.nan], [2.0, math.inf, -1.0]])
    soft = min_form_rewards(step_rewards, ENDS, MASK, temperature)
    torch.testing.assert_close(soft[0], torch.tensor([0.0, 0.0, 0.0, temperature * math.log(3) / 4, 0.0]))
    torch.testing.assert_close(soft[1], torch.tensor([0.0, 0.0, -1.0, 0.0, 0.0]))
    assert soft[1, 0] == pytest.approx(2 * math.exp(-30), abs=1e-18)
    hard = min_form_rewards(step_rewards, ENDS, MASK, 0.0)
    assert hard.tolist() == [[0.0] * 5, [0.0, 0.0, -1.0, 0.0, 0.0]]
    equal, ends = torch.full((1, 3), 6.0), torch.tensor([[0, 1, 3]])
    for temperature in (0.0, 0.1):
        torch.testing.assert_close(
            min_form_rewards(equal, ends, MASK[1:], temperature), torch.tensor([[2.0, 2.0, 0.0, 2.0, 0.0]])
        )


def test_min_form_rewards_sum_to_a_soft_minimum() -> None:
    """Between the minimum, at a temperature near 0, and the mean, at a high one; a response without steps has none."""
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    ends, mask = torch.tensor([0, 2, 3, 6]).expand(20, 4).clone(), torch.ones(20, 7, dtype=torch.bool)
    ends[0], ends[1, 2:] = -1, -1
    present = ends >= 0
    lowest = rewards.masked_fill(~present, math.inf).amin(dim=1)[1:]
    mean = (rewards * present).sum(dim=1)[1:] / present.sum(dim=1)[1:]
    for temperature, expected in ((0.0, lowest), (1e-300, lowest), (1e-4, lowest), (1e6, mean)):
        found = min_form_rewards(rewards, ends, mask, temperature)
        assert (found[0] == 0).all()
        torch.testing.assert_close(found[1:].sum(dim=1), expected, rtol=0, atol=1e-4)
    between = min_form_rewards(rewards, ends, mask, 0.5)[1:].sum(dim=1)
    assert ((between > lowest) & (between < mean)).all()
    assert min_form_rewards(rewards[:, :0], ends[:, :0], mask, 0.1).tolist() == [[0.0] * 7] * 20


@pytest.mark.parametrize("end", [5, 4, -2])
def test_a_step_ends_on_a_response_token(end: int) -> None:
    """Token 5 is past the row, 4 is padding in row 0, -2 is no mark."""
    ends = torch.tensor([[1, end, -1], [0, -1, 2]])
    with pytest.raises(ValueError, match=f"row 0: step 1 ends at token {end}, which is not a response token"):
        potential_based_rewards(torch.zeros(2, 3), ends, MASK)
    with pytest.raises(ValueError, match=f"row 0: step 1 ends at token {end}, which is not a response token"):
        additive_rewards(torch.zeros(2, 3), ends, MASK, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=f"row 0: step 1 ends at token {end}, which is not a response token"):
        min_form_rewards(torch.zeros(2, 3), ends, MASK, 0.1)


def test_of_two_steps_that_end_at_one_token_the_last_has_the_potential() -> None:
    ends, mask = torch.tensor([[1, 1, 2]]), torch.ones(1, 4, dtype=torch.bool)
    rewards = potential_based_rewards(torch.tensor([[0.5, 0.75, 0.25]]), ends, mask)
    assert rewards.tolist() == [[0.0, 0.75, -0.5, -0.25]]
