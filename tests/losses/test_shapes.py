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
