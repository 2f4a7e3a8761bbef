"""What the commands find out: one type for each kind of result, as `qstep.evals.result_files` writes and reads it.

A field that may be missing in a file is None by default, and is left out where it is None. What is null in the file
itself has no default. The fields stand in the order of the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qstep.types import Estimate

ANSWERS = ("chosen", "majority", "weighted", "pass")
"""How the candidates of a search answer: by its own choice, votes of them, or as a perfect verifier would choose."""

MODES = ("greedy", "sampled")
"""How a policy's responses are drawn."""

_REST = {"inline": ()}
"""A mapping of this field has its entries in the file beside the other fields: all that these do not know."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over `n` problems with its 95 % interval; None where nothing is known."""

    mean: float | None
    low: float | None
    high: float | None
    n: int = 0

    def __post_init__(self) -> None:
        low, mean, high = (math.nan if x is None else x for x in (self.low, self.mean, self.high))
        if low > mean or mean > high:
            raise ValueError(f"the interval [{low}, {high}] does not enclose the mean {mean}")

    @property
    def estimate(self) -> Estimate:
        """The same with NaN for what is unknown."""
        mean, low, high = (math.nan if x is None else float(x) for x in (self.mean, self.low, self.high))
        return Estimate(mean, low, high, self.n)


@dataclass(frozen=True, slots=True)
class Accuracy(Measured):
    """The rate of right ones among what can be graded, or a difference of two; and what the rest could change."""

    ungradable_share: float | None = None
    as_wrong: float | None = None
    as_right: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyAccuracy(Accuracy):
    """Also how many responses there are, and of which verdict."""

    samples: int | None = None
    right: int | None = None
    wrong: int | None = None
    ungradable: int | None = None


