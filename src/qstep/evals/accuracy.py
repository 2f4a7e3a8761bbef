"""Accuracy when some responses cannot be graded.

An ungradable response is neither right nor wrong. `mean` covers the gradable responses. The result also has the
ungradable share, and the accuracies if all ungradable responses counted as wrong or as right.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from qstep.data import canonical_json, prompt_id
from qstep.evals.intervals import ratio_difference, ratio_estimate
from qstep.evals.measures import Accuracy, Difference, Measured, PolicyAccuracy
from qstep.search import pass_at_k
from qstep.types import Row, Verdict


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Counts of the verdicts on one problem's responses."""

    right: int
    wrong: int
    ungradable: int

    @property
    def samples(self) -> int:
        return self.right + self.wrong + self.ungradable


@dataclass(frozen=True, slots=True)
class Outcomes:
    """For each problem, the shares of its responses that are `right` and `gradable`, or the chances of a choice.

    Both have shape [G], with 0 <= `right` <= `gradable` <= 1. Raises ValueError otherwise, or without problems.
    """

    right: NDArray[np.float64]
    gradable: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("right", "gradable"):  # a rounding error such as 1 - 1e-16 becomes 1
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64).round(12))
        if self.right.ndim != 1 or self.right.shape != self.gradable.shape or not self.right.size:
            raise ValueError(
                f"right has shape {self.right.shape} and gradable {self.gradable.shape}: give one of each per problem"
            )
        if not ((self.right >= 0) & (self.right <= self.gradable) & (self.gradable <= 1)).all():
            raise ValueError("outcomes must be shares in [0, 1], with no more right than gradable")

    @classmethod
    def of(cls, problems: Iterable[VerdictCounts]) -> Outcomes:
        """The outcomes of the counts that `verdicts_by_problem` returns."""
        counts = list(problems)
        return cls(
            np.array([count.right / count.samples for count in counts]),
            np.array([(count.right + count.wrong) / count.samples for count in counts]),
        )

    @classmethod
    def of_any(cls, problems: Iterable[VerdictCounts], k: int) -> Outcomes:
        """For each problem, the chance that any of k responses is right (pass@k), and the chance that this is known.

        It is unknown if no response is right and one is ungradable. Raises ValueError if a problem has fewer than k
        responses.
        """
        counts = list(problems)
        right = np.array([pass_at_k(count.samples, count.right, k) for count in counts])
        possible = np.array([pass_at_k(count.samples, count.right + count.ungradable, k) for count in counts])
        return cls(right, 1 - (possible - right))


_UNKNOWN = Measured(None, None, None)


def accuracy(outcomes: Outcomes) -> Accuracy:
    """`mean`, `low`, `high` (95 % over problems) and `n` of the gradable responses, and the effect of the others.

    The mean is `sum right / sum gradable`. So each of the `n` problems with gradable responses has its gradable share
    as weight, independent of its number of responses. The mean is null if nothing is gradable. `ungradable_share`,
    `as_wrong` and `as_right` are means over all problems. The last two count every ungradable response as wrong and as
    right. Without ungradable responses, both equal the mean.
    """
    right, gradable = outcomes.right, outcomes.gradable
    graded = gradable > 0
    mean = Measured.of(ratio_estimate(right[graded], gradable[graded])) if graded.any() else _UNKNOWN
    return Accuracy(
        **asdict(mean),
        ungradable_share=float(1 - gradable.mean()),
        as_wrong=float(right.mean()),
        as_right=float((right + 1 - gradable).mean()),
    )


def accuracy_difference(a: Outcomes, b: Outcomes, *, seed: int = 0) -> Accuracy:
    """The difference of two `accuracy` means on the same problems, with its paired 95 % interval.

    `as_wrong` and `as_right` are the differences of these bounds. The mean is null if a side has nothing gradable.
    Raises ValueError for different numbers of problems.
    """
    if len(a.right) != len(b.right):
        raise ValueError(f"a has {len(a.right)} problems and b has {len(b.right)}: pair them by problem first")
    mean = _UNKNOWN
    if a.gradable.any() and b.gradable.any():
        mean = Measured.of(ratio_difference((a.right, a.gradable), (b.right, b.gradable), seed=seed))
    return Accuracy(
        **asdict(mean),
        as_wrong=float((a.right - b.right).mean()),
        as_right=float((a.right - a.gradable - b.right + b.gradable).mean()),
    )


