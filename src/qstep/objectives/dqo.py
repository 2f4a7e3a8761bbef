"""DQO (arXiv 2410.09302): each token is an action, and the policy is its own Q-function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.data import has_turns, how_to_add, is_truncated, row_step_ends, step_regions, steps_of
from qstep.losses import additive_rewards, dqo_losses, min_form_rewards, potential_based_rewards
from qstep.losses.precision import last_tokens
from qstep.models import ModelOptions, PolicyWithValue
from qstep.objectives.batch import GradedBatch, WeightedBatch
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import by_outcome
from qstep.objectives.importance import Importance, ImportanceConfig, WeightedObjective
from qstep.objectives.metrics import of_values
from qstep.objectives.objective import Losses, Recorded
from qstep.objectives.source import RowsFile
from qstep.objectives.value_function import ValueConfig, ValueFunction
from qstep.runs.options import Bounds, ReadIf, Such
from qstep.runs.shared_options import StepSeparator
from qstep.types import Row, Truncated
from qstep.words import counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ProcessRewards = Literal["none", "potential", "additive", "min"]

_BY_STEPS = ReadIf(process_rewards=Such(lambda way: way != "none"))


@dataclass
class DQOConfig(ImportanceConfig, ValueConfig):
    """How to train a policy by DQO (arXiv 2410.09302).

    Args:
        truncated: what happens to responses that were cut off and are not right. Their `finish_reason` is `length`.
            `keep` takes them as they are graded; `drop` leaves them out and counts them; `mask` keeps their tokens, and
            the return continues from V where they were cut.
        lam: lambda of the lambda-return, from 0 to 1. With 1, the paper's best value, returns never bootstrap from V,
            except where `--truncated mask` cuts a response.
        soft_return: the return of V contains the KL term, as in the paper. Without it V is the plain value of the
            policy that sampled the responses, and the result is one improvement on that policy instead of the optimum.
        updates: trains V and policy `together` or in turn (`alternating`). Each optimizer step then trains one of them,
            V first, so twice as many steps are needed.
        normalize: divides the loss by responses (`sequence`) or tokens (`token`). Those of the complete optimizer step
            count. With `token`, a step of long responses is no larger than one of short responses.
        process_rewards: how `step_rewards` of a row add to its outcome reward. `potential` adds differences of
            potentials, which keep the optimal policy. `additive` adds rewards centred per problem. `min` adds a soft
            minimum of them, so the worst step decides (PURE, arXiv 2504.15275).
        process_reward_weight: factor on the step rewards.
        process_reward_temperature: softness of the minimum. The unit is that of step rewards, and 0 takes the minimum
            itself.
        step_separator: the string between steps. `split:<name>` names a splitter that cut them. It places step rewards
            on tokens, whichever tokenizer the scorer had.
    """

    truncated: Truncated = "keep"
    lam: Annotated[float, Bounds(least=0, most=1)] = 1.0
    soft_return: bool = True
    updates: Literal["together", "alternating"] = "together"
    normalize: Literal["sequence", "token"] = "sequence"
    process_rewards: ProcessRewards = "none"
    process_reward_weight: Annotated[float, Bounds(least=0), _BY_STEPS] = 1.0
    process_reward_temperature: Annotated[float, Bounds(least=0), ReadIf(process_rewards="min")] = 0.1
    step_separator: Annotated[StepSeparator, _BY_STEPS] = "\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process_rewards == "additive" and self.responses_per_prompt is not None:
            raise ValueError(
                "--process_rewards additive needs complete groups in a batch, because it centres rewards per problem. "
                "Set --responses_per_prompt to null"
            )
        if self.updates == "alternating" and self.train_sampling_strategy == "sequential":
            raise ValueError(
                "--updates alternating needs another order of the rows in each epoch, because a step trains either V "
                "or the policy on its rows. Set --train_sampling_strategy to random"
            )


class RewardedBatch(WeightedBatch):
    """Graded responses, with each token as an action."""

    rewards: Float[Tensor, "B T"]
    cut_off: NotRequired[Bool[Tensor, " B"]]
    """Whether the end of the response is not judged."""


class DQO(WeightedObjective[RewardedBatch]):
    """Reads rows with `reward` or `label`, with `logps_behavior` and, for process rewards, with `step_rewards`.

    Rows without `logps_behavior` count as `behavior` says.
    """

    def __init__(self, config: DQOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer, self.value = config, tokenizer, ValueFunction(config, tokenizer)
        self.importance = Importance(config, tokenizer, "--warmup_steps or --beta")
        self.steps = 0

    def new_model(self, options: ModelOptions) -> PolicyWithValue:
        return self.value.new_model(options)

    def rows(self, source: RowsFile) -> GroupDataset:
        scored = self.config.process_rewards != "none"
        dataset = self.value.rows(source, self.config.step_separator if scored else None)
        self.importance.check(dataset)
        if not scored:
            return dataset
        unscored = dataset.rows[~dataset.index.table["rewarded"][dataset.rows]]
        if len(unscored):
            raise source.error(
                dataset.index.line(int(unscored.min())),
                "step_rewards",
                f"is missing ({len(unscored)} such rows), but process_rewards {self.config.process_rewards} needs it: "
                f"{how_to_add('step_rewards')}",
            )
        self._check_step_rewards(source, dataset)
        return dataset

    def _check_step_rewards(self, source: RowsFile, dataset: GroupDataset) -> None:
        """Raises RowError for a row whose steps are not those of its response, or not as many as its rewards."""
        for number in dataset.rows.tolist():
            row, line = dataset.row(number), dataset.index.line(number)
            try:
                steps = steps_of(row, self.config.step_separator)
                if not has_turns(row["completion"]):
                    step_regions(row["completion"], steps, self.config.step_separator)
            except ValueError as error:
                raise source.error(line, "completions", f"do not fit the completion: {error}") from None
            if len(row["step_rewards"]) != len(steps):
                raise source.error(
                    line,
                    "step_rewards",
                    f"has {counted(len(row['step_rewards']), 'entry', 'entries')}, and --step_separator "
                    f"{self.config.step_separator!r} cuts the completion into {counted(len(steps), 'step')}. Give one "
                    "for each step, or completions",
                )

    def begin(self, model: PolicyWithValue, train: GroupDataset) -> None:
        self.value.begin(model, train)
        self.importance.begin(model, train)

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
            scores[i, : len(values)] = torch.tensor(values)
            ends[i, : len(values)] = torch.tensor(positions)
        if self.config.process_rewards == "potential":
            added = potential_based_rewards(scores, ends, mask)
        elif self.config.process_rewards == "additive":
            added = additive_rewards(scores, ends, mask, batch["group_index"])
        else:
            added = min_form_rewards(scores, ends, mask, self.config.process_reward_temperature)
        return self.config.process_reward_weight * added

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
            soft_return=self.config.soft_return,
        )
        recorded = {
            "loss/value": losses.value,
            "loss/q": losses.q,
            "logps/ratio": losses.log_ratios.sum(1),
            "values/mean": values[mask],
            **by_outcome(logps, batch, self.config.beta),
            **of_values(losses.returns[mask], values[mask]),
        }
        if self.config.updates == "alternating" and model.training:
            return Losses(losses.q if self.steps % 2 else losses.value, recorded)
        return Losses(losses.value + losses.q, recorded)

    def count_items(self, batch: RewardedBatch) -> Tensor:
        return batch["response_mask"].sum(dim=1) if self.config.normalize == "token" else super().count_items(batch)

    def end_step(self, step: int) -> Recorded:
        self.steps = step + 1
        return super().end_step(step)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.steps = state.get("steps", 0)
