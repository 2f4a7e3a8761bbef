"""Training a policy and a value function on graded responses by DRO: the response is one action."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from qstep.data import Index, is_right, outcome, tokenizer_fingerprint
from qstep.losses import dro_loss
from qstep.models import Batch, ModelOptions, PolicyWithValue, ValueNetwork
from qstep.trainers.base import GroupTrainer
from qstep.trainers.dataset import GroupConfig, GroupDataset, Item, Reasons
from qstep.trainers.policy import collate_rows, policy_rows
from qstep.trainers.processes import here
from qstep.trainers.reference import reference_store, weights_fingerprint

_NAMES_ONLY = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""What of a model's config says nothing of what it computes; its weights say their dtype."""

_log = logging.getLogger(__name__)


@dataclass
class DROConfig(GroupConfig):
    """How to train a policy and a value function on graded responses.

    Args:
        beta: weight of the KL term against the reference, in units of reward per nat. A wrong response (reward 0)
            has to become `V / beta` nats less likely before its loss is 0; where that is far, right ones go with it.
        reference: `model` (the policy as it was when training began) or `uniform`.
        value: a `separate` value network (the paper), or a linear `head` on the policy's trunk.
        value_learning_rate: of the value function. The default is that of fine-tuning a pretrained network; a small one
            that is trained from scratch takes a hundred times as much.
    """

    beta: float = 0.2
    reference: Literal["model", "uniform"] = "model"
    value: ValueNetwork = "separate"
    value_learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(f"--beta is {self.beta}; it must be above 0")


def ungraded(index: Index) -> Reasons:
    """Leaves out rows whose reward is null: nobody knows whether they are right."""
    return {"ungradable": np.isnan(index.table["outcome"])}


class DROTrainer(GroupTrainer):
    """DRO: the whole response as one action, and V of the prompt alone. Reads rows with `reward` or `label`."""

    def __init__(self, model: PolicyWithValue, *args: Any, **options: Any) -> None:
        super().__init__(model, *args, **options)
        train = self.train_dataset
        outcomes = train.index.table["outcome"][train.rows]
        model.start_value(float(outcomes.mean()))
        if outcomes.min() == outcomes.max() and here()[0] == 0:
            _log.warning(
                "%s: the reward of every row is %g, so the outcomes tell no response from another: were the rows "
                "graded as you meant?",
                train.path,
                outcomes[0],
            )
        self._add_reference()

    @classmethod
    def new_model(cls, options: ModelOptions, config: DROConfig) -> PolicyWithValue:
        return PolicyWithValue.new_with_value(options, config.value)

    def rows(self, path: Path) -> GroupDataset:
        return policy_rows(path, self.config, self.tokenizer, "unpaired", ungraded)

    def needs_reference(self, dataset: GroupDataset) -> bool:
        """Whether the losses read the reference's log-probabilities of these rows."""
        return self.config.reference == "model"

    def _add_reference(self) -> None:
        """Has items carry the reference's log-probabilities, of the rows that the run will reach."""
        args, model = self.args, self.bare_model
        order = self.sampler(self.train_dataset, training=True)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * order.steps)
        wanted = [(self.train_dataset, order.reached(steps))]
        if isinstance(self.eval_dataset, GroupDataset):
            wanted.append((self.eval_dataset, list(range(len(self.eval_dataset)))))
        if not any(self.needs_reference(dataset) for dataset, _ in wanted):
            return
        weights = weights_fingerprint(model, lambda name: not name.startswith("value_") and "lora_" not in name)
        computed = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES_ONLY}
        config = json.dumps(computed, sort_keys=True, default=str)
        key = f"{weights} {config} {tokenizer_fingerprint(self.tokenizer)} {args.mixed_precision}"

        def logps(batch: Batch) -> Tensor:
            with self.accelerator.autocast(), model.reference():
                return model.policy_logps({name: value.to(args.device) for name, value in batch.items()})

        model.eval()
        for dataset, items in wanted:
            store = reference_store(dataset, items, key, lambda items: collate_rows(self.tokenizer, items), logps)
            dataset.columns["reference_logps"] = store
        model.train()

    def collate(self, items: list[Item]) -> Batch:
        batch = collate_rows(self.tokenizer, items)
        mask = batch["response_mask"].bool()
        rows = [row for item in items for row in item["rows"]]
        batch["outcomes"] = torch.tensor([outcome(row) for row in rows])
        batch["right"] = torch.tensor([bool(is_right(row)) for row in rows])
        if "reference_logps" in items[0]:
            values = [logps for item in items for logps in item["reference_logps"]]
            batch["reference_logps"] = torch.zeros(mask.shape)
            batch["reference_logps"][mask] = torch.from_numpy(np.concatenate(values))
        return batch

    def losses(self, model: Any, inputs: Batch) -> Tensor:
        logps, values = model(inputs)
        log_ratios = logps if self.config.reference == "uniform" else logps - inputs["reference_logps"]
        log_ratios = (log_ratios * inputs["response_mask"]).sum(1)
        self.record(logps__ratio=log_ratios, values__mean=values[:, 0], **by_outcome(logps, inputs))
        return dro_loss(log_ratios, values[:, 0], inputs["outcomes"], self.config.beta)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Policy and value function at learning rates of their own; norms and biases are not decayed."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            own = {id(parameter) for parameter in self.bare_model.value_parameters()}
            decayed = set(self.get_decay_parameter_names(trained))
            groups = []
            for of_value in (False, True):
                for decay in (True, False):
                    members = [
                        parameter
                        for name, parameter in trained.named_parameters()
                        if parameter.requires_grad and (id(parameter) in own) == of_value and (name in decayed) == decay
                    ]
                    if members:
                        rate = {"lr": self.config.value_learning_rate} if of_value else {}
                        weight_decay = self.args.weight_decay if decay else 0.0
                        groups.append({"params": members, "weight_decay": weight_decay, **rate})
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer


def by_outcome(logps: Tensor, inputs: Batch) -> dict[str, Tensor]:
    """The responses' log-probabilities, right ones and others apart."""
    sums, right = logps.sum(1), inputs["right"]
    return {"logps__chosen": sums[right], "logps__rejected": sums[~right]}
