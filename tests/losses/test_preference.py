"""DPO, IPO and KTO by hand."""

from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import dpo_loss, ipo_loss, kto_loss, preference_pairs


def test_pairs_by_hand() -> None:
    """Two groups, interleaved: of rewards 1, 0, .5, 1 four pairs, since equal rewards make none; of 2, 2 none."""
    rewards = torch.tensor([1.0, 2.0, 0.0, 0.5, 2.0, 1.0])
    groups = torch.tensor([0, 1, 0, 0, 1, 0])
    better, worse = preference_pairs(rewards, groups)
    assert {*zip(better.tolist(), worse.tolist(), strict=True)} == {(0, 2), (0, 3), (3, 2), (5, 2), (5, 3)}
    better, worse = preference_pairs(torch.ones(3), torch.zeros(3, dtype=torch.int64))
    assert len(better) == len(worse) == 0


def test_dpo_by_hand() -> None:
    """Differences 0, log(3) / beta and its negative: the better response wins with chance 1/2, 3/4 and 1/4."""
    beta = 0.5
    chosen, rejected = torch.tensor([1.0, math.log(3) / beta, 0.0]), torch.tensor([1.0, 0.0, math.log(3) / beta])
    expected = -torch.tensor([0.5, 0.75, 0.25]).log()
    torch.testing.assert_close(dpo_loss(chosen, rejected, beta), expected)


def test_dpo_is_finite_far_from_the_reference() -> None:
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    losses = dpo_loss(chosen, torch.zeros(2), 1.0)
    assert losses.tolist() == [1e4, 0.0]
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert gradient.tolist() == [-1.0, 0.0]


def test_ipo_by_hand() -> None:
    """The goal is 1 / (2 x .25) = 2: a difference of 2 costs nothing, one of 0 and one of 4 cost 4."""
    chosen, rejected = torch.tensor([3.0, 1.0, 4.0]), torch.tensor([1.0, 1.0, 0.0])
    assert ipo_loss(chosen, rejected, 0.25).tolist() == [0.0, 4.0, 4.0]


def test_kto_by_hand() -> None:
    """beta (log-ratio - KL) is log 3, -log 3 and 0: a right response costs 1/4, 3/4, 1/2, a wrong one 3/4, 1/4, 1/2."""
    beta, kl = 0.5, torch.tensor(2.0)
    log_ratios = 2.0 + torch.tensor([math.log(3), -math.log(3), 0.0]) / beta
    right, wrong = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(kto_loss(log_ratios, right, kl, beta), torch.tensor([0.25, 0.75, 0.5]))
    torch.testing.assert_close(kto_loss(log_ratios, wrong, kl, beta, 9.0, 2.0), torch.tensor([1.5, 0.5, 1.0]))
    torch.testing.assert_close(kto_loss(log_ratios, right, kl, beta, 3.0), torch.tensor([0.75, 2.25, 1.5]))


def test_kl_has_no_gradient() -> None:
    kl = torch.tensor(1.0, requires_grad=True)
    log_ratios = torch.zeros(1, requires_grad=True)
    kto_loss(log_ratios, torch.tensor([True]), kl, 0.1).sum().backward()
    assert kl.grad is None and log_ratios.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_in_fp32(dtype: torch.dtype) -> None:
    ratios = torch.tensor([1.0], dtype=dtype)
    right = torch.tensor([True])
    for losses in (
        dpo_loss(ratios, -ratios, 0.1),
        ipo_loss(ratios, -ratios, 0.1),
        kto_loss(ratios, right, ratios[0], 0.1),
    ):
        assert losses.dtype == torch.float32
