"""The results of commands: one type for each kind, as `qstep.evals.result_files` writes and reads it.

A field that may be missing in a file has the default None, and is not written if it is None. A field that can be null
in the file has no default. The fields have the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from qstep.evals.measures import (
    Accuracy,
    Aggregated,
    Calibration,
    Curve,
    Difference,
    FirstErrors,
    GoldRows,
    LabelAgreement,
    LabelShares,
    Lengths,
    Measured,
    NamedRows,
    OverOptimisation,
    PolicyAccuracy,
    SharedRows,
    Shares,
    Spread,
    Sweep,
    TokenSpread,
    VerdictShares,
)
from qstep.evals.own_samples import OwnSamples

ANSWERS = ("chosen", "majority", "weighted", "pass")
"""The ways in which a search's candidates give an answer: its own choice, two votes, or a perfect scorer."""

MODES = ("greedy", "sampled")
"""How a policy's responses are drawn."""

_REST = {"inline": ()}
"""Marks a mapping whose entries are stored next to the other fields: all entries that the other fields do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """The result of `qstep best-of-n`: see `qstep.evals.best_of_n_report`.

    `unfinished` counts responses that were cut off; None if there is none. They lose to those that ended.
    `problem_names` has a name for each problem of `outcomes`, in their order. Two results with the same name have the
    same problem. It is None in results of an earlier version.
    """

    kind: ClassVar[str] = "best-of-n"
    problems: int
    responses: int
    unfinished: int | None = None
    ungradable_share: float
    left_out: dict[str, int]
    ns: list[int]
    curves: dict[str, Curve]
    outcomes: dict[str, dict[str, Shares]] | None = None
    problem_names: list[str] | None = None
    differences: dict[str, Difference]
    over_optimisation: dict[str, OverOptimisation] | None = None
    auc: dict[str, dict[str, Measured | None]]
    length: dict[str, Lengths] | None = None
    provenance: dict[str, Any]
    aggregations: dict[str, Aggregated] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a number or comparison is missing that a page shows."""
        if not self.ns:
            raise ValueError("ns is empty")
        for name, curve in self.curves.items():
            if missing := [str(n) for n in self.ns if str(n) not in curve]:
                raise ValueError(f"curves[{name!r}] has no {missing[0]!r}, which is in ns")
        first = next(iter(self.auc), None)
        pairs = [(first, other) for other in ("majority", "mean") if first]
        pairs += [(name, "majority") for name in self.curves if name not in ("majority", "mean", "pass")]
        known = {(difference.a, difference.b) for difference in self.differences.values()}
        for a, b in pairs:
            if (a, b) not in known:
                raise ValueError(f"differences has none of {a!r} and {b!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens per problem."""

    mean: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search: its method and settings, the accuracies of its answers, and the tokens it used.

    `cut_off` is the share of problems whose chosen candidate was cut off. `unfinished` counts the candidates that were
    cut off; None in results of earlier versions.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    answers: dict[str, Accuracy] = field(default_factory=dict, metadata={"inline": ANSWERS})
    tokens_generated: Tokens
    tokens_scored: Tokens
    cut_off: float
    unfinished: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchComparison:
    """The result of `qstep compare-search`."""

    kind: ClassVar[str] = "compare-search"
    problems: int
    searches: dict[str, Search]
    differences: dict[str, Difference]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvaluation:
    """The result of `qstep evaluate`. `problems` has counts of right, wrong and ungradable by mode and problem.

    `policy` is the fingerprint of the policy. `golds` is a SHA-256 over the ids and gold answers of the problems, so it
    does not depend on the prompt. Both are None in results of an earlier version.
    """

    kind: ClassVar[str] = "evaluate"
    name: str
    policy: str | None = None
    golds: str | None = None
    accuracies: dict[str, PolicyAccuracy] = field(default_factory=dict, metadata={"inline": MODES})
    problems: dict[str, dict[str, list[int]]]
    harness: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        """Raises ValueError for counts that are not three, or negative."""
        for mode, problems in self.problems.items():
            for problem, counts in problems.items():
                if len(counts) != 3 or min(counts) < 0:
                    raise ValueError(
                        f"problems[{mode!r}][{problem!r}] is {counts}; give the numbers of right, wrong and ungradable"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """The responses with one value of the column `classification`, such as an error class of PRMBench.

    `acc_error_of_position` is the `acc_error` of a scorer that reads nothing: see `qstep.evals.position_accuracy`.
    """

    responses: int
    found: FirstErrors
    acc_error_of_position: Measured | None
    auroc: dict[str, Measured | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One subset of a step benchmark: first wrong steps found, and other measures of the Qs of steps.

    `classes` is None if no row has a `classification`.
    """

    responses: int
    problems: int
    steps: int
    scored: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    """The scorer's `objective` and `aggregation`."""
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
    classes: dict[str, ClassReport] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenOn:
    """The rows that a threshold was chosen on."""

    source: str
    rows: int
    f1: Measured | None
    problems_that_are_judged_too: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold of sigmoid(Q). `q_value` is the same threshold of Q, if it was chosen on rows."""

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
    """The result of `qstep evaluate processbench`."""

    kind: ClassVar[str] = "evaluate processbench"
    name: str
    scorer: str
    threshold: Threshold
    steps: dict[str, StepReport]
    mean: MeanF1
    harness: dict[str, Any] = field(default_factory=dict, metadata=_REST)
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The numbers of a report's page, from several results, as `qstep report --summary` writes them.

    `problems` is a digest of the problems of its evaluations and best-of-n results. It is None if they are not known.
    """

    kind: ClassVar[str] = "report"
    problems: str | None = None
    policies: dict[str, dict[str, PolicyAccuracy]] | None = None
    comparisons: dict[str, Difference] | None = None
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
    """The difference between two ways for each seed, over seeds and over problems.

    Ways to choose are compared among `n` responses, policies by a `measure`: `greedy`, `sampled` or `pass@k`.
    """

    a: list[str]
    b: list[str]
    n: int | None = None
    measure: str | None = None
    decides: bool
    over_seeds: Measured
    over_problems: Measured
    by_seed: dict[str, Measured]
    left_out: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAnswer:
    """The answer of a recipe's study. `seeds` has accuracies by seed, way and n, or by seed, policy and measure."""

    kind: ClassVar[str] = "study"
    claim: str
    paper: str
    settings: str
    verdict: str
    comparisons: dict[str, StudyComparison]
    seeds: dict[str, dict[str, dict[str, float | None]]]
    auc: dict[str, dict[str, dict[str, float]]] | None = None
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A comparison pooled over seeds, and that of each seed."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    above_zero_on_every_seed: bool
    by_seed: dict[str, Difference]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSeeds:
    """The results of one variant's runs: claims over its seeds, and the page of each seed."""

    claims: dict[str, Claim]
    seeds: dict[str, Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeResult:
    """The results of a recipe's runs: `claims` and `seeds`, or both by variant."""

    kind: ClassVar[str] = "recipe"
    recipe: str
    claims: dict[str, Claim] | None = None
    seeds: dict[str, Page] | None = None
    variants: dict[str, OfSeeds] = field(default_factory=dict, metadata=_REST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of `qstep audit`. Fields about steps are None unless the rows are stepwise."""

    kind: ClassVar[str] = "audit"
    train_file: str
    rows: int
    format: str
    problems: int
    prompts: int | None = None
    """The number of different prompts. It is None in results of an earlier version, and so is the next."""
    problems_with_two_rewards: int | None = None
    """The number of problems whose responses do not all have the same reward, which some methods compare."""
    responses_per_problem: Spread
    characters: dict[str, Spread]
    responses: VerdictShares
    duplicates: NamedRows
    contradictions: NamedRows
    golds: GoldRows
    steps_per_response: Spread | None = None
    labels: LabelShares | None = None
    without_steps: int | None = None
    without_labels: int | None = None
    rising: NamedRows | None = None
    tokens: TokenSpread | None = None
    own_samples: OwnSamples | None = None
    shared: dict[str, SharedRows]
    failures: list[str]
    provenance: dict[str, Any]


Result = Audit | BestOfN | SearchComparison | PolicyEvaluation | StepJudgement | Page | StudyAnswer | RecipeResult
