from __future__ import annotations

import math

import pytest
import torch

from qstep.losses import bce_loss, mse_loss, orm_loss
from qstep.types import ABSENT

LOSSES = {"bce": bce_loss, "mse": mse_loss, "orm": orm_loss}
LN3 = math.log(3)  # sigmoid(ln 3) = 3/4


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bce", [(math.log(4 / 3) + math.log(4)) / 2, math.log(4) - 0.5 * LN3]),
        ("mse", [(1 / 16 + 9 / 16) / 2, 1 / 16]),
        ("orm", [math.log(4), math.log(4) - 0.5 * LN3]),
    ],
)
def test_by_hand(kind: str, expected: list[float]) -> None:
    """sigmoid(Q) = 3/4 everywhere. Row 0 has labels 1 and 0, row 1 the soft label 1/2.

    bce: -ln(3/4) = ln(4/3) and -ln(1/4) = ln 4, mean; soft, -ln(3/4)/2 - ln(1/4)/2 = ln 4 - ln(3)/2
    mse: (1/4)^2 and (3/4)^2, mean; soft, (3/4 - 1/2)^2
    orm: the last present step, ln 4 in row 0
    """
    labels = torch.tensor([[1.0, ABSENT, 0.0, ABSENT], [ABSENT, 0.5, ABSENT, ABSENT]])
    loss = LOSSES[kind](torch.full((2, 4), LN3, dtype=torch.float64), labels)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_finite_and_deaf_to_padding(kind: str, dtype: torch.dtype, garbage: float) -> None:
    labels = torch.tensor([[1.0, 0.0, ABSENT], [0.2, ABSENT, ABSENT], [ABSENT, ABSENT, ABSENT]])
    q_values = torch.tensor([[-1e4, 1e4, garbage], [50.0, garbage, garbage], [garbage] * 3])
    q_values = q_values.to(dtype).requires_grad_()
    clean = q_values.detach().masked_fill(labels == ABSENT, 0)
    loss = LOSSES[kind](q_values, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[kind](clean, labels)) and loss.isfinite().all() and loss[2] == 0
    loss.sum().backward()
    assert q_values.grad is not None and q_values.grad.isfinite().all()
    assert (q_values.grad[labels == ABSENT] == 0).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_hard_labels_may_be_integers(kind: str) -> None:
    q_values, labels = torch.randn(3, 2), torch.tensor([[1, 0], [0, ABSENT], [ABSENT, ABSENT]])
    assert torch.equal(LOSSES[kind](q_values, labels), LOSSES[kind](q_values, labels.float()))


def test_orm_is_deaf_to_all_but_the_last_step() -> None:
    q_values = torch.randn(1, 3, requires_grad=True)
    orm_loss(q_values, torch.tensor([[0, 1, 1]])).sum().backward()
    assert q_values.grad is not None
    assert (q_values.grad[0] != 0).tolist() == [False, False, True]


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("label", [1.5, -1.0, 7.0, math.nan])
def test_labels_are_probabilities(kind: str, label: float) -> None:
    with pytest.raises(ValueError, match=r"row 1, step 0 is .*: give success rates, not counts"):
        LOSSES[kind](torch.zeros(2, 1), torch.tensor([[1.0], [label]]))
