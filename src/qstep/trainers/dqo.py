"""DQO and DRO: offline reinforcement learning on graded responses, the policy itself being the Q-function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.data import outcome, split_steps, step_token_ends
from qstep.losses import (
    ImportanceMode,
    additive_rewards,
    dqo_losses,
    dro_loss,
    importance_diagnostics,
    importance_weights,
    potential_based_rewards,
)
from qstep.models import Batch, PolicyWithValue, ValueNetwork
from qstep.trainers.base import GroupTrainer
from qstep.trainers.reference import reference_logps
from qstep.trainers.rs import Item, PolicyConfig, collate_rows, policy_dataset
from qstep.types import Row

ProcessRewards = Literal["none", "potential", "additive"]


class ImportanceCollapse(RuntimeError):
    """The importance weights have left too few effective samples to learn from."""


@dataclass
class DQOConfig(PolicyConfig):
    """How to train a policy by DQO (arXiv 2410.09302). The defaults are those found on the miniature.

    Args:
        beta: weight of the KL term against the reference, in units of reward per nat. A wrong response (reward 0)
            has to become `V / beta` nats less likely before its loss is 0; where that is far, right ones go with it.
        lam: lambda of the lambda-return; 1 (the paper's best) never bootstraps.
        reference: `model` (the policy as it was when training began) or `uniform`.
        importance: product of pi/mu over the `trajectory`, over its `prefix`, or `none`.
        importance_clip: upper limit of the weights.
        value: a `separate` value network (the paper), or a linear `head` on the policy's trunk.
        value_learning_rate: of the value network.
        process_rewards: what `step_rewards` of a row add to its outcome reward: `none`, `potential`
            (differences of potentials, which leave the optimal policy alone) or `additive` (centred per problem).
        process_reward_weight: factor on the step rewards.
        min_effective_sample_size: stop when the share of effective samples, or the mean weight, is below this
            for `collapse_patience` optimizer steps in a row.
        step_separator: the text between steps, for placing step rewards on tokens.
    """

    beta: float = 0.2
    lam: float = 1.0
    reference: Literal["model", "uniform"] = "model"
    importance: ImportanceMode = "trajectory"
    importance_clip: float = 1.0
    value: ValueNetwork = "separate"
    value_learning_rate: float = 1e-3
    process_rewards: ProcessRewards = "none"
    process_reward_weight: float = 1.0
    min_effective_sample_size: float = 0.02
    collapse_patience: int = 10
    step_separator: str = "\n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process_rewards == "additive" and self.responses_per_prompt is not None:
            raise ValueError(
                "process_rewards additive are centred per problem, over all its responses: "
                "set responses_per_prompt to null so that a batch holds whole groups."
            )


def ungraded(row: Row) -> str | None:
    """Leaves out rows whose reward is null: nobody knows whether they are right."""
    return "ungradable" if outcome(row) is None else None


class DQOTrainer(GroupTrainer):
    """Trains a `PolicyWithValue` on rows with `reward` (or `label`), `completion_ids` and `logps_behavior`.

    Rows without `logps_behavior` are taken to come from the reference model.
    """

    def __init__(
        self,
        model: PolicyWithValue,
        config: DQOConfig,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.steps_below = 0
        self.log_weights: list[Tensor] = []
        dataset = policy_dataset(path, config, tokenizer, "unpaired", ungraded)
        rewards = [outcome(dataset.row(i)) or 0.0 for i in range(len(dataset.offsets))]
        model.start_value(sum(rewards) / len(rewards))
        self.reference = reference_logps(model, dataset, tokenizer, config)
        super().__init__(model, config, dataset, self.collate, tokenizer, callbacks)

    def collate(self, items: list[Item]) -> Batch:
        batch = collate_rows(self.tokenizer, self.config, items)
        rows = [row for item in items for row in item["rows"]]
        mask = batch["response_mask"].bool()
        reference = torch.zeros(mask.shape)
        behavior = torch.zeros(mask.shape)
        for i, (row, index) in enumerate(zip(rows, batch["row_index"].tolist(), strict=True)):
            length = int(mask[i].sum())
            reference[i, :length] = torch.from_numpy(self.reference[index])
            behavior[i, :length] = (
                torch.tensor(row["logps_behavior"]) if row.get("logps_behavior") else reference[i, :length]
            )
        last = mask.cumsum(1).eq(mask.sum(1, keepdim=True)) & mask
        outcomes = torch.tensor([outcome(row) for row in rows])
        batch["rewards"] = last * outcomes.unsqueeze(1) + self.process_rewards(rows, batch)
        batch["reference_logps"], batch["behavior_logps"] = reference, behavior
        return batch

    def process_rewards(self, rows: list[Row], batch: Batch) -> Tensor:
        """The rewards `[B, T]` that the rows' `step_rewards` add, on the tokens that end the steps."""
        mask = batch["response_mask"].bool()
        if self.config.process_rewards == "none":
            return torch.zeros(mask.shape)
        for row in rows:
            if "step_rewards" not in row:
                raise ValueError(f"row {row.get('id')!r} has no step_rewards; `qstep score` writes them")
        rewards = [row["step_rewards"] for row in rows]
        width = max(len(values) for values in rewards)
        scores, ends = torch.zeros(len(rows), width), torch.full((len(rows), width), -1)
        for i, (row, values) in enumerate(zip(rows, rewards, strict=True)):
            ids = batch["response_ids"][i][mask[i]].tolist()
            steps = row.get("completions") or split_steps(row["completion"], self.config.step_separator)
            positions = step_token_ends(self.tokenizer, ids, steps, self.config.step_separator)
            scores[i, : len(values)] = torch.tensor(values) * self.config.process_reward_weight
            ends[i, : len(values)] = torch.tensor(positions)
        if self.config.process_rewards == "potential":
            return potential_based_rewards(scores, ends, mask)
        return additive_rewards(scores, ends, mask, batch["group_index"])

    def losses(self, model: Any, inputs: Batch) -> Tensor:
        logps, values = model(inputs)
        mask = inputs["response_mask"].bool()
        importance = importance_weights(
            logps, inputs["behavior_logps"], mask, self.config.importance, self.config.importance_clip
        )
        losses = dqo_losses(
            logps,
            inputs["reference_logps"] if self.config.reference == "model" else None,
            values,
            inputs["rewards"],
            mask,
            beta=self.config.beta,
            lam=self.config.lam,
            weights=importance.weights,
        )
        self.log_weights.append(importance.log_weights)
        self.record(
            loss__value=losses.value.mean().item(),
            loss__q=losses.q.mean().item(),
            logps__chosen=logps.detach().sum(1).mean().item(),
            logps__ratio=losses.log_ratios.sum(1).mean().item(),
            values__mean=(values.detach() * mask).sum().item() / mask.sum().item(),
        )
        return losses.value + losses.q

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.watch_importance()
        return loss

    def watch_importance(self) -> None:
        """Logs the weights' health over one optimizer step and stops the run when they have collapsed."""
        if self.config.importance == "none":
            self.log_weights.clear()
            return
        diagnostics = importance_diagnostics(torch.cat(self.log_weights), self.config.importance_clip)
        self.log_weights.clear()
        self.record(**{f"importance__{name}": value for name, value in diagnostics.items()})
        worst = min(diagnostics["effective_sample_size"], diagnostics["mean_weight"])
        self.steps_below = self.steps_below + 1 if worst < self.config.min_effective_sample_size else 0
        if self.steps_below >= self.config.collapse_patience:
            raise ImportanceCollapse(
                f"step {self.state.global_step}: for {self.steps_below} steps the importance weights have kept less "
                f"than {self.config.min_effective_sample_size:.0%} of the batch (effective sample size "
                f"{diagnostics['effective_sample_size']:.2%}, mean weight {diagnostics['mean_weight']:.2e}): the "
                "policy has left the data and no longer learns. Lower learning_rate, raise warmup_steps or beta, or "
                "use importance: prefix or none."
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            values = self.bare_model.value_parameters()
            own = {id(parameter) for parameter in values}
            policy = [p for p in self.bare_model.parameters() if id(p) not in own and p.requires_grad]
            self.optimizer = optimizer_class(
                [{"params": policy}, {"params": values, "lr": self.config.value_learning_rate}],
                **{"weight_decay": self.args.weight_decay, **options},
            )
        return self.optimizer


class DROTrainer(DQOTrainer):
    """DRO: the whole response as one action. Reads the same rows and the same options, and V of the prompt alone."""

    def losses(self, model: Any, inputs: Batch) -> Tensor:
        logps, values = model(inputs)
        reference = inputs["reference_logps"] if self.config.reference == "model" else torch.zeros_like(logps)
        log_ratios = ((logps - reference) * inputs["response_mask"]).sum(1)
        losses = dro_loss(log_ratios, values[:, 0], inputs["rewards"].sum(1), self.config.beta)
        self.log_weights.append((logps.detach() - inputs["behavior_logps"]).mul(inputs["response_mask"]).sum(1))
        self.record(logps__ratio=log_ratios.mean().item(), values__mean=values[:, 0].mean().item())
        return losses
