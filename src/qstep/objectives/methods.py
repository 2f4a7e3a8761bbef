"""The table of methods: their names, and the modules of their options and objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qstep.objectives.config import GroupConfig
    from qstep.objectives.objective import Objective


@dataclass(frozen=True)
class Method:
    """One way to train.

    Args:
        name: the word after `qstep train`.
        label: its name in tables and on pages.
        about: a phrase for overviews.
        kind: whether it trains a step scorer or a policy.
        config_path: `module:class` of its options.
        objective_path: `module:name` of the callable that makes its objective from options and a tokenizer. For a step
            scorer it also takes the method's name, which is stored with the weights.
    """

    name: str
    label: str
    about: str
    kind: Literal["scorer", "policy"]
    config_path: str
    objective_path: str

    @property
    def config(self) -> type[GroupConfig]:
        """The class of its options, imported."""
        return _imported(self.config_path)

    def objective(self, config: GroupConfig, tokenizer: PreTrainedTokenizerBase) -> Objective[Any]:
        """The objective with these options. Raises ValueError for the options of another method."""
        if type(config) is not self.config:
            raise ValueError(f"{self.name} needs a {self.config.__name__} as args, not a {type(config).__name__}")
        name = {"name": self.name} if self.kind == "scorer" else {}
        objective: Objective[Any] = _imported(self.objective_path)(config, tokenizer, **name)
        return objective


def _imported(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


_IN = "qstep.objectives"
_RANKING, _STEPWISE = f"{_IN}.ranking:RankingConfig", f"{_IN}.steps:StepwiseConfig"
_CLASSIFICATION = f"{_IN}.classification:ClassificationConfig"
_METHODS = (
    Method("pqm", "PQM", "PQM's practical ranking loss (Eq. 10)", "scorer", _RANKING, f"{_IN}.ranking:pqm"),
    Method(
        *("pqm_theoretical", "PQM theoretical", "PQM's theoretical loss (Eq. 9)", "scorer"),
        *(f"{_IN}.ranking:TheoreticalConfig", f"{_IN}.ranking:pqm_theoretical"),
    ),
    Method(
        *("pqm_ablation", "PQM ablation", "PQM's ablation (Eq. 12)", "scorer"),
        *(_STEPWISE, f"{_IN}.ranking:pqm_ablation"),
    ),
    Method("bce", "BCE", "step classification", "scorer", _CLASSIFICATION, f"{_IN}.classification:bce"),
    Method("mse", "MSE", "step regression", "scorer", _CLASSIFICATION, f"{_IN}.classification:mse"),
    Method(
        *("orm", "ORM", "classification of the last step only", "scorer"),
        *(f"{_IN}.steps:ScorerConfig", f"{_IN}.classification:orm"),
    ),
    Method(
        *("sft", "SFT", "supervised learning on every response", "policy"),
        *(f"{_IN}.config:PolicyConfig", f"{_IN}.likelihood:sft"),
    ),
    Method(
        *("rs", "rejection sampling", "rejection sampling: supervised learning on right responses", "policy"),
        *(f"{_IN}.config:PolicyConfig", f"{_IN}.likelihood:rs"),
    ),
    Method(
        *("reinforce", "REINFORCE", "offline policy gradient with a baseline of the problem's responses", "policy"),
        *(f"{_IN}.reinforce:ReinforceConfig", f"{_IN}.reinforce:Reinforce"),
    ),
    Method(
        *("dpo", "DPO", "direct preference optimization on pairs of a problem's responses", "policy"),
        *(f"{_IN}.preference:DPOConfig", f"{_IN}.preference:DPO"),
    ),
    Method(
        *("kto", "KTO", "prospect-theoretic optimization on responses that are right or wrong", "policy"),
        *(f"{_IN}.kto:KTOConfig", f"{_IN}.kto:KTO"),
    ),
    Method("dqo", "DQO", "direct Q-function optimization", "policy", f"{_IN}.dqo:DQOConfig", f"{_IN}.dqo:DQO"),
    Method("dro", "DRO", "DQO's bandit baseline", "policy", f"{_IN}.dro:DROConfig", f"{_IN}.dro:DRO"),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _METHODS}
"""The methods of `qstep train METHOD`, by name."""
