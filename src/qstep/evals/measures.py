"""What evaluations measure: accuracies with their intervals, and other parts of results.

The order of the fields and the rule for None are those of `qstep.evals.results`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qstep.data import Index
from qstep.types import Estimate


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over `n` problems with its 95 % interval. Unknown values are None."""

    mean: float | None
    low: float | None
    high: float | None
    n: int = 0

    def __post_init__(self) -> None:
        low, mean, high = (math.nan if x is None else x for x in (self.low, self.mean, self.high))
        if low > mean or mean > high:
            raise ValueError(f"the interval [{low}, {high}] does not enclose the mean {mean}")

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """The same with None for an unknown mean."""
        return cls(None if math.isnan(estimate.mean) else estimate.mean, estimate.low, estimate.high, estimate.n)

    @property
    def estimate(self) -> Estimate:
        """The same with NaN for unknown values."""
        mean, low, high = (math.nan if x is None else float(x) for x in (self.mean, self.low, self.high))
        return Estimate(mean, low, high, self.n)


@dataclass(frozen=True, slots=True)
class Accuracy(Measured):
    """The share of right ones among gradable answers, or a difference of two, with bounds for the ungradable ones.

    See `qstep.evals.accuracy`.
    """

    ungradable_share: float | None = None
    as_wrong: float | None = None
    as_right: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyAccuracy(Accuracy):
    """An accuracy with the numbers of responses by verdict."""

    samples: int | None = None
    right: int | None = None
    wrong: int | None = None
    ungradable: int | None = None


@dataclass(frozen=True, slots=True)
class Difference(Accuracy):
    """The accuracy of `a` minus that of `b`, on the same problems.

    The difference may be between ways to choose `among` so many responses, or between policies in one `mode`.
    """

    a: str = field(kw_only=True)
    b: str = field(kw_only=True)
    among: int | None = field(kw_only=True, default=None)
    mode: str | None = field(kw_only=True, default=None)

    @property
    def name(self) -> str:
        """Such as `pqm@64 - majority`, `dqo - base (sampled)` or `beam - best_of_n`."""
        n, mode = f"@{self.among}" if self.among else "", f" ({self.mode})" if self.mode else ""
        return f"{self.a}{n} - {self.b}{mode}"


Curve = dict[str, Accuracy]
"""Accuracies by n, the number of responses to choose among."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The right share and the gradable share of each problem."""

    right: list[float]
    gradable: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverOptimisation:
    """The n at which a choice is right most often, and its drop from there to the largest n."""

    peak_n: int | None
    drop: Accuracy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The relation of scores to lengths: see `qstep.evals.length_report`."""

    correlation: dict[str, dict[str, Measured | None]]
    fewer_steps: dict[str, Measured | None] | None = None
    single_step: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """Best-of-n by each aggregation of a response's Qs, and their paired differences at the largest n."""

    curves: dict[str, Curve]
    differences: dict[str, Difference]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstErrors:
    """How well first wrong steps are found: see `qstep.evals.first_error_report`."""

    f1: Measured | None
    acc_error: Measured | None
    acc_correct: Measured | None
    n_error: int
    n_correct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Steps of similar probability: the lowest and highest one, their mean, and the share of right steps."""

    low: float
    high: float
    predicted: float
    right: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The expected calibration error and its reliability curve."""

    ece: Measured
    reliability: list[Bin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Accuracies by threshold of sigmoid(Q)."""

    threshold: list[float]
    f1: list[float | None]
    acc_error: list[float | None]
    acc_correct: list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of one reading of Monte-Carlo labels with exact ones."""

    agreement: Measured
    kappa: float | None
    confusion: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAgreement:
    """The agreement of step labels, for two readings of the rollouts: see `qstep.evals.label_agreement`."""

    n_problems: int
    n_rows: int
    n_steps: int
    n_unlabelled_steps: int
    n_untried_steps: int
    hard: Agreement
    half: Agreement


NAMED = 5
"""The number of lines that a finding names."""

_QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The mean and quantiles of whole numbers. Each quantile is one of them."""

    mean: float
    least: int
    median: int
    p90: int
    p99: int
    most: int

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        found = np.quantile(values, list(_QUANTILES.values()), method="inverted_cdf")
        return Spread(mean=float(values.mean()), **dict(zip(_QUANTILES, map(int, found), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRows:
    """The number of rows of a finding, and the lines of the first ones, counted from 1: `3`, or `3 of b.jsonl`."""

    rows: int
    lines: list[int | str]

    @classmethod
    def of(cls, index: Index, numbers: NDArray[np.int64]) -> NamedRows:
        return NamedRows(rows=len(numbers), lines=[index.place(number) for number in numbers[:NAMED].tolist()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resemblance:
    """A problem that resembles a test problem: their lines, its text, and the words that both have.

    `words` is None for a near copy.
    """

    line: int | str
    test_line: int | str
    problem: str
    words: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResemblingRows(NamedRows):
    """Problems that resemble problems of another file, the rows of these, and the first ones as examples."""

    problems: int
    examples: list[Resemblance]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRows(NamedRows):
    """The problems and responses that another file has too, and the rows of these problems.

    A problem that is not the same may be a near copy, and else may overlap: see `qstep.data.copies`.
    """

    problems: int
    responses: int
    near_copies: ResemblingRows
    overlaps: ResemblingRows


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoGolds:
    """Two rows of one prompt with different gold answers."""

    line: int | str
    gold: str
    other_line: int | str
    other_gold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRows(NamedRows):
    """The rows whose prompt has another gold answer in an earlier row, and the first ones as examples."""

    examples: list[TwoGolds]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverLongRows(NamedRows):
    """The rows longer than the maximum, and the labels lost with them."""

    labelled_steps: int
    wrong_labels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpread(Spread):
    """Tokens of each prompt with its response.

    `merging` names rows whose prompt and response have other tokens when they are tokenised as one text.
    """

    over_long: OverLongRows
    merging: NamedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictShares:
    """Responses by their `label` or `reward`, and the share of right ones among the known."""

    right: int
    wrong: int
    unknown: int
    right_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelShares:
    """Steps by their label, and the share of right ones among the labelled. Soft labels count as right or wrong too."""

    right: int
    wrong: int
    null: int
    soft: int
    right_share: float | None