def named_difference(
    outcomes: Mapping[str, Outcomes],
    a: str,
    b: str,
    *,
    among: int | None = None,
    mode: str | None = None,
    seed: int = 0,
) -> Difference:
    """The `accuracy_difference` of two of the outcomes, with their names."""
    return Difference(
        **asdict(accuracy_difference(outcomes[a], outcomes[b], seed=seed)), a=a, b=b, among=among, mode=mode
    )


def verdicts_by_problem(rows: Iterable[Row]) -> dict[str, VerdictCounts]:
    """Counts the verdicts of trajectory rows (`problem_id`, `prompt`, `verdict`) by problem, in order of appearance.

    A problem is named by its `problem_id`. If several prompts share one, each is a problem, and the second is named
    `problem_id (prompt 2)`. Raises ValueError, naming the row, for a missing field or an unknown verdict.
    """
    counts: dict[tuple[str, str], Counter[Verdict]] = {}
    for number, row in enumerate(rows):
        for name in ("problem_id", "prompt", "verdict"):
            if name not in row:
                raise ValueError(f"row {number} has no field {name!r}: grade the trajectories first")
        if row["verdict"] not in get_args(Verdict):
            raise ValueError(
                f"row {number}: verdict {row['verdict']!r} is unknown; it must be one of {', '.join(get_args(Verdict))}"
            )
        key = (row["problem_id"], prompt_id(row))
        counts.setdefault(key, Counter())[row["verdict"]] += 1
    prompts: Counter[str] = Counter()
    named: dict[str, VerdictCounts] = {}
    for (problem_id, _), count in counts.items():
        prompts[problem_id] += 1
        name = problem_id if prompts[problem_id] == 1 else f"{problem_id} (prompt {prompts[problem_id]})"
        named[name] = VerdictCounts(count["right"], count["wrong"], count["ungradable"])
    return named


def digest_of_golds(rows: Iterable[Row]) -> str:
    """SHA-256 over the ids and gold answers of the problems of trajectory rows, in any order."""
    pairs = {canonical_json([row["problem_id"], row["gold"]]) for row in rows}
    return hashlib.sha256(b"\n".join(sorted(pairs))).hexdigest()


def policy_report(problems: Mapping[str, VerdictCounts]) -> PolicyAccuracy:
    """The `accuracy` of a policy. Every problem has the same weight, independent of its number of responses.

    The report also has the total numbers of `samples`, `right`, `wrong` and `ungradable` responses. Raises ValueError
    without problems.
    """
    if not problems:
        raise ValueError("there are no responses to report on")
    counts = list(problems.values())
    return PolicyAccuracy(
        **asdict(accuracy(Outcomes.of(counts))),
        samples=sum(count.samples for count in counts),
        right=sum(count.right for count in counts),
        wrong=sum(count.wrong for count in counts),
        ungradable=sum(count.ungradable for count in counts),
    )


def policy_difference(
    policies: Mapping[str, Mapping[str, VerdictCounts]], a: str, b: str, mode: str, *, seed: int = 0
) -> Difference:
    """The `named_difference` of two policies. Raises ValueError unless they answered the same problems."""
    ours, theirs = policies[a], policies[b]
    if ours.keys() != theirs.keys():
        name = next(iter(ours.keys() ^ theirs.keys()))
        raise ValueError(f"only one of {a} and {b} answered problem {name!r}: evaluate both on the same problems")
    outcomes = {a: Outcomes.of(ours.values()), b: Outcomes.of(theirs[name] for name in ours)}
    return named_difference(outcomes, a, b, mode=mode, seed=seed)
