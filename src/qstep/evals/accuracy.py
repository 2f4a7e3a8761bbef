"""How often a policy is right: graded trajectory rows in, accuracy over problems out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, get_args

from qstep.evals.intervals import mean_estimate
from qstep.types import Row, Verdict


@dataclass(frozen=True, slots=True)
class ProblemAccuracy:
    """The verdicts on one problem's responses, counted."""

    right: int
    wrong: int
    ungradable: int

    @property
    def samples(self) -> int:
        return self.right + self.wrong + self.ungradable

    @property
    def accuracy(self) -> float:
        """The share of responses that are right; an ungradable one is not (and is counted apart)."""
        return self.right / self.samples


def accuracy_by_problem(rows: Iterable[Row]) -> dict[str, ProblemAccuracy]:
    """Counts the verdicts of trajectory rows (`problem_id`, `verdict`) by problem, in order of appearance.

    Raises ValueError, naming the row, on a missing field or an unknown verdict.
    """
    counts: dict[str, dict[Verdict, int]] = {}
    for number, row in enumerate(rows):
        for name in ("problem_id", "verdict"):
            if name not in row:
                raise ValueError(f"row {number} has no field {name!r}: grade the trajectories first")
        if row["verdict"] not in get_args(Verdict):
            raise ValueError(f"row {number}: verdict {row['verdict']!r} is none of {', '.join(get_args(Verdict))}")
        of_problem = counts.setdefault(row["problem_id"], {"right": 0, "wrong": 0, "ungradable": 0})
        of_problem[row["verdict"]] += 1
    return {problem_id: ProblemAccuracy(**of_problem) for problem_id, of_problem in counts.items()}


def policy_report(rows: Iterable[Row], *, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """The mean over problems of each problem's accuracy: `mean`, `low`, `high` (95 %), `n` problems.

    Also `samples`, `right`, `wrong` and `ungradable` responses in all. Every problem weighs the same, however
    many responses it has. Raises as `accuracy_by_problem` does, and ValueError on no row.
    """
    problems = accuracy_by_problem(rows).values()
    if not problems:
        raise ValueError("there is no trajectory to report on")
    estimate = mean_estimate([problem.accuracy for problem in problems], seed=seed, resamples=resamples)
    return asdict(estimate) | {
        name: sum(getattr(problem, name) for problem in problems)
        for name in ("samples", "right", "wrong", "ungradable")
    }
