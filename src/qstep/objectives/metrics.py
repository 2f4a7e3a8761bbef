"""What the log shows of a policy and its V, besides the losses. Names are TRL's where TRL has them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qstep.models import Batch, PolicyModel

_RETURN, _ERROR = "moments/return", "moments/error"


def of_policy(model: Any, batch: Batch) -> dict[str, Tensor]:
    """The policy's entropy at the tokens of a batch, and the lengths of its responses."""
    if not isinstance(model, PolicyModel):
        return {}
    lengths = {"completions/mean_length": batch["response_mask"].sum(1)}
    return lengths if model.entropies is None else {"entropy": model.entropies, **lengths}


def of_values(returns: Tensor, values: Tensor) -> dict[str, Tensor]:
    """What `derived` computes the explained variance of V from, for returns and values of the same states."""
    errors = returns - values
    return {
        _RETURN: returns,
        f"{_RETURN}^2": returns.square(),
        _ERROR: errors,
        f"{_ERROR}^2": errors.square(),
    }


def derived(means: dict[str, float]) -> dict[str, float]:
    """The means with margins between right and other responses, and with the explained variance of V.

    The explained variance is `1 - Var(G - V) / Var(G)`. It is left out if all returns G are about the same.
    """
    for name in ("logps", "rewards"):
        if {f"{name}/chosen", f"{name}/rejected"} <= means.keys():
            means[f"{name}/margins"] = means[f"{name}/chosen"] - means[f"{name}/rejected"]
    if _RETURN in means:
        of_returns, of_errors = (means.pop(f"{name}^2") - means.pop(name) ** 2 for name in (_RETURN, _ERROR))
        if of_returns > 1e-6:
            means["values/explained_variance"] = 1 - of_errors / of_returns
    return means


def split(name: str, values: Tensor, right: Tensor, others: Tensor) -> dict[str, Tensor]:
    """The values of right responses and of others, `[B]` each, as TRL names them."""
    return {f"{name}/chosen": values[right], f"{name}/rejected": values[others]}