Curve = dict[str, Accuracy]
"""Accuracies by n, the number of responses to choose among."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The right share and the gradable share of each problem."""

    right: list[float]
    gradable: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverOptimisation:
    """The n at which a choice is right most often, and how much worse it is at the largest n."""

    peak_n: int | None
    drop: Accuracy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """What scores have to do with lengths: see `qstep.evals.length_report`."""

    correlation: dict[str, dict[str, Measured | None]]
    fewer_steps: dict[str, Measured | None] | None = None
    single_step: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """Best-of-n by each way to make one score of a response's Qs, and their paired differences at the largest n."""

    curves: dict[str, Curve]
    differences: dict[str, Accuracy]


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """What `qstep best-of-n` finds: see `qstep.evals.best_of_n_report`."""

    kind: ClassVar[str] = "best-of-n"
    problems: int
    responses: int
    ungradable_share: float
    left_out: dict[str, int]
    ns: list[int]
    curves: dict[str, Curve]
    outcomes: dict[str, dict[str, Shares]] | None = None
    differences: dict[str, Accuracy]
    over_optimisation: dict[str, OverOptimisation] | None = None
    auc: dict[str, dict[str, Measured | None]]
    length: dict[str, Lengths] | None = None
    provenance: dict[str, Any]
    aggregations: dict[str, Aggregated] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of a problem."""

    mean: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a search searched, what its answers were worth, and what it took."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    answers: dict[str, Accuracy] = field(default_factory=dict, metadata={"inline": ANSWERS})
    tokens_generated: Tokens
    tokens_scored: Tokens
    cut_off: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchComparison:
    """What `qstep compare-search` finds."""

    kind: ClassVar[str] = "compare-search"
    problems: int
    searches: dict[str, Search]
    differences: dict[str, Accuracy]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """What `qstep evaluate` finds; `problems` counts right, wrong and ungradable responses by mode and problem."""

    kind: ClassVar[str] = "evaluate"
    name: str
    accuracies: dict[str, PolicyAccuracy] = field(default_factory=dict, metadata={"inline": MODES})
    problems: dict[str, dict[str, list[int]]]
    harness: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Steps of like probability: the lowest and highest, their mean, and the share that is right."""

    low: float
    high: float
    predicted: float
    right: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The expected calibration error and the curve it comes from."""

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
class StepReport:
    """One subset of a step benchmark: first wrong steps found, and what else is measured of the Qs of steps."""

    responses: int
    problems: int
    steps: int
    scored: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    """What the scorer says of its scores: `objective` and `aggregation`."""
    separators: dict[str, int]
    left_out: dict[str, int]
    f1: Measured | None
    acc_error: Measured | None
    acc_correct: Measured | None
    n_error: int
    n_correct: int
    auroc: dict[str, Measured | None]
    calibration: Calibration
    aggregations: dict[str, Measured | None]
    length: Lengths
    by_threshold: Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenOn:
    """The rows that a threshold was chosen on."""

    source: str
    rows: int
    f1: Measured | None
    problems_that_are_judged_too: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Of sigmoid(Q); `q_value` is the same of Q where it was chosen."""

    value: float
    q_value: float | None = None
    chosen_on: ChosenOn | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanF1:
    """The mean F1 of subsets."""

    f1: Measured | None
    subsets: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJudgement:
    """What `qstep evaluate processbench` finds."""

    kind: ClassVar[str] = "evaluate processbench"
    name: str
    scorer: str
    threshold: Threshold
    steps: dict[str, StepReport]
    mean: MeanF1
    harness: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far one reading of Monte-Carlo labels agrees with exact ones."""

    agreement: Measured
    kappa: float | None
    confusion: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAgreement:
    """What `qstep report --labels` finds: see `qstep.evals.label_agreement`. Early files have one reading of labels."""

    n_problems: int | None = None
    n_rows: int | None = None
    n_steps: int | None = None
    n_unlabelled_steps: int | None = None
    n_untried_steps: int | None = None
    hard: Agreement | None = None
    half: Agreement | None = None
    agreement: Measured | None = None
    kappa: float | None = None
    confusion: dict[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The numbers of a report's page, from several results; what `qstep report --summary` writes."""

    kind: ClassVar[str] = "report"
    policies: dict[str, dict[str, PolicyAccuracy]] | None = None
    comparisons: dict[str, Accuracy] | None = None
    verifiers: dict[str, Curve] | None = None
    verifier_auc: dict[str, dict[str, Measured | None]] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    aggregations: dict[str, Aggregated] | None = None
    over_optimisation: dict[str, OverOptimisation] | None = None
    length: dict[str, Lengths] | None = None
    steps: dict[str, StepReport] | None = None
    thresholds: dict[str, Threshold] | None = None
    searches: dict[str, Search] | None = None
    title: str | None = None
    training: dict[str, list[dict[str, Any]]] | None = None
    labels: LabelAgreement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyComparison:
    """The difference of choosing by `a` and by `b` in each world, over worlds and over problems."""

    a: list[str]
    b: list[str]
    n: int
    decides: bool
    over_worlds: Measured
    over_problems: Measured
    by_world: dict[str, Measured]
    left_out: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnswer:
    """What a recipe's study answers; `worlds` has accuracies by world, way to choose and n."""

    kind: ClassVar[str] = "study"
    claim: str
    paper: str
    settings: str
    verdict: str
    comparisons: dict[str, StudyComparison]
    worlds: dict[str, dict[str, dict[str, float | None]]]
    auc: dict[str, dict[str, dict[str, float]]]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A comparison pooled over seeds, and each seed's own."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    above_zero_on_every_seed: bool
    by_seed: dict[str, Accuracy]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSeeds:
    """What the runs of one variant say: claims over its seeds, and the page of each."""

    claims: dict[str, Claim]
    seeds: dict[str, Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeResult:
    """What came of a recipe's runs: `claims` and `seeds`, or these by variant."""

    kind: ClassVar[str] = "recipe"
    recipe: str
    claims: dict[str, Claim] | None = None
    seeds: dict[str, Page] | None = None
    variants: dict[str, OfSeeds] = field(default_factory=dict, metadata=_REST)


Result = BestOfN | SearchComparison | PolicyEvaluation | StepJudgement | Page | StudyAnswer | RecipeResult
