"""Turns numbers into words: checks estimates, judges differences, and writes sentences about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from qstep.evals.measures import Difference
from qstep.evals.ways import voter
from qstep.objectives import METHODS
from qstep.search import SEARCHES
from qstep.types import Estimate

Verdict = Literal["better", "worse", "cannot tell"]

_NAMES = {
    **{name: method.label for name, method in METHODS.items()},
    **{name: search.label for name, search in SEARCHES.items()},
    "majority": "majority vote",
    "pass": "any right (oracle)",
    "mean": "one response",
    "verifier": "the scorer",
}
ANSWERS_SAID = {"chosen": "its choice", "majority": "majority", "weighted": "weighted vote", "pass": "any right"}
"""The titles of the ways in which a search's candidates give an answer."""

AccuracyOf = tuple[str, int | str | None]
"""A way to choose with its n, a policy with its mode, or a search with None."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A paired difference of accuracies, its verdict, and a sentence with both accuracies."""

    label: str
    sentence: str
    difference: Estimate
    verdict: Verdict


def label(name: str, n: int | str | None = None) -> str:
    """The displayed name: `pqm` -> `PQM`, and with n = 64, `PQM@64`. Unknown names are unchanged.

    `pqm_weighted` becomes `PQM-weighted vote`. A prefix with a colon (`base: pqm`) is kept.
    """
    before, colon, name = name.rpartition(": ")
    scorer = voter(name)
    said = _NAMES.get(name, name) if scorer is None else f"{_NAMES.get(scorer, scorer)}-weighted vote"
    return before + colon + said + (f"@{n}" if n else "")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is an int or a float; JSON's true and false are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def known(e: Estimate) -> bool:
    """Whether the mean and both limits are finite."""
    return all(map(math.isfinite, (e.mean, e.low, e.high)))


def judge(difference: Estimate) -> Verdict:
    """`better` or `worse` if the interval of the difference excludes 0, else `cannot tell`."""
    if not known(difference) or difference.low <= 0 <= difference.high:
        return "cannot tell"
    return "better" if difference.low > 0 else "worse"


def points(x: float) -> str:
    """A signed difference of fractions, in percentage points. A small difference is never shown as zero."""
    y = 100 * x
    return (f"{y:+.1f}" if abs(y) >= 0.05 else f"{y:+.1g}" if y else "0.0").replace("-", "\u2212")


def percent_interval(e: Estimate) -> str:
    """`70.1 % [66.2, 73.8]`, or the mean alone if the interval is unknown."""
    return _interval(e, lambda x: f"{100 * x:.1f}", "\u00a0%")


def points_interval(e: Estimate) -> str:
    """`+29.1 [+25.0, +33.1]` in percentage points, or the mean alone if the interval is unknown."""
    return _interval(e, points)


def plain_interval(e: Estimate) -> str:
    """`0.912 [0.905, 0.920]`, or the mean alone if the interval is unknown."""
    return _interval(e, lambda x: f"{x:.3f}")


def find(found: Difference, accuracies: Mapping[AccuracyOf, Estimate]) -> Finding:
    """Judges a difference. Its sentence has both accuracies, or neither if one of them is not known."""
    difference = found.estimate
    a, b = label(found.a, found.among), label(found.b)
    title = f"{a} \u2212 {b}" + (f" ({found.mode})" if found.mode else "")
    ours, theirs = (accuracies.get((name, found.among or found.mode)) for name in (found.a, found.b))
    if ours is None or theirs is None:
        return Finding(title, title, difference, judge(difference))
    how = {"sampled": " when sampled", "greedy": " when decoded greedily"}.get(found.mode or "", "")
    sentence = (
        f"{a} answers {percent_interval(ours)} of {f'{ours.n} ' if ours.n else ''}problems{how}, "
        f"{b} {percent_interval(theirs)}"
    )
    return Finding(title, sentence[0].upper() + sentence[1:], difference, judge(difference))


def lead(finding: Finding) -> str:
    """The headline: a finding's sentence and verdict, with the difference and its interval."""
    verdict = "cannot tell them apart" if finding.verdict == "cannot tell" else finding.verdict
    return f"{finding.sentence}: {verdict} (difference {points_interval(finding.difference)} points)."


def _interval(e: Estimate, form: Callable[[float], str], unit: str = "") -> str:
    if not math.isfinite(e.mean):
        return "n/a"
    return form(e.mean) + unit + (f" [{form(e.low)}, {form(e.high)}]" if known(e) else "")
