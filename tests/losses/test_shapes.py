"""The annotations of the losses are checked, not decoration: each call runs under jaxtyping and beartype."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype

from qstep import losses, mdp

B, S, T = 3, 4, 5
Q, LABELS = torch.randn(B, S), torch.tensor([[1, 1, 0, 0], [1, -100, 0, -100], [-100] * 4])
TOKENS, MASK = torch.randn(B, T), torch.arange(T) < torch.tensor([[5], [2], [0]])
ROWS, ENDS = torch.randn(B), torch.tensor([[0, 2, 4, -1], [1, -1, -1, -1], [-1] * 4])

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "pqm_loss": (Q, LABELS, 4.0),
    "pqm_theoretical_loss": (Q, LABELS, 4.0),
    "pqm_ablation_loss": (Q, LABELS),
    "bce_loss": (Q, LABELS.float()),
    "mse_loss": (Q, LABELS),
    "orm_loss": (Q, LABELS),
    "following": (TOKENS, MASK),
    "lambda_return": (TOKENS, TOKENS, MASK, 0.9),
    "dqo_value_loss": (TOKENS, TOKENS, MASK, ROWS),
    "dqo_q_loss": (TOKENS, TOKENS, TOKENS, TOKENS, MASK, 0.1, TOKENS),
    "dro_loss": (ROWS, ROWS, ROWS, 0.1),
    "group_values": (ROWS, torch.tensor([0, 0, 1]), 0.2),
    "group_advantages": (ROWS, torch.tensor([0, 0, 1]), "mean"),
    "preference_pairs": (ROWS, torch.tensor([0, 0, 1])),
    "dpo_loss": (ROWS, ROWS, 0.1),
    "ipo_loss": (ROWS, ROWS, 0.1),
    "kto_loss": (ROWS, ROWS > 0, torch.tensor(0.5), 0.1),
    "reinforce_loss": (TOKENS, ROWS, MASK, TOKENS),
    "importance_weights": (TOKENS, TOKENS, MASK, "prefix"),
    "importance_diagnostics": (ROWS, ROWS),
    "potential_based_rewards": (Q, ENDS, MASK, ROWS),
    "min_form_rewards": (Q, ENDS, MASK, 0.1),
    "additive_rewards": (Q, ENDS, MASK, torch.tensor([0, 0, 1])),
}


def checked(name: str) -> Callable[..., Any]:
    """The function with its annotations enforced."""
    return jaxtyping.jaxtyped(typechecker=beartype)(getattr(losses, name))


def test_every_function_is_here() -> None:
    functions = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert functions == {*ARGUMENTS, "dqo_losses"}


def test_annotations_can_be_read() -> None:
    """As an editor, a notebook or a documentation tool does."""
    for name in ARGUMENTS:
        hints = typing.get_type_hints(getattr(losses, name))
        assert {*inspect.signature(getattr(losses, name)).parameters, "return"} == {*hints}
    assert typing.get_type_hints(mdp.TokenTree.solve)["return"] is not None


@pytest.mark.parametrize("name", ARGUMENTS)
def test_shapes_are_as_annotated(name: str) -> None:
    checked(name)(*ARGUMENTS[name])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_another_shape_is_noticed(name: str) -> None:
    """So the check above can fail: the first argument gets one axis too many."""
    first, *others = ARGUMENTS[name]
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(name)(first[None], *others)


@pytest.mark.parametrize("weights", [None, ROWS, TOKENS])
def test_shapes_of_dqo_losses(weights: torch.Tensor | None) -> None:
    function = checked("dqo_losses")
    result = function(TOKENS, TOKENS, TOKENS, TOKENS, MASK, beta=0.1, lam=0.9, weights=weights)
    assert result.value.shape == result.q.shape == (B,)
    assert result.returns.shape == result.log_ratios.shape == (B, T)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(TOKENS, TOKENS[:, 1:], TOKENS, TOKENS, MASK, beta=0.1, lam=0.9)


@pytest.mark.parametrize(
    ("name", "place", "wrong", "refusal"),
    [
        ("dro_loss", 1, ROWS[:, None], r"values has the shape \(3, 1\); it must be \(3,\), that of log_ratio_sums"),
        ("reinforce_loss", 1, ROWS[:, None], r"advantages has .* \(3,\), a value for each row of logps"),
        ("reinforce_loss", 3, TOKENS[:, :1], r"weights has .* that of logps"),
        ("reinforce_loss", 3, TOKENS[0], r"weights has .* \(3,\), a weight for each row of logps"),
        ("dpo_loss", 1, ROWS[:, None], "rejected_log_ratios has"),
        ("ipo_loss", 1, ROWS[:, None], "rejected_log_ratios has"),
        ("kto_loss", 2, ROWS[:, None], r"kl has .* \(3, 1\); it must be \(\), one number"),
        ("kto_loss", 1, (ROWS > 0)[:, None], "desirable has"),
        ("importance_weights", 1, TOKENS[:1], "behavior_logps has"),
        ("lambda_return", 1, TOKENS[:, :1], "values has"),
        ("dqo_value_loss", 1, TOKENS[:, :1], "returns has"),
        ("dqo_q_loss", 2, TOKENS[:, :1], "rewards has"),
        ("pqm_loss", 1, LABELS[:1], "labels has"),
        ("bce_loss", 1, LABELS[:1], "labels has"),
    ],
)
def test_a_shape_that_would_be_broadcast_is_refused(name: str, place: int, wrong: torch.Tensor, refusal: str) -> None:
    arguments = [*ARGUMENTS[name]]
    arguments[place] = wrong
    with pytest.raises(ValueError, match=refusal):
        getattr(losses, name)(*arguments)


@pytest.mark.parametrize("name", ["reference_logps", "values", "rewards", "weights", "cut_off"])
def test_dqo_losses_broadcast_nothing(name: str) -> None:
    """A reward of each row, `[B, 1]`, would be paid at every token."""
    arguments = dict(logps=TOKENS, reference_logps=TOKENS, values=TOKENS, rewards=TOKENS, mask=MASK)
    wrong = torch.zeros(B, 1, dtype=torch.bool if name == "cut_off" else torch.float32)
    with pytest.raises(ValueError, match=rf"{name} has the shape \(3, 1\)"):
        losses.dqo_losses(**{**arguments, name: wrong}, beta=0.1, lam=0.9)


def test_the_check_does_not_break_a_compiled_graph() -> None:
    compiled = torch.compile(losses.dro_loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ROWS, ROWS, ROWS, 0.1), losses.dro_loss(ROWS, ROWS, ROWS, 0.1))
