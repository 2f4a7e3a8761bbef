"""Other ways to read a step: one word against another, or one policy's log-probabilities against another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qstep.models.loading import bare
from qstep.models.logps import finished_logits
from qstep.models.packing import Batch, StepBatch, hidden_states
from qstep.models.policy import PolicyModel, PolicyWithValue
from qstep.models.pretrained import PretrainedModule
from qstep.models.scorer import step_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WordPairModel(PretrainedModule):
    """`forward(batch)` gives each step's logit of the word `good` less that of `bad`, `[B, S]`, in fp32.

    So sigmoid(Q) is the softmax over the two words. The logits of no other word are computed.
    """

    def __init__(self, pretrained: PreTrainedModel, good: int, bad: int) -> None:
        super().__init__(pretrained)
        self.words = [good, bad]

    def forward(self, batch: StepBatch) -> Float[Tensor, "B S"]:
        model = bare(self.pretrained)
        states = step_states(hidden_states(self.trunk, batch), batch)
        head = model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[self.words].float()
        logits = F.linear(states.float(), head.weight[self.words].float(), bias)
        good, bad = finished_logits(self.config.get_text_config(), logits).unbind(-1)
        return (good - bad).masked_fill(batch["step_ends"] < 0, 0.0)


class LogRatioModel(nn.Module):
    """`forward(batch)` gives each step's Q from a policy's log-probabilities against a reference's, `[B, S]`, in fp32.

    For a policy without a value function, Q is `beta` times the sum of log pi/pi_ref over the response's tokens up to
    the step's last one (an implicit PRM). With a value function it is `beta log pi/pi_ref + V` at that token (DQO's Q).

    Args:
        reference: None means the uniform reference, whose log-probability counts as 0, as in training. The `policy`
            itself means the base of its adapter.
    """

    def __init__(self, policy: PolicyModel, reference: PolicyModel | None, beta: float) -> None:
        super().__init__()
        self.policy, self.reference, self.beta = policy, reference, beta

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def forward(self, batch: StepBatch) -> Float[Tensor, "B S"]:
        _, log_ratios, values = self.tokens(batch)
        scaled = self.beta * log_ratios
        q_values = scaled.cumsum(1) if values is None else scaled + values
        ends = batch["step_ends"]
        return q_values.gather(1, ends.clamp(min=0)).masked_fill(ends < 0, 0.0)

    def tokens(self, batch: Batch) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], Float[Tensor, "B T"] | None]:
        """log pi, log pi/pi_ref, and V of the state before it for each token. V is None for a policy without one."""
        outputs = self.policy(batch)
        logps, values = outputs if isinstance(self.policy, PolicyWithValue) else (outputs, None)
        return logps, logps - self._reference_logps(batch), values

    def _reference_logps(self, batch: Batch) -> Tensor | float:
        if self.reference is None:
            return 0.0
        with self.reference.reference():
            return self.reference.policy_logps(batch)
