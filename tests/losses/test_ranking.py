from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qstep.losses import pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.types import ABSENT

LOSSES = {
    "practical": pqm_loss,
    "theoretical": pqm_theoretical_loss,
    "ablation": lambda q_values, labels, margin: pqm_ablation_loss(q_values, labels),
}


def plain(kind: str, q_values: list[float], labels: list[int], margin: float) -> float:
    """One row, term by term as the paper prints it: sums of exponentials in float64."""
    e = np.exp(np.asarray(q_values, dtype=np.float64))
    correct = [i for i, label in enumerate(labels) if label == 1]
    wrong = [i for i, label in enumerate(labels) if label == 0]
    seen = wrong[:1] if kind == "ablation" else wrong
    all_wrong = sum(e[w] for w in seen) * math.exp(0.0 if kind == "ablation" else margin)
    terms = [-math.log(1 / (1 + all_wrong))] if wrong else []
    for t, c in enumerate(correct):
        terms.append(-math.log(e[c] / (1 + sum(e[q] for q in correct[: t + 1]) + all_wrong)))
    if kind == "theoretical":
        terms += [-math.log(e[w] / sum(e[q] for q in wrong[t:])) for t, w in enumerate(wrong[:-1])]
    return sum(terms) / len(terms) if terms else 0.0


