"""Log-probabilities of tokens from hidden states, without the logits of a complete batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

_LOGITS_AT_ONCE = 1 << 24  # 64 MiB of fp32 logits


def token_logps(
    model: PreTrainedModel, states: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """log pi(target) in each state, fp32 whatever the model's dtype.

    Logits exist for one slice of the tokens at a time. The backward pass recomputes them. So memory does not grow with
    tokens x vocabulary.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    size = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])

    def logps(states: Tensor, targets: Tensor) -> Tensor:
        logits = finished_logits(config, head(states).float())
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    if len(states) <= size:
        return logps(states, targets)
    slices = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(logps, s, t, use_reentrant=False) for s, t in slices])


def finished_logits(config: PretrainedConfig, logits: Tensor) -> Tensor:
    """Applies what some families do to the output embedding's logits: scaling (Cohere, Granite) and caps (Gemma)."""
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits
