"""Log-probabilities of tokens from hidden states, without the logits of a complete batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    return _of_slices(model, states, targets, entropies=False)[0]


def token_logps_and_entropies(
    model: PreTrainedModel, states: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """`token_logps`, and the entropy of pi in each state, in nats and detached. Both use the same logits."""
    logps, entropies = _of_slices(model, states, targets, entropies=True)
    return logps, entropies


def _of_slices(model: PreTrainedModel, states: Tensor, targets: Tensor, *, entropies: bool) -> tuple[Tensor, Tensor]:
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    size = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])

    def of_slice(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = finished_logits(config, head(states).float())
        normaliser = logits.logsumexp(-1)
        logps = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
        # Recomputation in the backward pass stops before this line, because nothing after it is kept.
        return logps, _entropies(logits, normaliser) if entropies else logps.detach()

    if len(states) <= size:
        return of_slice(states, targets)
    slices = zip(states.split(size), targets.split(size), strict=True)
    found = [checkpoint(of_slice, s, t, use_reentrant=False) for s, t in slices]
    return torch.cat([logps for logps, _ in found]), torch.cat([others for _, others in found])


@torch.no_grad()
def _entropies(logits: Float[Tensor, "M V"], normaliser: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    probabilities = (logits - normaliser.unsqueeze(-1)).exp_()
    return normaliser - torch.linalg.vecdot(probabilities, logits)


class Surprises(NamedTuple):
    """How likely tokens are, compared with samples a of pi. Shapes are [M], or [B, T] in a batch.

    excess: `log pi(a) + H(pi)`, whose expectation over samples is 0. variance, third: its second and third moment over
    samples. entropy: H(pi).
    """

    excess: Tensor
    variance: Tensor
    third: Tensor
    entropy: Tensor


@torch.no_grad()
def token_surprises(
    model: PreTrainedModel,
    states: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    *,
    temperature: float = 1.0,
    ends: Sequence[int] = (),
) -> Surprises:
    """The surprise of each target, in fp32, for samples at a temperature that are not one of `ends`.

    The distribution is that of all tokens but `ends`, so it does not matter what ends a response. For a target among
    `ends` all values are 0. Logits exist for one slice of the tokens at a time.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    size = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])
    end_ids = torch.tensor([*ends], dtype=torch.long, device=states.device)

    def surprises(states: Tensor, targets: Tensor) -> list[Tensor]:
        logits = finished_logits(config, head(states).float()) / temperature
        logits = logits.index_fill(-1, end_ids, -torch.inf)
        logps = logits.log_softmax(-1)
        probabilities = logps.exp()
        chosen = logps.gather(-1, targets[:, None]).squeeze(-1)
        logps = logps.masked_fill(probabilities == 0, 0.0)
        entropy = -(probabilities * logps).sum(-1)
        excesses = logps + entropy[:, None]
        moments = [(probabilities * excesses**power).sum(-1) for power in (2, 3)]
        ended = torch.isin(targets, end_ids)
        return [values.masked_fill(ended, 0.0) for values in (chosen + entropy, *moments, entropy)]

    parts = [surprises(s, t) for s, t in zip(states.split(size), targets.split(size), strict=True)]
    return Surprises(*(torch.cat(values) for values in zip(*parts, strict=True)))


def finished_logits(config: PretrainedConfig, logits: Tensor) -> Tensor:
    """Applies what some families do to the output embedding's logits: factors (Cohere, Granite) and caps (Gemma)."""
    for name in ("logit_scale", "lm_head_multiplier"):
        if (factor := getattr(config, name, None)) is not None:
            logits = logits * factor
    for name in ("logits_scaling", "logits_mup_width_multiplier"):
        if (divisor := getattr(config, name, None)) is not None:
            logits = logits / divisor
    for name in ("final_logit_softcapping", "logits_soft_cap"):
        if (cap := getattr(config, name, None)) is not None:
            logits = cap * torch.tanh(logits / cap)
    return logits[..., : getattr(config, "unpadded_vocab_size", None)]
