"""qstep: trains, tests and serves process reward models, and policies that are their own Q-function.

`__all__` names functions on rows in memory (lists of dicts, `datasets.Dataset`, pandas frames), scorers, rewards and
losses. `docs/python.md` shows them. Each is loaded, with the libraries that it needs, when it is first asked for, so
`import qstep` is fast. The README lists the subpackages.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qstep.lazy import lazy as _lazy  # the name belongs to the module

if TYPE_CHECKING:
    from qstep.api.choosing import ChoiceAccuracies, best_of_n
    from qstep.api.rows import annotate_outcome, grade, read_rows, score, write_rows
    from qstep.api.training import train
    from qstep.data import split_steps
    from qstep.losses import (
        bce_loss,
        dqo_losses,
        dro_loss,
        importance_weights,
        mse_loss,
        orm_loss,
        pqm_ablation_loss,
        pqm_loss,
        pqm_theoretical_loss,
    )
    from qstep.rewards import OutcomeReward, StepReward, openrlhf_reward, verl_reward
    from qstep.scoring import StepScorer, load_scorer

__version__ = "0.1.0"

__all__ = [
    "ChoiceAccuracies",
    "OutcomeReward",
    "StepReward",
    "StepScorer",
    "annotate_outcome",
    "bce_loss",
    "best_of_n",
    "dqo_losses",
    "dro_loss",
    "grade",
    "importance_weights",
    "load_scorer",
    "mse_loss",
    "openrlhf_reward",
    "orm_loss",
    "pqm_ablation_loss",
    "pqm_loss",
    "pqm_theoretical_loss",
    "read_rows",
    "score",
    "split_steps",
    "train",
    "verl_reward",
    "write_rows",
]

_COMMANDS = ("audit", "evaluate", "inspect", "pairs", "sample")
"""Commands that a user may look for among the functions."""

_get, __dir__ = _lazy(
    __name__,
    {
        **dict.fromkeys(("annotate_outcome", "grade", "read_rows", "score", "write_rows"), "api.rows"),
        **dict.fromkeys(("ChoiceAccuracies", "best_of_n"), "api.choosing"),
        **dict.fromkeys(("StepScorer", "load_scorer"), "scoring"),
        **dict.fromkeys(("OutcomeReward", "StepReward", "openrlhf_reward", "verl_reward"), "rewards"),
        "train": "api.training",
        "split_steps": "data",
        "importance_weights": "losses",
        **dict.fromkeys((name for name in __all__ if name.endswith(("_loss", "_losses"))), "losses"),
    },
)


if not TYPE_CHECKING:  # else a type checker would take every name to be there

    def __getattr__(name: str) -> Any:
        """Loads what is asked for: one of `__all__`, or a subpackage, such as `qstep.losses`."""
        if name in _COMMANDS:
            raise AttributeError(
                f"qstep.{name}: only the command `qstep {name}`. qstep.write_rows makes the file it reads"
            )
        if name.endswith(("Trainer", "Config")):
            raise AttributeError(f"qstep.{name}: trainers and their options are in qstep.trainers")
        if name in __all__ or name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            return _get(name)
        return import_module(f"{__name__}.{name}")
