"""DQO (arXiv 2410.09302): each token is an action, and the policy is its own Q-function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.data import how_to_add, is_truncated, row_step_ends, steps_of
from qstep.losses import additive_rewards, dqo_losses, potential_based_rewards
from qstep.losses.precision import last_tokens
from qstep.models import ModelOptions, PolicyWithValue
from qstep.objectives.batch import GradedBatch, RewardedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import by_outcome
from qstep.objectives.importance import Importance, ImportanceConfig, WeightedObjective
from qstep.objectives.objective import Losses
from qstep.objectives.source import RowsFile
from qstep.objectives.value_function import ValueConfig, ValueFunction
from qstep.runs.options import Bounds, ReadIf
from qstep.runs.shared_options import StepSeparator
from qstep.types import Row, Truncated

ProcessRewards = Literal["none", "potential", "additive"]

_BY_STEPS = ReadIf(process_rewards=("potential", "additive"))


@dataclass
class DQOConfig(ImportanceConfig, ValueConfig):
    """How to train a policy by DQO (arXiv 2410.09302).

    Args:
        truncated: what happens to responses that were cut off (`finish_reason` is `length`) and are not right. `keep`
            takes them as they are graded; `drop` leaves them out and counts them; `mask` keeps their tokens, and the
            return continues from V where they were cut.
        lam: lambda of the lambda-return, from 0 to 1. With 1, the paper's best value, returns never bootstrap from V,
            except where `--truncated mask` cuts a response.
        process_rewards: how `step_rewards` of a row add to its outcome reward. `potential` adds differences of
            potentials, which keep the optimal policy; `additive` adds rewards centred per problem.
        process_reward_weight: factor on the step rewards.
        step_separator: the string between steps, or the `split:<name>` that cut them. It places step rewards on tokens,
            whichever tokenizer the scorer had.
    """

    truncated: Truncated = "keep"
    lam: Annotated[float, Bounds(least=0, most=1)] = 1.0
    process_rewards: ProcessRewards = "none"
    process_reward_weight: Annotated[float, Bounds(least=0), _BY_STEPS] = 1.0
    step_separator: Annotated[StepSeparator, _BY_STEPS] = "\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process_rewards == "additive" and self.responses_per_prompt is not None:
            raise ValueError(
                "--process_rewards additive needs complete groups in a batch, because it centres rewards per problem. "
                "Set --responses_per_prompt to null"
            )


class DQO(WeightedObjective[RewardedBatch]):
    """Reads rows with `reward` or `label`, with `logps_behavior` and, for process rewards, with `step_rewards`.

    Rows without `logps_behavior` count as samples of the reference model, with a warning.
    """

    def __init__(self, config: DQOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer, self.value = config, tokenizer, ValueFunction(config, tokenizer)
        self.importance = Importance(config, "--warmup_steps or --beta")

    def new_model(self, options: ModelOptions) -> PolicyWithValue:
        return self.value.new_model(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        if self.config.process_rewards == "none":
            return self.value.rows(source)
        dataset = self.value.rows(source, self.config.step_separator)
        unscored = dataset.rows[~dataset.index.table["rewarded"][dataset.rows]]
        if len(unscored):
            raise source.error(
                dataset.index.line(int(unscored.min())),
                "step_rewards",
                f"is missing ({len(unscored)} such rows), but process_rewards {self.config.process_rewards} needs it: "
                f"{how_to_add('step_rewards')}",
            )
        return dataset

    def begin(self, model: PolicyWithValue, train: GroupDataset) -> None:
        self.value.begin(model, train)
        self.importance.begin(train)

    def needs_reference(self, dataset: GroupDataset) -> bool:
        return self.value.needs_reference() or self.importance.needs_reference(dataset)

    def learning_rates(self, model: PolicyWithValue) -> dict[nn.Parameter, float]:
        return self.value.learning_rates(model)

    def collate(self, items: list[Item]) -> RewardedBatch:
        graded = self.value.collate(items)
        rows = [row for item in items for row in item["rows"]]
        mask = graded["response_mask"].bool()
        rewards = last_tokens(mask) * graded["outcomes"].unsqueeze(1) + self._process_rewards(rows, graded)
        more: Any = self.importance.columns(rows, mask, graded.get("reference_logps"))
        if self.config.truncated == "mask":
            more["cut_off"] = torch.tensor([is_truncated(row) for row in rows])
        return {**graded, "rewards": rewards, **more}

    def _process_rewards(self, rows: list[Row], batch: GradedBatch) -> Tensor:
        """The rewards `[B, T]` that `step_rewards` add at the tokens that end the steps."""
        mask = batch["response_mask"].bool()
        if self.config.process_rewards == "none":
            return torch.zeros(mask.shape)
        rewards = [row["step_rewards"] for row in rows]
        width = max(len(values) for values in rewards)
        scores, ends = torch.zeros(len(rows), width), torch.full((len(rows), width), -1)
        for i, (row, values) in enumerate(zip(rows, rewards, strict=True)):
            steps = steps_of(row, self.config.step_separator)
            positions = row_step_ends(self.tokenizer, row, steps, self.config.step_separator)
            scores[i, : len(values)] = torch.tensor(values) * self.config.process_reward_weight
            ends[i, : len(values)] = torch.tensor(positions)
        if self.config.process_rewards == "potential":
            return potential_based_rewards(scores, ends, mask)
        return additive_rewards(scores, ends, mask, batch["group_index"])

    def losses(self, model: Any, batch: RewardedBatch) -> Losses:
        logps, values = model(batch)
        mask = batch["response_mask"].bool()
        losses = dqo_losses(
            logps,
            batch["reference_logps"] if self.config.reference == "model" else None,
            values,
            batch["rewards"],
            mask,
            beta=self.config.beta,
            lam=self.config.lam,
            weights=self.importance.weights(model, logps, batch),
            cut_off=batch.get("cut_off"),
        )
        recorded = {
            "loss/value": losses.value,
            "loss/q": losses.q,
            "logps/ratio": losses.log_ratios.sum(1),
            "values/mean": values[mask],
            **by_outcome(logps, batch),
        }
        return Losses(losses.value + losses.q, recorded)
