"""The objectives of a step scorer: PQM's ranking losses and their baselines, their options, the labels they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from qstep.data import check_separator, is_right, refuse_unread
from qstep.losses import bce_loss, mse_loss, orm_loss, pqm_ablation_loss, pqm_loss, pqm_theoretical_loss
from qstep.trainers.dataset import GroupConfig
from qstep.types import ABSENT, Row

Objective = Literal["pqm", "pqm_theoretical", "pqm_ablation", "bce", "mse", "orm"]
MARGINS = ("pqm", "pqm_theoretical")
RANKING = (*MARGINS, "pqm_ablation")


@dataclass
class ScorerConfig(GroupConfig):
    """How to train a step scorer.

    Args:
        step_separator: the text that separates steps in a response, or `split:<name>` of what cut it into them: line,
            blank_line, numbered, sentence or `module:function` (see `qstep annotate`).
        separator_token: the single token put, by its id, after each step; the step's Q is read there.
        responses_per_prompt: responses of one problem that share one pass over its prompt in a batch; null for all.
    """

    step_separator: str = "\n"
    separator_token: str = "\n"
    responses_per_prompt: int | None = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_separator("step_separator", self.step_separator)
        check_separator("separator_token", self.separator_token)


@dataclass
class StepwiseConfig(ScorerConfig):
    """How to train a scorer on the labels of steps.

    Args:
        threshold: a soft label above it counts as correct (0: any success is correct), for the ranking losses and for
            stop_at_first_error; BCE and MSE take soft labels as they are.
        stop_at_first_error: read each response only through its first wrong step, as PRM800K labels them (arXiv
            2305.20050). The steps after it repeat its label whatever they say, and drown what there is to learn. The
            ablation's loss (Eq. 12) never reads them: there it saves their tokens.
        rising: whether rows with a right step after a wrong one are taken as the loss takes them (a ranking loss calls
            that step wrong), or refused. To cut them at the wrong step, take stop_at_first_error.
    """

    threshold: float = 0.0
    stop_at_first_error: bool = False
    rising: Literal["keep", "refuse"] = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < 1:
            raise ValueError(f"--threshold is {self.threshold}; it must be at least 0 and below 1")
        if self.rising == "refuse" and self.stop_at_first_error:
            raise ValueError("--rising refuse refuses what --stop_at_first_error true cuts: take one of the two")


@dataclass
class RankingConfig(StepwiseConfig):
    """How to train a scorer by PQM's ranking (arXiv 2410.11287).

    Args:
        margin: zeta of the ranking losses.
    """

    margin: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"--margin is {self.margin}; it must be at least 0")


def loss_function(objective: Objective, config: ScorerConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one objective as a function of `(q_values [B, S], labels [B, S])`.

    Raises ValueError for a config of another objective.
    """
    wanted = RankingConfig if objective in MARGINS else ScorerConfig if objective == "orm" else StepwiseConfig
    if type(config) is not wanted:
        raise ValueError(f"{objective} is trained with a {wanted.__name__}, not a {type(config).__name__}")
    if isinstance(config, RankingConfig):
        return partial(pqm_loss if objective == "pqm" else pqm_theoretical_loss, margin=config.margin)
    if isinstance(config, StepwiseConfig) and objective not in RANKING and not config.stop_at_first_error:
        refuse_unread(config, ["threshold"], f"--stop_at_first_error true: {objective} takes soft labels as they are")
    return {"pqm_ablation": pqm_ablation_loss, "bce": bce_loss, "mse": mse_loss, "orm": orm_loss}[objective]


def step_labels(
    row: Row, objective: Objective, threshold: float = 0.0, stop_at_first_error: bool = False
) -> list[float]:
    """The labels of the steps that are trained on, as the objective wants them; `ABSENT` for a label of null.

    Ranking losses take hard labels, so a soft one is compared with `threshold`, and every labelled step after the first
    wrong one is wrong (their order assumes it). An ORM's label is the verdict on the whole response where the row has
    one (`is_right`), else its last step's. BCE and MSE take labels as they are. With `stop_at_first_error` the first
    wrong step is the last.
    """
    labels = [float(ABSENT) if label is None else float(label) for label in row["labels"]]
    if objective == "orm":
        verdict = is_right(row)
        return [float(ABSENT)] * (len(labels) - 1) + [labels[-1] if verdict is None else float(verdict)]
    wrong = (t for t, label in enumerate(labels) if label != ABSENT and label <= threshold)
    first_wrong = next(wrong, len(labels))
    if stop_at_first_error:
        labels = labels[: first_wrong + 1]
    if objective in RANKING:
        return [label if label == ABSENT else float(t < first_wrong) for t, label in enumerate(labels)]
    return labels
