from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import importance_diagnostics, importance_weights

LOGPS = torch.tensor([[0.5, 0.5, 0.25], [0.5, 0.1, math.nan]]).log()
BEHAVIOR = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.2, 0.7]]).log()
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_by_hand() -> None:
    """Ratios 2, 2, 1/2 and 1, 1/2: products 2 and 1/2 in all, and 2, 4, 2 and 1, 1/2 over the prefixes.

    By token, ratios above the limit 1.5 are 1.5.
    """
    by_trajectory = importance_weights(LOGPS, BEHAVIOR, MASK, "trajectory", clip=3.0)
    torch.testing.assert_close(by_trajectory.weights, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(by_trajectory.log_weights, torch.tensor([2.0, 0.5]).log())
    by_prefix = importance_weights(LOGPS, BEHAVIOR, MASK, "prefix", clip=3.0)
    torch.testing.assert_close(by_prefix.weights, torch.tensor([[2.0, 3.0, 2.0], [1.0, 0.5, 0.0]]))
    torch.testing.assert_close(by_prefix.log_clipped, torch.tensor([[2.0, 3.0, 2.0], [1.0, 0.5, 1.0]]).log())
    assert torch.equal(by_prefix.log_weights, by_trajectory.log_weights)
    by_token = importance_weights(LOGPS, BEHAVIOR, MASK, "token", clip=1.5)
    torch.testing.assert_close(by_token.weights, torch.tensor([[1.5, 1.5, 0.5], [1.0, 0.5, 0.0]]))
    assert torch.equal(by_token.log_weights, by_trajectory.log_weights)
    unclipped = importance_weights(LOGPS, BEHAVIOR, MASK, "token", clip=math.inf)
    torch.testing.assert_close(unclipped.weights, torch.tensor([[2.0, 2.0, 0.5], [1.0, 0.5, 0.0]]))
    unweighted = importance_weights(LOGPS, BEHAVIOR, MASK, "none")
    assert unweighted.weights.tolist() == [1.0, 1.0]
    assert torch.equal(unweighted.log_weights, by_trajectory.log_weights)
    assert importance_weights(LOGPS, BEHAVIOR, MASK, "trajectory").weights.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("mode", ["trajectory", "prefix", "token"])
def test_extreme_ratios_neither_overflow_nor_carry_gradients(mode: str) -> None:
    logps = torch.tensor([[0.0, 0.0], [-1e4, -math.inf]], dtype=torch.float16, requires_grad=True)
    behavior = torch.tensor([[-1e4, -1e4], [0.0, 0.0]], dtype=torch.float16)
    result = importance_weights(logps, behavior, torch.ones(2, 2, dtype=torch.bool), mode, clip=10.0)  # type: ignore[arg-type]
    torch.testing.assert_close(result.weights[0], torch.full_like(result.weights[0], 10.0))
    assert (result.weights[1] == 0).all()
    assert result.weights.dtype == torch.float32 and not result.weights.requires_grad


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'step' is unknown: choose trajectory, prefix, token or none"):
        importance_weights(LOGPS, BEHAVIOR, MASK, "step")  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        importance_weights(LOGPS, BEHAVIOR, MASK, "trajectory", clip=0.0)


def test_diagnostics_by_hand() -> None:
    """Weights 1000, 1, 1, 1/1000: (1002.001)^2 / (4 * 1000002.000001); clipped at 1, (3.001)^2 / (4 * 3.000001)."""
    log_weights = torch.tensor([1000.0, 1.0, 1.0, 0.001], dtype=torch.float64).log()
    unclipped = importance_diagnostics(log_weights, log_weights)
    assert unclipped["effective_sample_size"] == pytest.approx(1002.001**2 / (4 * 1000002.000001))
    assert unclipped["mean_weight"] == pytest.approx(1002.001 / 4)
    diagnostics = importance_diagnostics(log_weights, log_weights.clamp(max=0.0))
    assert diagnostics["effective_sample_size"] == pytest.approx(3.001**2 / (4 * 3.000001))
    assert diagnostics["mean_weight"] == pytest.approx(3.001 / 4)
    assert diagnostics["share_above_100"] == 0.25 and diagnostics["share_below_0.01"] == 0.25
    assert diagnostics["log_weight_p50"] == 0.0
    # The 5 % quantile lies at 0.05 * 3 = 0.15 of the way from the lowest to the next.
    assert diagnostics["log_weight_p05"] == pytest.approx(-0.85 * math.log(1000))
    assert diagnostics["log_weight_p95"] == pytest.approx(0.85 * math.log(1000))
    assert diagnostics["log_weight_max"] == pytest.approx(math.log(1000))


def test_effective_sample_size_at_its_ends() -> None:
    equal = torch.full((8,), 3.0)
    assert importance_diagnostics(equal, equal)["effective_sample_size"] == pytest.approx(1.0)
    lopsided = torch.tensor([0.0] * 7 + [500.0])  # e^500 is beyond float32
    assert importance_diagnostics(lopsided, lopsided)["effective_sample_size"] == pytest.approx(1 / 8)


def test_token_weights_are_judged_by_themselves() -> None:
    """Tokens .95 times as likely: each weight is .95 and as good as any other, while that of 100 tokens is .0059."""
    logps, behavior = torch.full((4, 100), math.log(0.95)), torch.zeros(4, 100)
    found = importance_weights(logps, behavior, torch.ones(4, 100, dtype=torch.bool), "token")
    diagnostics = importance_diagnostics(found.log_weights, found.log_clipped.flatten())
    assert diagnostics["mean_weight"] == pytest.approx(0.95)
    assert diagnostics["effective_sample_size"] == pytest.approx(1.0)
    assert math.exp(diagnostics["log_weight_p50"]) == pytest.approx(0.95**100, rel=1e-4)
