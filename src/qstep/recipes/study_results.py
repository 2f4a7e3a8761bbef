"""What a study compares: for each seed, the outcomes of each way to choose or of each policy, problem by problem.

A study reads one `best-of-n` stage, or one `evaluate` stage for each policy. In a recipe with variants, the name of the
variant stands before each name, as in `lam_09/dqo`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.evals import BestOfN, PolicyEvaluation, read_result
from qstep.evals.accuracy import Outcomes, VerdictCounts, accuracy
from qstep.evals.results import MODES
from qstep.evals.ways import aggregated
from qstep.recipes.graph import Run
from qstep.recipes.recipe import Recipe

_PASS = re.compile(r"pass@([1-9]\d*)")

Stages = str | Mapping[str, str]
"""The `best-of-n` stage of a study, or the `evaluate` stage of each policy."""

AUCS = {
    "response_within_problem": "right responses",
    "step_within_problem": "right steps",
    "position_within_problem": "right steps, by position alone",
    "step_at_equal_position_within_problem": "right steps, at equal positions",
}


@dataclass(frozen=True)
class SeedResults:
    """The results of one seed, by way and by what is measured: an n, `greedy`, `sampled` or `pass@k`.

    `problems` has the names of each way's problems, in the order of its outcomes. It is None for results of an earlier
    version.
    """

    outcomes: Mapping[str, Mapping[str, Outcomes]]
    means: Mapping[str, Mapping[str, float | None]]
    provenance: Mapping[str, Any]
    problems: Mapping[str, Sequence[str] | None]
    unscored: Sequence[str] = ()
    auc: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def shares(self, ways: Sequence[str], measure: str) -> tuple[Sequence[str] | None, NDArray[np.float64]]:
        """The names of the problems, and their right and gradable shares, [ways, 2, problems].

        Problems without names are paired by position. Raises ValueError if the ways have different problems.
        """
        found = []
        for way in ways:
            order = positions(self._names(ways[0], measure), self._names(way, measure))
            if order is None:
                raise ValueError(
                    f"{way} and {ways[0]} have different problems: give both the same. If they have the same and one "
                    "result is of an earlier version of qstep, delete its job"
                )
            outcomes = self.outcomes[way][measure]
            found.append([outcomes.right[order], outcomes.gradable[order]])
        return self.problems[ways[0]], np.array(found)

    def _names(self, way: str, measure: str) -> Sequence[str]:
        """The names of a way's problems, or their places."""
        return self.problems[way] or [str(place) for place in range(len(self.outcomes[way][measure].right))]


def positions(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """The place of each name in another list, or None if the lists do not have the same names."""
    places = {name: place for place, name in enumerate(among)}
    return [places[name] for name in names] if sorted(names) == sorted(among) else None


def k_of(measure: str) -> int | None:
    """The k of `pass@k`; None for another measure."""
    found = _PASS.fullmatch(measure)
    return int(found[1]) if found else None


def is_measure(measure: object) -> bool:
    """Whether it is one of the measures of a policy."""
    return isinstance(measure, str) and (measure in MODES or k_of(measure) is not None)


def seed_results(recipe: Recipe, stages: Stages, runs: Sequence[Run], measures: Sequence[str]) -> SeedResults:
    """The results of the runs of one seed, one for each variant.

    Raises ValueError if the policies answered different problems.
    """

    def output(run: Run, stage: str) -> Path:
        return run.stages[recipe.last(stage, run.variant)].output

    if not isinstance(stages, str):
        return _of_policies(
            {
                _before(run) + policy: read_result(output(run, stage) / "results.json", PolicyEvaluation)
                for run in runs
                for policy, stage in stages.items()
            },
            measures,
        )
    found = [_of_choices(read_result(output(run, stages), BestOfN), _before(run)) for run in runs]
    return SeedResults(
        outcomes={name: curves for one in found for name, curves in one.outcomes.items()},
        means={name: curve for one in found for name, curve in one.means.items()},
        provenance=found[0].provenance,
        problems={name: names for one in found for name, names in one.problems.items()},
        unscored=[name for one in found for name in one.unscored],
        auc={name: aucs for one in found for name, aucs in one.auc.items()},
    )


def _before(run: Run) -> str:
    """What stands before a name of this run."""
    return "" if run.variant is None else f"{run.variant}/"


def _of_choices(report: BestOfN, before: str) -> SeedResults:
    curves = dict(report.curves)
    for scorer, value in (report.aggregations or {}).items():
        curves |= {aggregated(scorer, how): curve for how, curve in value.curves.items()}
    aucs = {
        before + name: {
            kind: auc.mean for kind in AUCS if (auc := kinds.get(kind)) is not None and auc.mean is not None
        }
        for name, kinds in report.auc.items()
    }
    return SeedResults(
        outcomes={
            before + way: {
                n: Outcomes(np.asarray(shares.right), np.asarray(shares.gradable)) for n, shares in by_n.items()
            }
            for way, by_n in (report.outcomes or {}).items()
        },
        means={before + way: {n: value.mean for n, value in curve.items()} for way, curve in curves.items()},
        provenance=report.provenance,
        problems={before + way: report.problem_names for way in report.outcomes or {}},
        unscored=[before + way for way in ("majority", "mean", "pass")],
        auc=aucs,
    )


def _of_policies(evaluations: Mapping[str, PolicyEvaluation], measures: Sequence[str]) -> SeedResults:
    outcomes: dict[str, dict[str, Outcomes]] = {}
    problems: list[str] = []
    of_golds = {evaluation.golds: policy for policy, evaluation in evaluations.items()}
    if len(known := [policy for golds, policy in of_golds.items() if golds is not None]) > 1:
        raise ValueError(f"{known[1]} and {known[0]} answered different problems: evaluate both on the same")
    for policy, evaluation in evaluations.items():
        outcomes[policy] = {}
        for measure in measures:
            k = k_of(measure)
            counts = evaluation.problems["sampled" if k else measure]
            problems = problems or sorted(counts)
            if counts.keys() != {*problems}:
                raise ValueError(
                    f"{policy} and {next(iter(evaluations))} answered different problems: evaluate both on the same"
                )
            verdicts = [VerdictCounts(*counts[problem]) for problem in problems]
            outcomes[policy][measure] = Outcomes.of_any(verdicts, k) if k else Outcomes.of(verdicts)
    means = {
        policy: {name: accuracy(measured).mean for name, measured in by_measure.items()}
        for policy, by_measure in outcomes.items()
    }
    names = None if None in of_golds else [f"{golds} {problem}" for golds in of_golds for problem in problems]
    provenance = next(iter(evaluations.values())).provenance
    return SeedResults(outcomes, means, provenance, dict.fromkeys(outcomes, names))