def rows(seed: int, size: int, steps: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Random rows of every kind: a first error or none, holes, padding, no label at all."""
    generator = torch.Generator().manual_seed(seed)
    q_values = scale * (2 * torch.rand(size, steps, generator=generator) - 1)
    first_error = torch.randint(0, steps + 1, (size, 1), generator=generator)
    labels = (torch.arange(steps) < first_error).long()
    any_order = torch.rand(size, 1, generator=generator) < 0.3
    labels = torch.where(any_order, torch.randint(0, 2, (size, steps), generator=generator), labels)
    length = torch.randint(0, steps + 1, (size, 1), generator=generator)
    hole = torch.rand(size, steps, generator=generator) < 0.1
    return q_values, labels.masked_fill(hole | (torch.arange(steps) >= length), ABSENT)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("practical", math.log(70 / 3) / 2),
        ("theoretical", math.log(35) / 3),
        ("ablation", math.log(6) / 2),
    ],
)
def test_by_hand(kind: str, expected: float) -> None:
    """Q = ln 3 (correct), ln 2, ln 1 (wrong), margin ln 2: wrong steps weigh 4 and 2 with the margin.

    practical: question ln(1+4+2) = ln 7, correct ln((1+3+4+2)/3) = ln(10/3); half of ln(70/3)
    theoretical: and ln((4+2)/4) = ln(3/2) among the wrong ones; a third of ln(70/3 * 3/2) = ln 35
    ablation: question ln(1+2) = ln 3, correct ln((1+3+2)/3) = ln 2; half of ln 6
    """
    q_values = torch.tensor([[math.log(3), math.log(2), 0.0]], dtype=torch.float64)
    loss = LOSSES[kind](q_values, torch.tensor([[1, 0, 0]]), math.log(2))
    torch.testing.assert_close(loss, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 9),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    margin=st.sampled_from([0.0, 0.5, 2.0, 4.0, 16.0]),
)
def test_agrees_with_float64(kind: str, dtype: torch.dtype, seed: int, steps: int, scale: float, margin: float) -> None:
    """2,000 rows per loss and type, in batches of 100, against `plain` on the same rounded Q-values."""
    q_values, labels = rows(seed, 100, steps, scale)
    q_values = q_values.to(dtype)
    loss = LOSSES[kind](q_values, labels, margin)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = [
        plain(kind, q, label, margin) for q, label in zip(q_values.double().tolist(), labels.tolist(), strict=True)
    ]
    error = np.abs(loss.double().numpy() - exact)
    assert (error <= 1e-6 * np.maximum(1, np.abs(exact))).all(), error.max()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 9),
    scale=st.sampled_from([1.0, 90.0, 1e4]),
    margin=st.sampled_from([0.0, 4.0, 90.0, 1e3]),
    garbage=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
)
def test_finite_and_deaf_to_padding(
    kind: str, dtype: torch.dtype, seed: int, steps: int, scale: float, margin: float, garbage: float
) -> None:
    """2,000 rows per loss and type: extreme Q and margin, and garbage where no step is."""
    q_values, labels = rows(seed, 100, steps, scale)
    absent = labels == ABSENT
    clean = q_values.masked_fill(absent, 0).to(dtype).requires_grad_()
    dirty = q_values.masked_fill(absent, garbage).to(dtype).requires_grad_()
    losses = LOSSES[kind](clean, labels, margin), LOSSES[kind](dirty, labels, margin)
    gradients = [torch.autograd.grad(loss.sum(), q)[0] for loss, q in zip(losses, (clean, dirty), strict=True)]
    assert losses[0].isfinite().all() and gradients[0].isfinite().all()
    assert torch.equal(*losses) and torch.equal(*gradients)
    assert (gradients[0][absent] == 0).all()
    assert (losses[0] >= 0).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_with_nothing_to_rank(kind: str) -> None:
    q_values = torch.full((1, 3), math.nan, requires_grad=True)
    loss = LOSSES[kind](q_values, torch.full((1, 3), ABSENT), 4.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert q_values.grad is not None and q_values.grad.tolist() == [[0.0, 0.0, 0.0]]
    assert LOSSES[kind](torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long), 4.0).tolist() == [0.0, 0.0]


def test_agrees_with_the_published_form() -> None:
    """The published code adds 1e-5 to denominators that hold e^0 = 1: its loss is above, by 1e-5 at most."""
    q_values, labels = rows(seed=5, size=300, steps=6, scale=10.0)
    q_values, margin = q_values.double(), 4.0
    correct, wrong = labels == 1, labels == 0
    e = q_values.exp()
    all_wrong = (wrong * (q_values + margin).exp()).sum(dim=1, keepdim=True)
    of_correct = -(e / (1 + (correct * e).cumsum(dim=1) + all_wrong + 1e-5)).log()
    of_question = -(1 / (1 + all_wrong + 1e-5)).log()
    has_wrong = wrong.any(dim=1, keepdim=True)
    count = correct.sum(dim=1) + has_wrong[:, 0]
    published = ((of_correct * correct).sum(dim=1) + (of_question * has_wrong)[:, 0]) / count.clamp(min=1)
    above = published - pqm_loss(q_values, labels, margin)
    assert above.min() >= -1e-14 and above.max() <= 1e-5


def test_finite_where_the_published_form_is_not() -> None:
    """Q = 60 after Q = -60 in float32: e^{-60} drowns in 1e-5. The terms are 120 + 4 and ln 2, about 0."""
    q_values = torch.tensor([[-60.0, 60.0]], requires_grad=True)
    loss = pqm_loss(q_values, torch.tensor([[1, 0]]), 4.0)
    torch.testing.assert_close(loss, torch.tensor([(124.0 + 64.0) / 2]))
    loss.sum().backward()
    assert q_values.grad is not None
    torch.testing.assert_close(q_values.grad, torch.tensor([[-0.5, 1.0]]))


def test_gradients_are_those_of_the_formula() -> None:
    q_values, labels = rows(seed=1, size=8, steps=5, scale=3.0)
    q_values = q_values.double().requires_grad_()
    for loss in LOSSES.values():
        assert torch.autograd.gradcheck(lambda q, loss=loss: loss(q, labels, 2.0), q_values)


def test_relations() -> None:
    """One wrong step: all three agree at margin 0. A margin only adds. Padding and row order are free."""
    q_values, _ = rows(seed=2, size=50, steps=4, scale=5.0)
    one_wrong = torch.tensor([1, 1, 0, ABSENT]).expand(50, 4)
    practical = pqm_loss(q_values, one_wrong, 0.0)
    assert torch.equal(practical, pqm_theoretical_loss(q_values, one_wrong, 0.0))
    assert torch.equal(practical, pqm_ablation_loss(q_values, one_wrong))
    assert (pqm_loss(q_values, one_wrong, 2.0) > practical).all()
    torch.testing.assert_close(practical, pqm_loss(q_values[:, :3], one_wrong[:, :3], 0.0))
    torch.testing.assert_close(practical.flip(0), pqm_loss(q_values.flip(0), one_wrong, 0.0))


@pytest.mark.parametrize("kind", LOSSES)
def test_labels_are_hard(kind: str) -> None:
    q_values, labels = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.3]])
    with pytest.raises(ValueError, match=r"row 1, step 1 is 0\.3\d*, .*: threshold soft labels"):
        LOSSES[kind](q_values, labels, 4.0)
    with pytest.raises(ValueError, match="row 0, step 0 is -1"):
        LOSSES[kind](q_values, torch.full((2, 2), -1), 4.0)
    with pytest.raises(ValueError, match=r"labels has the shape \(1, 2\); it must be \(2, 2\), that of q_values"):
        LOSSES[kind](q_values, torch.ones(1, 2), 4.0)
    hard = torch.tensor([[1, 0], [0, ABSENT]])
    assert torch.equal(LOSSES[kind](q_values, hard, 4.0), LOSSES[kind](q_values, hard.float(), 4.0))
