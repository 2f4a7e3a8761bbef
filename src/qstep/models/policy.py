"""The policy's log-probabilities, and its value network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from qstep.models.adapters import adapted, base_of, saved_adapter
from qstep.models.loading import ADAPTER_CONFIG, ModelOptions, adapter_off, bare, load_causal_lm
from qstep.models.logps import Surprises, token_logps, token_logps_and_entropies, token_surprises
from qstep.models.packing import Batch, hidden_states, states_before, trunk_of
from qstep.models.pretrained import PretrainedModule
from qstep.models.sharding import shards_of
from qstep.types import Dtype

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ValueNetwork = Literal["separate", "head"]
"""`separate`: a second network initialised from the policy, as in the paper; `head`: a linear head on its trunk."""

VALUE_FILE = "value.safetensors"


class PolicyModel(PretrainedModule):
    """A policy. `forward(batch)` gives log pi(a_t | s_t) of every response token, `[B, T]`, in fp32.

    `pretrained` is a causal language model of transformers, or a peft model around one.

    watches_entropy: whether forward passes also keep the policy's entropy. entropies: that of the latest one, `[M]`: a
    value in nats for each of the batch's response tokens, detached.
    """

    watches_entropy = False
    entropies: Float[Tensor, " M"] | None = None

    @classmethod
    def new(cls, options: ModelOptions) -> PolicyModel:
        """A policy to be trained.

        Raises ValueError if qstep cannot compute the layers or logits of its family. The message says which.
        """
        model = load_causal_lm(options)
        lora = options.lora(model, "CAUSAL_LM")
        return cls(model if lora is None else adapted(model, lora))

    def forward(self, batch: Batch) -> Float[Tensor, "B T"]:
        """log pi(a_t | s_t), 0 where the mask is 0."""
        return self.policy_logps(batch)

    def policy_logps(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Only the policy's log-probabilities, of a policy with or without a value function."""
        return self.logps(states_before(hidden_states(self.trunk, batch), batch), batch)

    def logps(self, states: Float[Tensor, "M D"], batch: Batch) -> Float[Tensor, "B T"]:
        """The log-probabilities of the batch's response tokens in the states they were chosen in."""
        mask = batch["response_mask"].bool()
        model, targets = bare(self.pretrained), batch["response_ids"][mask]
        if self.watches_entropy:
            chosen, self.entropies = token_logps_and_entropies(model, states, targets)
        else:
            chosen = token_logps(model, states, targets)
        return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_scatter(mask, chosen)

    @torch.no_grad()
    def surprises(self, batch: Batch, *, temperature: float = 1.0, ends: Sequence[int] = ()) -> Surprises:
        """How likely the batch's response tokens are, compared with samples of this policy: see `token_surprises`."""
        model, mask = bare(self.pretrained), batch["response_mask"].bool()
        states = states_before(hidden_states(self.trunk, batch), batch)
        found = token_surprises(model, states, batch["response_ids"][mask], temperature=temperature, ends=ends)
        empty = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        return Surprises(*(empty.masked_scatter(mask, values) for values in found))

    def reference(self) -> AbstractContextManager[Any]:
        """A context in which the adapter is off. The policy is then the one at the start of training."""
        return adapter_off(self.pretrained)


