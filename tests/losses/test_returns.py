from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import following, lambda_return

LAMBDAS = [0.0, 0.3, 0.5, 0.9, 0.95, 1.0]


def random_rows(seed: int = 0, size: int = 40, length: int = 9) -> tuple[torch.Tensor, ...]:
    """Rewards, values and masks: prompts in front, padding behind, holes, an empty row and a full one."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, size, length, generator=generator, dtype=torch.float64)
    mask = torch.rand(size, length, generator=generator) < 0.7
    mask[0], mask[1] = False, True
    return rewards, values, mask


def brute_force_n_step(rewards: list[float], values: list[float], h: int, n: int) -> float:
    """`sum_{l < n} r_{h+l} + V(s_{h+n})`, with no reward and no value past the end."""
    ahead = values[h + n] if h + n < len(values) else 0.0
    return sum(rewards[h : h + n]) + ahead


def test_by_hand() -> None:
    """r = 1, 2, 4 and V = 10, 20, 30, lam = 1/2, backwards; column 3 is padding.

    G_2 = 4; G_1 = 2 + 30/2 + 4/2 = 19; G_0 = 1 + 20/2 + 19/2 = 20.5
    """
    rewards = torch.tensor([[1.0, 2.0, 4.0, math.nan]])
    values = torch.tensor([[10.0, 20.0, 30.0, math.inf]])
    mask = torch.tensor([[True, True, True, False]])
    assert lambda_return(rewards, values, mask, 0.5).tolist() == [[20.5, 19.0, 4.0, 0.0]]
    assert lambda_return(rewards, values, mask, 1.0).tolist() == [[7.0, 6.0, 4.0, 0.0]]
    assert lambda_return(rewards, values, mask, 0.0).tolist() == [[21.0, 32.0, 4.0, 0.0]]
    assert following(values, mask).tolist() == [[20.0, 30.0, 0.0, 0.0]]


@pytest.mark.parametrize("lam", LAMBDAS)
def test_is_the_mean_of_n_step_returns(lam: float) -> None:
    """`G = (1 - lam) sum_{n < H} lam^{n-1} G^(n) + lam^{H-1} G^(H)` with H tokens to go, by definition."""
    rewards, values, mask = random_rows()
    returns = lambda_return(rewards, values, mask, lam)
    for row in range(len(mask)):
        positions = mask[row].nonzero()[:, 0].tolist()
        r, v = rewards[row, positions].tolist(), values[row, positions].tolist()
        for h, position in enumerate(positions):
            to_go = len(r) - h
            expected = lam ** (to_go - 1) * brute_force_n_step(r, v, h, to_go)
            expected += sum((1 - lam) * lam ** (n - 1) * brute_force_n_step(r, v, h, n) for n in range(1, to_go))
            assert returns[row, position].item() == pytest.approx(expected, abs=1e-12)
    assert (returns[~mask] == 0).all()


@pytest.mark.parametrize("lam", LAMBDAS)
def test_satisfies_its_recursion(lam: float) -> None:
    rewards, values, mask = random_rows(seed=2)
    returns = lambda_return(rewards, values, mask, lam)
    ahead = (1 - lam) * following(values, mask) + lam * following(returns, mask)
    torch.testing.assert_close(returns[mask], (rewards + ahead)[mask], rtol=0, atol=1e-12)


def test_garbage_outside_the_mask_changes_nothing() -> None:
    rewards, values, mask = random_rows(seed=3)
    dirty = [x.masked_fill(~mask, math.nan) for x in (rewards, values)]
    assert torch.equal(lambda_return(*dirty, mask, 0.9), lambda_return(rewards, values, mask, 0.9))
    assert torch.equal(following(dirty[1], mask), following(values, mask))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_half_precision_rows_are_summed_in_float32(dtype: torch.dtype) -> None:
    """4,096 rewards of 1: in bfloat16 the sum would stop at 256, in float16 at 2,048."""
    ones, mask = torch.ones(1, 4096, dtype=dtype), torch.ones(1, 4096, dtype=torch.bool)
    returns = lambda_return(ones, ones, mask, 1.0)
    assert returns.dtype == torch.float32
    assert returns[0].tolist() == list(range(4096, 0, -1))


def test_no_tokens_at_all() -> None:
    nothing, mask = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)
    assert lambda_return(nothing, nothing, mask, 0.9).shape == (2, 0)
