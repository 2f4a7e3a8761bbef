"""Whether a model sampled given responses: a test that needs the tokens alone, and its result in words.

If the model sampled the token a_t, then `log pi(a_t | s_t) + H(pi(. | s_t))` has mean 0, given s_t, and a known
variance and third moment. So its sum over tokens is a martingale. This also holds for the tokens of states that are
chosen by the states alone, and for responses that were cut off. Divided by its standard deviation, the sum is
asymptotically normal.

The states are divided by their entropy. Text of other authors is less likely than samples where the model is sure of
the next token, and often more likely elsewhere. The sum over all tokens would miss that. The squares of the sums add up
to a chi-squared statistic. A sum's skewness is corrected (Wilson and Hilferty), and states whose sum is too skewed are
joined with others. If the model is nearly certain of every token, the sum over all is still too skewed. It is then
judged by Chebyshev's inequality, which needs no distribution, and can only tell that the rows are another's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.01
"""The rows are another's if their p-value is below it."""
LEAST_TOKENS = 200
"""With fewer tokens, the test does not say that the model sampled the rows."""

_ENTROPIES = (0.5, 2.0)
"""The limits, in nats, between states where the model is sure, those between, and those where it is unsure."""
_MOST_SKEWNESS = 1.0
_CLEAR = 2.0
"""The standardised sum from which the direction of a difference is clear."""
_LEAST_P = 1e-12
_EXPLANATIONS = {
    "less likely": "another model, a higher temperature, another template, or another tokenizer",
    "more likely": (
        "a lower temperature, top-k or top-p sampling, a choice among samples, another template (such as none), or "
        "another model"
    ),
    "partly less likely, partly more likely": "another model, or another template",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodOfStates:
    """How likely the tokens are in states of similar entropy.

    excess: the mean of `log pi(a) + H` in nats. z: the standardised sum, without its skewness unless that is above 1.
    """

    tokens: int
    excess: float
    z: float
    skewness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSamples:
    """Whether a model sampled the rows.

    rows, tokens: how many were read. encoded: the rows whose tokens were made from their text. excess: the mean of
    `log pi(a) + H` over tokens, in nats. own: None if the tokens are too few to tell.
    """

    rows: int
    encoded: int
    tokens: int
    temperature: float
    excess: float
    states: list[LikelihoodOfStates]
    p_value: float
    own: bool | None


def judge(surprises: NDArray[np.float64], *, rows: int, encoded: int, temperature: float) -> OwnSamples:
    """The result of the test. `surprises` `[4, M]` has excess, variance, third moment and entropy of each token."""
    from scipy.stats import chi2

    excess, entropy = surprises[0], surprises[3]
    kinds = np.digitize(entropy, _ENTROPIES)
    states = _states([surprises[:3, kinds == kind] for kind in range(len(_ENTROPIES) + 1)])
    squares = sum(part.z**2 for part in states)
    is_normal = all(abs(part.skewness) <= _MOST_SKEWNESS for part in states)
    p_value = float(chi2.sf(squares, max(1, len(states)))) if is_normal else 1 / max(1.0, squares)
    tokens = len(excess)
    return OwnSamples(
        rows=rows,
        encoded=encoded,
        tokens=tokens,
        temperature=temperature,
        excess=float(excess.mean()) if tokens else 0.0,
        states=states,
        p_value=p_value,
        own=False if p_value < LEVEL else True if tokens >= LEAST_TOKENS and is_normal else None,
    )


def finding(found: OwnSamples) -> str:
    """The result in words, such as `48 rows look like samples of this model at temperature 1 (p = 0.43)`."""
    at = f"samples of this model at temperature {found.temperature:g}"
    if found.own is None and found.tokens >= LEAST_TOKENS:
        return f"{found.rows} rows do not tell {at} from others, because the model is nearly certain of each token"
    if found.own is None:
        return f"{found.rows} rows have only {found.tokens} tokens, too few to tell {at} from others"
    how = "look like" if found.own else f"are {_likelihood(found)} than"
    p_value = f"p = {found.p_value:.2g}" if found.p_value >= _LEAST_P else f"p < {_LEAST_P:g}"
    return f"{found.rows} rows {how} {at} ({p_value})"


def explanation(found: OwnSamples) -> str:
    """What explains a result that the rows are not samples of the model."""
    return _EXPLANATIONS[_likelihood(found)]


def _likelihood(found: OwnSamples) -> str:
    lowest, highest = min(part.z for part in found.states), max(part.z for part in found.states)
    if lowest < -_CLEAR and highest > _CLEAR:
        return "partly less likely, partly more likely"
    return "less likely" if -lowest > highest else "more likely"


def _states(kinds: list[NDArray[np.float64]]) -> list[LikelihoodOfStates]:
    """The standardised sums of groups of tokens. A group whose sum is too skewed is joined with the next, or before."""
    groups: list[NDArray[np.float64]] = []
    held = np.empty((3, 0))
    for kind in kinds:
        held = np.concatenate([held, kind], axis=1)
        if held.shape[1] and abs(_skewness(held)) <= _MOST_SKEWNESS:
            groups.append(held)
            held = np.empty((3, 0))
    while held.shape[1] and groups and abs(_skewness(held)) > _MOST_SKEWNESS:
        held = np.concatenate([groups.pop(), held], axis=1)
    return [*map(_likelihood_of, groups), *([_likelihood_of(held)] if held.shape[1] else [])]


def _likelihood_of(group: NDArray[np.float64]) -> LikelihoodOfStates:
    total, variance, _ = group.sum(axis=1)
    tokens, z, skewness = group.shape[1], float(total) / math.sqrt(variance), _skewness(group)
    if abs(skewness) <= _MOST_SKEWNESS:
        z = _without_skewness(z, skewness)
    return LikelihoodOfStates(tokens=tokens, excess=float(total) / tokens, z=z, skewness=skewness)


def _skewness(group: NDArray[np.float64]) -> float:
    """The skewness of a group's sum."""
    _, variance, third = group.sum(axis=1)
    return float(third / variance**1.5)


def _without_skewness(z: float, skewness: float) -> float:
    """A standardised gamma variable of this skewness as a normal one (Wilson and Hilferty, 1931)."""
    if abs(skewness) < 1e-3:
        return z
    return 6 / skewness * (math.cbrt(max(0.0, skewness * z / 2 + 1)) - 1) + skewness / 6