class PolicyWithValue(PolicyModel):
    """A policy pi_theta and its value function V_phi, called together: `(logps [B, T], values [B, T])`.

    `values[:, t]` is V of the state in which token t is chosen. With `value="separate"`, V is a network of its own,
    initialised from the policy's weights. If the policy has an adapter, V has its own adapter on the same frozen
    weights. With `value="head"`, V is a linear head on the policy's trunk, computed in the same forward pass.

    The head's weights start at zero, so V is constant at first. `start_value` sets this constant; the mean reward is a
    good choice.
    """

    def __init__(self, pretrained: PreTrainedModel | PeftModel, value_trunk: PreTrainedModel | None) -> None:
        super().__init__(pretrained)
        self.value_trunk = value_trunk
        hidden_size = self.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden_size, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @classmethod
    def new_with_value(cls, options: ModelOptions, value: ValueNetwork) -> PolicyWithValue:
        """A policy and its value function, to be trained. Raises as `PolicyModel.new` does."""
        model = load_causal_lm(options)
        return cls._made_of(model, options.lora(model, "CAUSAL_LM"), value)

    @classmethod
    def load(cls, folder: str | Path, dtype: Dtype = "float32") -> PolicyWithValue:
        """Loads a policy and its V that `save` or `qstep merge` wrote. An adapter is put on its base.

        Raises ValueError if the folder has no value function.
        """
        from safetensors import safe_open

        file = Path(folder) / VALUE_FILE
        if not file.exists():
            trained = "trained by DQO, or by DRO without --value group"
            raise ValueError(f"{folder} has no value function ({VALUE_FILE}). Give a model {trained}")
        with safe_open(file, "pt") as tensors:
            separate = any(name.startswith("value_trunk.") for name in tensors.keys())  # noqa: SIM118 (not a dict)
        lora = saved_adapter(folder) if (Path(folder) / ADAPTER_CONFIG).exists() else None
        base, revision = (str(folder), None) if lora is None else base_of(folder)
        options = ModelOptions(model_name_or_path=base, model_revision=revision, dtype=dtype)
        model = load_causal_lm(options, use_safetensors=True)
        policy = cls._made_of(model, lora, "separate" if separate else "head")
        policy.restore(folder)
        return policy

    @classmethod
    def _made_of(cls, model: PreTrainedModel, lora: LoraConfig | None, value: ValueNetwork) -> PolicyWithValue:
        trunk: Any = None
        if value == "separate":
            # With adapters both networks share one copy of the frozen weights.
            shared = {} if lora is None else {id(weight): weight for weight in trunk_of(model).parameters()}
            trunk = copy.deepcopy(trunk_of(model), dict(shared))
        if lora is None:
            return cls(model, trunk)
        if trunk is not None:
            from peft import inject_adapter_in_model

            own = copy.deepcopy(lora)
            if own.target_modules and not isinstance(own.target_modules, str):  # a saved adapter's, from the head down
                prefix = f"{model.base_model_prefix}."
                own.target_modules = [name.removeprefix(prefix) for name in own.target_modules]
            inject_adapter_in_model(own, trunk)
            for parameter in trunk.parameters():
                if parameter.requires_grad:  # fp32, because bf16 would round small updates away
                    parameter.data = parameter.data.float()
        return cls(adapted(model, lora), trunk)

    def start_value(self, value: float) -> None:
        """Sets V's initial constant."""
        nn.init.constant_(self.value_head.bias, value)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:  # type: ignore[override]
        """log pi(a_t | s_t) and V(s_t), 0 where the mask is 0."""
        states = states_before(hidden_states(self.trunk, batch), batch)
        logps = self.logps(states, batch)
        if self.value_trunk is not None:
            states = states_before(hidden_states(self.value_trunk, batch), batch)
        with torch.autocast(states.device.type, enabled=False):
            chosen = self.value_head(states.float()).squeeze(-1)
        return logps, torch.zeros_like(logps).masked_scatter(batch["response_mask"].bool(), chosen)

    def networks(self) -> list[PreTrainedModel]:
        return super().networks() if self.value_trunk is None else [*super().networks(), self.value_trunk]

    def value_parameters(self) -> list[nn.Parameter]:
        """The trained parameters of V."""
        trunk = [] if self.value_trunk is None else list(self.value_trunk.parameters())
        return [p for p in (*trunk, *self.value_head.parameters()) if p.requires_grad]

    def save(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes the policy as `PolicyModel.save` does, and V's trained parameters as `value.safetensors`."""
        from safetensors.torch import save_file

        super().save(folder, state_dict)
        trained = {name for name, p in self.named_parameters() if name.startswith("value_") and p.requires_grad}
        state = self.state_dict() if state_dict is None else state_dict
        save_file({name: state[name].contiguous() for name in sorted(trained)}, Path(folder) / VALUE_FILE)

    def restore(self, folder: str | Path) -> None:
        """Loads exactly what `save` wrote. Raises ValueError if V's file does not fit this network."""
        from safetensors.torch import load_file

        super().restore(folder)
        state = load_file(Path(folder) / VALUE_FILE)
        trained = {name for name, p in self.named_parameters() if name.startswith("value_") and p.requires_grad}
        if state.keys() != trained:
            raise ValueError(
                f"{Path(folder) / VALUE_FILE} does not fit this value network: it lacks "
                f"{sorted(trained - state.keys())} and has {sorted(state.keys() - trained)}"
            )
        self.load_state_dict(shards_of(state, self.state_dict()), strict=False)
