from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import dqo_losses, dqo_q_loss, dqo_value_loss, dro_loss, group_values

MASK = torch.tensor([[True, True, False]])


def test_by_hand() -> None:
    """beta = 1/2, lam = 1/2, log-ratios 2 and -4, V = 3 and 5, r = 0 and 1; column 2 is padding.

    soft rewards u = 0 - 1 = -1 and 1 + 2 = 3
    returns G_1 = 3, G_0 = -1 + 5/2 + 3/2 = 3
    value (3 - 3)^2 + (5 - 3)^2 = 4
    Q 1 + 3 = 4 against 0 + 3, and -2 + 5 = 3 against 1 + 0: 1 + 4 = 5
    """
    logps, reference = torch.tensor([[-1.0, -5.0, math.nan]]), torch.tensor([[-3.0, -1.0, math.inf]])
    values, rewards = torch.tensor([[3.0, 5.0, math.nan]]), torch.tensor([[0.0, 1.0, math.nan]])
    losses = dqo_losses(logps, reference, values, rewards, MASK, beta=0.5, lam=0.5)
    assert losses.returns.tolist() == [[3.0, 3.0, 0.0]]
    assert losses.log_ratios.tolist() == [[2.0, -4.0, 0.0]]
    assert losses.value.tolist() == [4.0] and losses.q.tolist() == [5.0]

    by_trajectory = dqo_losses(logps, reference, values, rewards, MASK, beta=0.5, lam=0.5, weights=torch.tensor([0.5]))
    assert by_trajectory.value.tolist() == [2.0] and by_trajectory.q.tolist() == [2.5]
    prefix = torch.tensor([[1.0, 0.25, 0.0]])
    by_prefix = dqo_losses(logps, reference, values, rewards, MASK, beta=0.5, lam=0.5, weights=prefix)
    assert by_prefix.value.tolist() == [1.0] and by_prefix.q.tolist() == [2.0]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_a_trajectory_that_was_cut_off_continues_from_its_last_value(lam: float) -> None:
    """As `test_by_hand`, twice; the second was cut off at its second token, whose reward of 1000 is not read.

    returns G_0 = u_0 + V(s_1) = -1 + 5 = 4 for every lambda
    value (3 - 4)^2 = 1; Q 1 + 3 = 4 against 0 + 5: 1
    """
    logps, reference = torch.tensor([[-1.0, -5.0, 0.0]] * 2), torch.tensor([[-3.0, -1.0, 0.0]] * 2)
    values, rewards = torch.tensor([[3.0, 5.0, 0.0]] * 2), torch.tensor([[0.0, 1.0, 0.0], [0.0, 1000.0, 0.0]])
    logps.requires_grad_(), values.requires_grad_()
    mask, cut_off = MASK.expand(2, 3), torch.tensor([False, True])
    losses = dqo_losses(logps, reference, values, rewards, mask, beta=0.5, lam=lam, cut_off=cut_off)
    whole = dqo_losses(logps[:1], reference[:1], values[:1], rewards[:1], MASK, beta=0.5, lam=lam)
    assert losses.value[0] == whole.value[0] and losses.q[0] == whole.q[0]
    assert losses.returns[1].tolist() == [4.0, 5.0, 0.0]
    assert losses.value[1] == 1.0 and losses.q[1] == 1.0
    by_logps, by_values = torch.autograd.grad((losses.value + losses.q)[1], [logps, values])
    assert by_logps.tolist() == [[0.0] * 3, [-1.0, 0.0, 0.0]]  # 2 beta (Q - target)
    assert by_values.tolist() == [[0.0] * 3, [-2.0, 0.0, 0.0]]


def test_without_a_reference() -> None:
    """The log-ratio is log pi itself: -1 and -5 give u = 1/2 and 7/2, and with lam = 1 returns 4 and 7/2."""
    logps, zeros = torch.tensor([[-1.0, -5.0, 0.0]]), torch.zeros(1, 3)
    rewards = torch.tensor([[0.0, 1.0, 0.0]])
    losses = dqo_losses(logps, None, zeros, rewards, MASK, beta=0.5, lam=1.0)
    assert losses.returns.tolist() == [[4.0, 3.5, 0.0]]
    same = dqo_losses(logps, zeros, zeros, rewards, MASK, beta=0.5, lam=1.0)
    assert torch.equal(losses.q, same.q)


