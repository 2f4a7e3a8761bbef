"""Groups of parameters, each with its learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, rates: Mapping[nn.Parameter, float], decayed: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """The trained parameters in groups. Those at the common learning rate come first, then those in `rates`.

    Args:
        rates: learning rates of the parameters that do not use the common one.
        decayed: the names of the parameters with weight decay. Norms and biases have none.
    """
    groups: dict[tuple[float | None, bool], dict[str, Any]] = {}
    for rate in (None, *dict.fromkeys(rates.values())):
        for decay in (True, False):
            own = {} if rate is None else {"lr": rate}
            groups[rate, decay] = {"params": [], "weight_decay": weight_decay if decay else 0.0, **own}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[rates.get(parameter), name in decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
