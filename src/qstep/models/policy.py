"""The policy's log-probabilities and the value network beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from qstep.models.forward import Batch, response_hidden

if TYPE_CHECKING:
    from jaxtyping import Float

ValueNetwork = Literal["separate", "head"]
"""`separate`: a second network initialised from the policy (the paper); `head`: a linear head on its trunk."""

_LOGITS_AT_ONCE = 1 << 24  # 64 MiB of fp32 logits


def load_policy(model_name_or_path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Loads a causal language model in fp32 from a local path or Hub id, dropout as its config says.

    Raises:
        ValueError: if its logits are not `lm_head(trunk)` (soft-capped or scaled), which qstep's
            log-probabilities assume.
    """
    model = AutoModelForCausalLM.from_pretrained(
        model_name_or_path, dtype=torch.float32, trust_remote_code=trust_remote_code
    )
    _check_head(model)
    return model


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    ids = torch.arange(min(4, model.config.get_text_config().vocab_size), device=model.device).unsqueeze(0)
    training = model.training
    model.eval()
    logits = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    model.train(training)
    if not torch.allclose(model.get_output_embeddings()(hidden).float(), logits, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(model).__name__} transforms its logits after the output embedding (soft-capping or scaling); "
            "its log-probabilities cannot be computed from the hidden states. Use a model without it."
        )


def token_logps(hidden: Float[Tensor, "B T D"], head: nn.Module, ids: Tensor, mask: Tensor) -> Float[Tensor, "B T"]:
    """log pi(token) of `ids [B, T]` in the states `hidden`, 0 where `mask` is 0; fp32 whatever the model's dtype.

    Logits exist for a slice of the tokens at a time, in the backward pass too (they are recomputed), so
    memory does not grow with tokens x vocabulary.
    """
    present = mask.bool()
    states, targets = hidden[present], ids[present]
    size = max(1, _LOGITS_AT_ONCE // head.get_parameter("weight").shape[0])

    def logps(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states).float()
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    if len(states) <= size:
        chosen = logps(states, targets)
    else:
        slices = zip(states.split(size), targets.split(size), strict=True)
        chosen = torch.cat([checkpoint(logps, s, t, use_reentrant=False) for s, t in slices])
    return torch.zeros(mask.shape, dtype=torch.float32, device=hidden.device).masked_scatter(present, chosen)


def policy_logps(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "B T"]:
    """log pi(a_t | s_t) of every response token of the batch."""
    hidden = response_hidden(model.base_model, batch)[:, :-1]
    return token_logps(hidden, model.get_output_embeddings(), batch["response_ids"], batch["response_mask"])


class PolicyWithValue(nn.Module):
    """A policy pi_theta and its value function V_phi, called together: `(logps [B, T], values [B, T])`.

    `values[:, t]` is V of the state in which token t is chosen. With `value="separate"` V is a network of its
    own, initialised from the policy's weights; with `"head"` a linear head reads the policy's trunk, in one
    forward pass. `value_init` is the head's initial bias (the mean reward is a good one); its weights start
    at zero, so V starts constant.
    """

    def __init__(self, policy: PreTrainedModel, value: ValueNetwork, value_init: float = 0.0) -> None:
        super().__init__()
        self.policy = policy
        self.value_trunk: nn.Module | None = None
        hidden_size = policy.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.constant_(self.value_head.bias, value_init)
        if value == "separate":
            self.value_trunk = type(policy.base_model)(policy.config).to(policy.device)
            self.value_trunk.load_state_dict(policy.base_model.state_dict())

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        states = response_hidden(self.policy.base_model, batch)[:, :-1]
        logps = token_logps(states, self.policy.get_output_embeddings(), batch["response_ids"], batch["response_mask"])
        if self.value_trunk is not None:
            states = response_hidden(self.value_trunk, batch)[:, :-1]
        return logps, self.value_head(states).squeeze(-1).float()

    def value_parameters(self) -> list[nn.Parameter]:
        trunk = [] if self.value_trunk is None else list(self.value_trunk.parameters())
        return [*trunk, *self.value_head.parameters()]

    def save_value(self, folder: Path) -> None:
        """Writes V beside the policy as `value.safetensors`."""
        from safetensors.torch import save_file

        state = {k: v.contiguous() for k, v in self.state_dict().items() if k.startswith("value_")}
        save_file(state, folder / "value.safetensors")

    def load_saved(self, folder: Path) -> None:
        """Restores policy and V from a folder written by `policy.save_pretrained` and `save_value`."""
        from safetensors.torch import load_file

        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=self.policy.dtype)
        self.policy.load_state_dict(saved.state_dict())
        missing, unexpected = self.load_state_dict(load_file(folder / "value.safetensors"), strict=False)
        if unexpected or any(name.startswith("value_") for name in missing):
            raise ValueError(f"{folder / 'value.safetensors'} does not fit this value network: {missing} {unexpected}")