def test_returns_without_the_kl_term_by_hand() -> None:
    """As `test_by_hand`: beta = 1/2, lam = 1/2, log-ratios 2 and -4, V = 3 and 5, r = 0 and 1.

    returns G_1 = 1, G_0 = 0 + 5/2 + 1/2 = 3
    value (3 - 3)^2 + (5 - 1)^2 = 16
    Q 1 + 3 = 4 against 0 + 1, and -2 + 5 = 3 against 1 + 0: 9 + 4 = 13
    """
    logps, reference = torch.tensor([[-1.0, -5.0, 0.0]]), torch.tensor([[-3.0, -1.0, 0.0]])
    values, rewards = torch.tensor([[3.0, 5.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    losses = dqo_losses(logps, reference, values, rewards, MASK, beta=0.5, lam=0.5, soft_return=False)
    assert losses.returns.tolist() == [[3.0, 1.0, 0.0]]
    assert losses.value.tolist() == [16.0] and losses.q.tolist() == [13.0]


@pytest.mark.parametrize("cut", [False, True])
def test_at_lambda_1_both_losses_have_one_residual(cut: bool) -> None:
    """`V + beta log-ratio - (r + G')` for every token, and the gradients are those of its square, target detached.

    So is path consistency with a learned baseline. At lambda .5 the residuals differ.
    """
    generator = torch.Generator().manual_seed(5)
    logps, reference, values, rewards = torch.randn(4, 3, 6, generator=generator, dtype=torch.float64)
    logps.requires_grad_(), values.requires_grad_()
    mask, beta = torch.arange(6) < torch.tensor([[1], [4], [6]]), 0.3
    cut_off = torch.tensor([False, cut, cut])
    judged = mask & ~(cut_off[:, None] & (torch.arange(6) == mask.sum(dim=1, keepdim=True) - 1))

    def residuals(lam: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Those of the value loss and of the Q loss, from the gradients; the sum of the gradients in both arguments."""
        losses = dqo_losses(logps, reference, values, rewards, mask, beta=beta, lam=lam, cut_off=cut_off)
        by_logps, by_values = torch.autograd.grad((losses.value + losses.q).sum(), [logps, values])
        return by_values / 2, by_logps / (2 * beta), losses.returns

    of_value, of_q, returns = residuals(1.0)
    torch.testing.assert_close(of_value, of_q, rtol=0, atol=1e-12)
    assert (of_q[judged] != 0).all() and (of_q[~judged] == 0).all()
    target = (rewards + torch.nn.functional.pad(returns[:, 1:], (0, 1))).masked_fill(~judged, 0)
    residual = ((values + beta * (logps - reference)) * judged) - target
    torch.testing.assert_close(residual, of_q, rtol=0, atol=1e-12)
    one = torch.autograd.grad(residual.square().sum(), [logps, values])
    torch.testing.assert_close(one[0], 2 * beta * of_q)
    torch.testing.assert_close(one[1], 2 * of_value)
    of_value, of_q, _ = residuals(0.5)
    assert (of_value - of_q).abs().max() > 0.1


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_what_each_loss_teaches(lam: float) -> None:
    """The value loss moves values alone, by 2 (V - G); the Q loss logps alone, by 2 beta (Q - target)."""
    generator = torch.Generator().manual_seed(0)
    logps, reference, values, rewards = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64)
    logps, reference, values = (x.clone().requires_grad_() for x in (logps, reference, values))
    mask, beta, weights = torch.arange(5) < torch.tensor([[3], [5]]), 0.3, torch.tensor([0.5, 2.0])
    weights.requires_grad_()
    losses = dqo_losses(logps, reference, values, rewards, mask, beta=beta, lam=lam, weights=weights)

    arguments = [logps, reference, values, weights]
    by_value = torch.autograd.grad(losses.value.sum(), arguments, retain_graph=True, allow_unused=True)
    assert by_value[0] is None and by_value[1] is None and by_value[3] is None
    expected = 2 * weights[:, None] * (values - losses.returns) * mask
    torch.testing.assert_close(by_value[2], expected.detach())

    by_q = torch.autograd.grad(losses.q.sum(), arguments, allow_unused=True)
    assert by_q[1] is None and by_q[2] is None and by_q[3] is None
    ahead = torch.nn.functional.pad(losses.returns[:, 1:], (0, 1))
    error = beta * losses.log_ratios + values - (rewards + ahead)
    torch.testing.assert_close(by_q[0], (2 * beta * weights[:, None] * error * mask).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_garbage_outside_the_mask_changes_nothing(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 3, 6, generator=generator).to(dtype)
    mask = torch.arange(6) < torch.tensor([[0], [4], [6]])
    results = []
    for garbage in (0.0, math.nan):
        logps, reference, values, rewards = inputs.masked_fill(~mask, garbage)
        logps.requires_grad_(), values.requires_grad_()
        losses = dqo_losses(logps, reference, values, rewards, mask, beta=0.1, lam=0.9)
        gradients = torch.autograd.grad((losses.value + losses.q).sum(), [logps, values])
        assert losses.value.dtype == losses.q.dtype == torch.float32
        assert losses.value[0] == losses.q[0] == 0
        results.append((losses.value, losses.q, losses.returns, losses.log_ratios, *gradients))
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))


def test_the_parts_detach_their_targets() -> None:
    x = torch.ones(1, 3, requires_grad=True)
    values = torch.full((1, 3), 2.0, requires_grad=True)
    assert dqo_value_loss(values.detach(), x, MASK).requires_grad is False
    q_loss = dqo_q_loss(x.detach(), values, x, x, MASK, beta=1.0)
    assert q_loss.requires_grad is False and q_loss.tolist() == [2.0]  # (1 + 2 - 1 - 1)^2, twice


def test_dro_by_hand() -> None:
    """(1 - 1/4 - 1/2 * -3)^2 = (9/4)^2 = 81/16; gradients -2 * 9/4 in V, half of that in the ratio."""
    log_ratio, value = torch.tensor([-3.0], requires_grad=True), torch.tensor([0.25], requires_grad=True)
    loss = dro_loss(log_ratio, value, torch.tensor([1.0]), beta=0.5)
    loss.sum().backward()
    assert loss.tolist() == [81 / 16]
    assert value.grad is not None and value.grad.tolist() == [-4.5]
    assert log_ratio.grad is not None and log_ratio.grad.tolist() == [-2.25]
    half = torch.ones(1, dtype=torch.bfloat16)
    assert dro_loss(half, half, half, beta=0.5).dtype == torch.float32


def test_group_values_by_hand() -> None:
    """beta = 1/ln 2, so exp(r / beta) = 2^r: mean(2^2, 2^0, 2^1, 2^0) = 2 gives V = beta ln 2 = 1; alone, V = r."""
    beta = 1 / math.log(2)
    rewards, group_index = torch.tensor([2.0, -3.0, 0.0, 1.0, 0.0]), torch.tensor([7, 5, 7, 7, 7])
    torch.testing.assert_close(group_values(rewards, group_index, beta), torch.tensor([1.0, -3.0, 1.0, 1.0, 1.0]))


@pytest.mark.parametrize("beta", [1e-4, 0.2, 1e4])
def test_group_values_are_between_mean_and_maximum(beta: float) -> None:
    """Also where exp(r / beta) would overflow: the maximum less beta ln 4 at a small beta, the mean at a large one."""
    rewards, group_index = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.1]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = group_values(rewards.bfloat16(), group_index, beta)
    assert found.dtype == torch.float32
    assert (found[4:] == rewards.bfloat16()[4:]).all(), "equal rewards are V, to the last bit"
    exact = group_values(rewards.double(), group_index, beta)[0].item()
    assert exact == pytest.approx(
        {1e-4: 1 - 1e-4 * math.log(4), 0.2: 0.2 * math.log((math.exp(5) + 3) / 4)}.get(beta, 0.25), abs=1e-4
    )
    assert 0.25 <= exact <= 1
