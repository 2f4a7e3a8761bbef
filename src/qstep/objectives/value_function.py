"""What objectives with a value function share: options, graded rows, the reference, and V's learning rate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from qstep.models import ModelOptions, PolicyWithValue, ValueNetwork
from qstep.objectives.batch import GradedBatch
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.graded import graded_batch, ungraded, warn_of_unclear_rewards
from qstep.objectives.responses import policy_rows, stop_at_end_of_turn
from qstep.objectives.source import RowsFile
from qstep.processes import here
from qstep.runs.options import Bounds, Check, ReadIf

_log = logging.getLogger(__name__)

Value = Literal[ValueNetwork, "group"]
"""Where V comes from: a network, or the rewards of the problem's responses."""


def _no_group(option: str, value: Value) -> None:
    if value == "group":
        raise ValueError(
            f"--{option} group does not work here: this method needs V after every token of a response, and the "
            "rewards of a problem's responses give V of the prompt alone. Give separate or head, or use qstep train dro"
        )


@dataclass
class ValueConfig(PolicyConfig):
    """How to train a policy and a value function on graded responses.

    Args:
        beta: weight of the KL term against the reference, in reward per nat. A wrong response has loss 0 when it is
            `V / beta` nats less likely. With a small beta, this also makes right responses less likely.
        reference: the reference: the policy at the start (`model`), or `uniform`.
        value: V is a `separate` network, or a `head` on the policy's trunk. The paper has a separate network. Only dro
            takes `group` too: the rewards of the problem's responses, without a network.
        value_learning_rate: learning rate of V. The default fits fine-tuning a pretrained network; a small network
            trained from scratch needs about a hundred times as much.
    """

    beta: Annotated[float, Bounds(above=0)] = 0.2
    reference: Literal["model", "uniform"] = "model"
    value: Annotated[Value, Check(_no_group)] = "separate"
    value_learning_rate: Annotated[float, Bounds(least=0), ReadIf(value=("separate", "head"))] = 1e-5


class ValueFunction:
    """A policy with its value function, and the graded responses for both."""

    def __init__(self, config: ValueConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer

    def new_model(self, options: ModelOptions) -> PolicyWithValue:
        """The policy with a value function that is constant at the start."""
        assert self.config.value != "group"
        return PolicyWithValue.new_with_value(options, self.config.value)

    def rows(self, source: RowsFile, step_separator: str | None = None) -> GroupDataset:
        """The graded rows of a file."""
        dataset = policy_rows(source, self.config, self.tokenizer, "unpaired", ungraded, step_separator)
        warn_of_unclear_rewards(dataset)
        return dataset

    def begin(self, model: PolicyWithValue, train: GroupDataset) -> None:
        """Sets V to the mean reward, and warns if all rewards are the same.

        Raises ValueError if `truncated` is `mask` and no row has a reward that counts.
        """
        stop_at_end_of_turn(model, self.tokenizer, train)
        table = train.index.table[train.rows]
        outcomes = table["outcome"][~table["truncated"]] if self.config.truncated == "mask" else table["outcome"]
        if not len(outcomes):
            raise ValueError(
                f"{train.source}: every response was cut off and is not right, so with --truncated mask no reward "
                "counts. Sample with a greater --max_new_tokens"
            )
        model.start_value(float(outcomes.mean()))
        if outcomes.min() == outcomes.max() and here()[0] == 0:
            _log.warning(
                "%s: every row has the reward %g, so the outcomes do not distinguish responses. Check how the rows "
                "were graded",
                train.source,
                outcomes[0],
            )

    def needs_reference(self) -> bool:
        """Whether the losses read the reference's log-probabilities."""
        return self.config.reference == "model"

    def learning_rates(self, model: PolicyWithValue) -> dict[nn.Parameter, float]:
        """The learning rate of the value function."""
        return dict.fromkeys(model.value_parameters(), self.config.value_learning_rate)

    def collate(self, items: list[Item]) -> GradedBatch:
        """Responses with their outcomes and, if items have them, the reference's log-probabilities."""
        return graded_batch(self.tokenizer, items)

    def of_prompts(self, model: Any, batch: GradedBatch) -> tuple[Tensor, Tensor]:
        """The log-probabilities `[B, T]` of the responses, and V `[B]` of their prompts."""
        logps, values = model(batch)
        return logps, values[:, 0]
