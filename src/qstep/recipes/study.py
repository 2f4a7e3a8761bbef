"""A study: a recipe that tests a claim, on seeds that were not used for tuning.

    study:
      claim: the claim, and where it is made
      paper: what the paper measured
      settings: how they were chosen, and when
      results: best_of_n                  the `best-of-n` stage whose choices are compared
      comparisons:
        PQM above BCE: {a: pqm, b: bce, n: 64}
        the margins of the paper above none: {a: [margin_2, margin_8], b: margin_0, n: 64}
        at eight: {a: pqm, b: bce, n: 8, decides: false}
        the least Q above the last: {a: pqm/min, b: pqm/last, n: 64}

Each comparison is the accuracy of choosing by `a` minus that of choosing by `b`, among n responses. `a` and `b` are
ways to choose, named as in `best-of-n`, or a scorer with one of its aggregations. A list stands for their mean.

Each seed has its own base model, problems and samples, so a comparison has one difference for each seed. Student's
interval of their mean generalises to other seeds. The interval over problems (a paired bootstrap for each seed) is
about these seeds only. A claim holds if all deciding comparisons have an interval over seeds above 0. It does not hold
if one has an interval below 0. Otherwise the study cannot tell at this scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from qstep.evals import BestOfN, StudyAnswer, read_result
from qstep.evals.intervals import Interval, pooled, ratio_difference, unseen_estimate
from qstep.evals.measures import Measured
from qstep.evals.results import StudyComparison
from qstep.evals.ways import aggregated
from qstep.recipes.graph import Run
from qstep.recipes.recipe import Recipe
from qstep.runs.provenance import provenance
from qstep.types import Estimate

Verdict = Literal["holds", "does not hold", "cannot tell at this scale"]

_LEAST_SEEDS = 3
"""With fewer seeds the verdict is "cannot tell"."""

_AUCS = {
    "response_within_problem": "right responses",
    "step_within_problem": "right steps",
    "position_within_problem": "right steps, by position alone",
    "step_at_equal_position_within_problem": "right steps, at equal positions",
}

_ENTRIES = {"claim", "paper", "settings", "results", "comparisons"}
_COMPARISON = {"a", "b", "n", "decides"}


@dataclass(frozen=True)
class Comparison:
    """Ways to choose among `n` responses, `a` against `b`. If `decides` is false, the verdict ignores it."""

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    n: int
    decides: bool = True


@dataclass(frozen=True)
class Study:
    """The content of a recipe's `study`."""

    claim: str
    paper: str
    settings: str
    results: str
    comparisons: tuple[Comparison, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Study:
        """Raises RecipeError if an entry is missing, unknown or malformed, or if the recipe has variants."""
        written = recipe.study
        if recipe.variants:
            raise recipe.error(
                "a study needs one run for each seed, and this recipe has variants: make them stages, or give "
                "`study: null`"
            )
        if not isinstance(written, dict) or set(written) != _ENTRIES or not isinstance(written["comparisons"], dict):
            raise recipe.error(f"`study` must be a mapping with {', '.join(sorted(_ENTRIES))}")
        results = str(written["results"])
        if results not in recipe.stages:
            raise recipe.error(f"study: results names an unknown stage {results!r}", results, recipe.stages)
        command = recipe.resolved(None, recipe.seeds[0])[results].command.name
        if command != "best-of-n":
            raise recipe.error(f"study: results names a stage of `qstep {command}`: name one of `qstep best-of-n`")
        comparisons = []
        for name, entry in written["comparisons"].items():
            known = isinstance(entry, dict) and {"a", "b", "n"} <= set(entry) <= _COMPARISON
            if not known or type(entry["n"]) is not int:
                raise recipe.error(
                    f"study: comparison {name!r} must be a mapping with `a`, `b` and a whole number `n`; `decides` is "
                    "optional"
                )
            a, b = (tuple(side) if isinstance(side, list) else (side,) for side in (entry["a"], entry["b"]))
            if not a or not b or not all(isinstance(way, str) for way in (*a, *b)):
                raise recipe.error(
                    f"study: comparison {name!r}: a and b must each be a way to choose, or a list of them"
                )
            comparisons.append(Comparison(str(name), a, b, entry["n"], entry.get("decides", True) is not False))
        texts = {name: str(written[name]).strip() for name in ("claim", "paper", "settings", "results")}
        return cls(**texts, comparisons=tuple(comparisons))


def over_seeds(differences: Sequence[float]) -> Estimate:
    """The mean of one difference for each seed, with Student's 95 % interval. Below 3 seeds it is [-1, 1].

    Two seeds are hardly evidence about others. Student's limits are then 13 standard errors away, and if both agree,
    the interval has no width. If three or more agree exactly, the rule of `unseen_estimate` applies.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, n = float(values.mean()) if len(values) else math.nan, len(values)
    if n < _LEAST_SEEDS:
        return Estimate(mean, -1.0, 1.0, n)
    if np.ptp(values) < 1e-12:
        return unseen_estimate(mean, n, lowest=-1.0)
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def answer(recipe: Recipe, runs: Sequence[Run]) -> StudyAnswer:
    """The study's comparisons over the seeds of `runs`, and the verdict on its claim.

    Raises:
        RecipeError: a comparison names a way to choose, or an n, that the results do not have.
    """
    study = Study.of(recipe)
    reports: dict[int, BestOfN] = {run.seed: read_result(run.stages[study.results].output, BestOfN) for run in runs}
    compared = {comparison.name: _compared(recipe, comparison, reports) for comparison in study.comparisons}
    deciding = [comparison.over_seeds for comparison in compared.values() if comparison.decides]
    named = (method for comparison in study.comparisons for method in (*comparison.a, *comparison.b))
    chosen = [*dict.fromkeys(named), "majority", "mean", "pass"]
    return StudyAnswer(
        claim=study.claim,
        paper=study.paper,
        settings=study.settings,
        verdict=verdict(deciding),
        comparisons=compared,
        seeds={str(seed): _means(report, chosen) for seed, report in reports.items()},
        auc={str(seed): _aucs(report, chosen) for seed, report in reports.items()},
        # Another study's command may have run a shared stage.
        provenance=next(iter(reports.values())).provenance | {"command": provenance({})["command"]},
    )


def verdict(deciding: Sequence[Interval]) -> Verdict:
    """The verdict on a claim, from the intervals of the deciding comparisons."""
    if deciding and all((difference.low or 0) > 0 for difference in deciding):
        return "holds"
    if any((difference.high or 0) < 0 for difference in deciding):
        return "does not hold"
    return "cannot tell at this scale"


def _compared(recipe: Recipe, comparison: Comparison, reports: Mapping[int, BestOfN]) -> StudyComparison:
    by_seed: dict[str, Estimate] = {}
    left_out = []
    for seed, report in reports.items():
        a, b = (_outcomes(recipe, comparison, report, side) for side in (comparison.a, comparison.b))
        if a[1].any() and b[1].any():
            by_seed[str(seed)] = ratio_difference(a, b)
        else:
            left_out.append(str(seed))
    known = list(by_seed.values())
    return StudyComparison(
        a=list(comparison.a),
        b=list(comparison.b),
        n=comparison.n,
        decides=comparison.decides,
        over_seeds=Measured.of(over_seeds([estimate.mean for estimate in known])),
        over_problems=Measured.of(pooled(known) if known else Estimate(math.nan, -1.0, 1.0, 0)),
        by_seed={seed: Measured.of(estimate) for seed, estimate in by_seed.items()},
        left_out=left_out or None,
    )


def _outcomes(
    recipe: Recipe, comparison: Comparison, report: BestOfN, methods: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The right and the gradable share of each problem, averaged over some ways to choose."""
    found = []
    outcomes = report.outcomes or {}
    for method in methods:
        shares = outcomes.get(method, {}).get(str(comparison.n))
        if shares is None:
            raise recipe.error(
                f"study: comparison {comparison.name!r}: the results have no {method!r} at n = {comparison.n}; they "
                f"have {', '.join(outcomes)} at n = {', '.join(map(str, report.ns))}"
            )
        found.append((shares.right, shares.gradable))
    right, gradable = np.asarray(found, dtype=np.float64).mean(axis=0)
    return right, gradable


def _means(report: BestOfN, methods: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """The accuracy of each way to choose at each n. A scorer with an aggregation is named `scorer/aggregation`."""
    curves = dict(report.curves)
    for scorer, value in (report.aggregations or {}).items():
        curves |= {aggregated(scorer, how): curve for how, curve in value.curves.items()}
    return {method: {n: value.mean for n, value in curves[method].items()} for method in methods}


def _aucs(report: BestOfN, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """The known AUCs of scorers within a problem, of responses and of steps."""
    found: dict[str, dict[str, float]] = {}
    for method in (name for name in report.auc if name in methods):
        measured = ((kind, report.auc[method].get(kind)) for kind in _AUCS)
        found[method] = {kind: auc.mean for kind, auc in measured if auc is not None and auc.mean is not None}
    return found


def page(recipe: Recipe, found: StudyAnswer) -> str:
    """The study's answer as a page of Markdown."""
    seeds = found.seeds
    methods = dict.fromkeys(method for curves in seeds.values() for method in curves)
    ns = sorted({comparison.n for comparison in found.comparisons.values()})
    lines = [
        f"# {recipe.title}",
        "",
        found.claim,
        "",
        f"**{found.verdict.capitalize()}**, over {len(seeds)} seeds.",
        "",
    ]
    lines += [f"The paper: {found.paper}", "", f"Settings: {found.settings}", ""]
    lines += ["| difference of accuracy, in points | n | over seeds, 95 % | over problems, 95 % | seeds above 0 |"]
    lines += ["|---|---|---|---|---|"]
    for name, comparison in found.comparisons.items():
        above = sum(estimate.estimate.mean > 0 for estimate in comparison.by_seed.values())
        note = "" if comparison.decides else " (does not decide)"
        cells = [_points(comparison.over_seeds), _points(comparison.over_problems)]
        lines.append(f"| {name}{note} | {comparison.n} | {' | '.join(cells)} | {above} of {len(comparison.by_seed)} |")
    lines += _left_out(found.comparisons)
    lines += [
        "",
        f"| accuracy, mean over seeds | {' | '.join(f'n = {n}' for n in ns)} |",
        "|---" * (len(ns) + 1) + "|",
    ]
    for method in methods:
        cells = [_mean_over([curves[method][str(n)] for curves in seeds.values()]) for n in ns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += _auc_table(list(found.auc.values()))
    made = found.provenance
    how = f"`{made['command']}`, commit {made['git_commit']}, {made['hardware']}"
    lines += ["", f"{how}; seeds {', '.join(seeds)}.", ""]
    return "\n".join(lines)


def _left_out(comparisons: Mapping[str, StudyComparison]) -> list[str]:
    said = [
        f"Left out of {name}: seeds {', '.join(comparison.left_out)}, "
        "where nothing that one of the two chose could be graded."
        for name, comparison in comparisons.items()
        if comparison.left_out
    ]
    return ["", *said] if said else []


def _mean_over(means: Sequence[float | None]) -> str:
    """The mean of the known values, and their number if some are unknown."""
    known = [mean for mean in means if mean is not None]
    if not known:
        return "nothing gradable"
    return f"{np.mean(known):.3f}" + ("" if len(known) == len(means) else f" ({len(known)} seeds)")


def _auc_table(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    kinds = [kind for kind in _AUCS if all(kind in measured for aucs in by_seed for measured in aucs.values())]
    if not kinds or not by_seed[0]:
        return []
    head = f"| AUC within a problem, mean over seeds | {' | '.join(_AUCS[kind] for kind in kinds)} |"
    rows = [
        f"| {method} | {' | '.join(f'{np.mean([aucs[method][kind] for aucs in by_seed]):.3f}' for kind in kinds)} |"
        for method in by_seed[0]
    ]
    return ["", head, "|---" * (len(kinds) + 1) + "|", *rows]


def _points(measured: Measured) -> str:
    if measured.mean is None:
        return "nothing gradable"
    estimate = measured.estimate
    return f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
