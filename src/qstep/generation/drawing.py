"""Drawing the next token of each row from the logits of its state.

Dimensions: R rows, S states, V vocabulary, T new tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qstep.generation.engine import SamplingSettings


def uniforms(samples: Sequence[tuple[str, int]], settings: SamplingSettings) -> Tensor:
    """Numbers in [0, 1), `[R, T]`, for rows given as (key, sample).

    Each row has a counter-based generator, keyed by (seed, key, sample).
    """
    numbers = np.empty((len(samples), settings.max_new_tokens))
    for sample, out in zip(samples, numbers, strict=True):
        name = repr((settings.seed, *sample)).encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
        np.random.Generator(np.random.Philox(key=key)).random(out=out)
    return torch.from_numpy(numbers)


def choose(logits_SV: Tensor, state_R: Tensor, uniforms_R: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The next token of every row, and its log-probability under the sampling distribution.

    The token is the inverse of its state's cumulative distribution at the row's uniform number. Greedy tokens get their
    log-probability at temperature 1.
    """
    if settings.temperature == 0:
        logps_SV = logits_SV.float().log_softmax(dim=-1)
        token_S = logps_SV.argmax(dim=-1)
        return token_S[state_R], logps_SV.gather(1, token_S[:, None]).squeeze(1)[state_R]
    logps_SV = (logits_SV.float() / settings.temperature).log_softmax(dim=-1)
    probs_SV = logps_SV.exp().double()
    if settings.top_p < 1:
        probs_SV = _nucleus(probs_SV, settings.top_p)
    reachable_SV = probs_SV > 0
    # A token without probability gets a bound that no uniform number is below. It is set explicitly, because a parallel
    # sum may not be monotone in its last bit.
    cumulative_SV = probs_SV.cumsum(dim=-1).where(reachable_SV, 0)
    # A uniform number below 1, scaled to the total mass, always selects a token.
    mass_S = cumulative_SV.amax(dim=-1)
    above_RV = cumulative_SV[state_R] > (uniforms_R * mass_S[state_R])[:, None]
    token_R = above_RV.to(torch.uint8).argmax(dim=-1)
    logp_R = logps_SV[state_R, token_R]
    if settings.top_p < 1:
        logp_R = logp_R - mass_S[state_R].log().float()
    return token_R, logp_R


def _nucleus(probs_SV: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the smallest set of most likely tokens whose mass reaches `top_p`, without renormalising."""
    sorted_SV, order_SV = probs_SV.sort(dim=-1, descending=True, stable=True)
    mass_before_SV = sorted_SV.cumsum(dim=-1) - sorted_SV
    kept_SV = sorted_SV.masked_fill(mass_before_SV >= top_p, 0)
    return torch.zeros_like(probs_SV).scatter(1, order_SV, kept_SV)
