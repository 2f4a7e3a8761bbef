"""A study: a recipe that answers a claim, on worlds that nothing was chosen on.

    study:
      claim: what is said, and where
      paper: what the paper measured
      settings: how they were chosen, and when
      results: best_of_n                  the stage, a `best-of-n`, whose choices are compared
      comparisons:
        PQM above BCE: {a: pqm, b: bce, n: 64}
        the margins of the paper above none: {a: [margin_2, margin_8], b: margin_0, n: 64}
        at eight: {a: pqm, b: bce, n: 8, decides: false}
        the least Q above the last: {a: pqm/min, b: pqm/last, n: 64}

Each comparison is the accuracy of choosing by `a` less that by `b` (ways to choose, as `best-of-n` names them, or a
scorer by one of its aggregations; of a list the mean), among n responses. Every seed is a world: of its own base model,
problems and samples. So the difference of a world is a number, and over the worlds there is Student's interval of their
mean, which speaks of worlds like these; the interval over problems (bootstrap, paired, in each world) speaks of these
worlds alone. A claim holds where every comparison that decides has its interval over worlds above 0, does not where one
has it below, and otherwise it cannot be told at this scale.
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
from qstep.evals.results import Measured, StudyComparison
from qstep.recipes.graph import Run
from qstep.recipes.recipe import Recipe
from qstep.runs.provenance import provenance
from qstep.types import Estimate

Verdict = Literal["holds", "does not hold", "cannot tell at this scale"]

_LEAST_WORLDS = 3
"""Fewer worlds say nothing of others."""

_BESIDE = ("majority", "mean", "pass")
"""Ways to choose that every page shows: the vote, any response, and whether any is right."""

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
    """Ways to choose among `n` responses, `a` against `b`; `decides`, or is told beside."""

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    n: int
    decides: bool = True


@dataclass(frozen=True)
class Study:
    """What a recipe's `study` says."""

    claim: str
    paper: str
    settings: str
    results: str
    comparisons: tuple[Comparison, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Study:
        """Raises RecipeError where an entry is missing, unknown, or not what it should be, or a world has variants."""
        written = recipe.study
        if recipe.variants:
            raise recipe.error("a study has one run a world: make stages of its variants, or say `study: null`")
        if not isinstance(written, dict) or set(written) != _ENTRIES or not isinstance(written["comparisons"], dict):
            raise recipe.error(f"`study` is a mapping with {', '.join(sorted(_ENTRIES))}")
        results = str(written["results"])
        if results not in recipe.stages:
            raise recipe.error(f"study: results is an unknown stage {results!r}", results, recipe.stages)
        command = recipe.resolved(None, recipe.seeds[0])[results].command.name
        if command != "best-of-n":
            raise recipe.error(f"study: results is a stage of `qstep {command}`: name one of `qstep best-of-n`")
        comparisons = []
        for name, of in written["comparisons"].items():
            if not isinstance(of, dict) or not {"a", "b", "n"} <= set(of) <= _COMPARISON or type(of["n"]) is not int:
                raise recipe.error(f"study: comparison {name!r} is a mapping with a, b, n and, if need be, decides")
            a, b = (tuple(side) if isinstance(side, list) else (side,) for side in (of["a"], of["b"]))
            if not a or not b or not all(isinstance(way, str) for way in (*a, *b)):
                raise recipe.error(f"study: comparison {name!r}: a and b are each a way to choose, or a list of ways")
            comparisons.append(Comparison(str(name), a, b, of["n"], of.get("decides", True) is not False))
        texts = {name: str(written[name]).strip() for name in ("claim", "paper", "settings", "results")}
        return cls(**texts, comparisons=tuple(comparisons))


def over_worlds(differences: Sequence[float]) -> Estimate:
    """The mean of one difference a world and Student's 95 % interval. Of fewer than 3 worlds it is all of [-1, 1].

    Two worlds say next to nothing of others: Student's limits are 13 standard errors away, and where both happen to
    agree there is no width at all. Where three or more agree exactly, the rule of `unseen_estimate` holds.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, n = float(values.mean()) if len(values) else math.nan, len(values)
    if n < _LEAST_WORLDS:
        return Estimate(mean, -1.0, 1.0, n)
    if np.ptp(values) < 1e-12:
        return unseen_estimate(mean, n, lowest=-1.0)
    half = float(student.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def answer(recipe: Recipe, runs: Sequence[Run]) -> StudyAnswer:
    """The study's comparisons over the worlds that were run, and the verdict on its claim.

    Raises:
        RecipeError: a comparison names a way to choose, or an n, that the results do not have.
    """
    study = Study.of(recipe)
    worlds: dict[int, BestOfN] = {run.seed: read_result(run.stages[study.results].output, BestOfN) for run in runs}
    compared = {of.name: _compared(recipe, of, worlds) for of in study.comparisons}
    deciding = [compared[of.name].over_worlds for of in study.comparisons if of.decides]
    chosen = [*dict.fromkeys(method for of in study.comparisons for method in (*of.a, *of.b)), *_BESIDE]
    return StudyAnswer(
        claim=study.claim,
        paper=study.paper,
        settings=study.settings,
        verdict=verdict(deciding),
        comparisons=compared,
        worlds={str(seed): _means(report, chosen) for seed, report in worlds.items()},
        auc={str(seed): _aucs(report, chosen) for seed, report in worlds.items()},
        # A stage that several studies share was run by another's command.
        provenance=next(iter(worlds.values())).provenance | {"command": provenance({})["command"]},
    )


def verdict(deciding: Sequence[Interval]) -> Verdict:
    """Of a claim, by the intervals of the comparisons that decide."""
    if deciding and all((of.low or 0) > 0 for of in deciding):
        return "holds"
    if any((of.high or 0) < 0 for of in deciding):
        return "does not hold"
    return "cannot tell at this scale"


def _compared(recipe: Recipe, of: Comparison, worlds: Mapping[int, BestOfN]) -> StudyComparison:
    by_world: dict[str, Estimate] = {}
    left_out = []
    for seed, report in worlds.items():
        a, b = (_outcomes(recipe, of, report, side) for side in (of.a, of.b))
        if a[1].any() and b[1].any():
            by_world[str(seed)] = ratio_difference(a, b)
        else:
            left_out.append(str(seed))
    known = list(by_world.values())
    return StudyComparison(
        a=list(of.a),
        b=list(of.b),
        n=of.n,
        decides=of.decides,
        over_worlds=_measured(over_worlds([estimate.mean for estimate in known])),
        over_problems=_measured(pooled(known) if known else Estimate(math.nan, -1.0, 1.0, 0)),
        by_world={world: _measured(estimate) for world, estimate in by_world.items()},
        left_out=left_out or None,
    )


def _measured(estimate: Estimate) -> Measured:
    return Measured(None if math.isnan(estimate.mean) else estimate.mean, estimate.low, estimate.high, estimate.n)


def _outcomes(
    recipe: Recipe, of: Comparison, report: BestOfN, methods: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The right and the gradable share of each problem by some ways to choose, their mean."""
    found = []
    outcomes = report.outcomes or {}
    for method in methods:
        shares = outcomes.get(method, {}).get(str(of.n))
        if shares is None:
            raise recipe.error(
                f"study: comparison {of.name!r}: the results have no {method!r} at n = {of.n}; they have "
                f"{', '.join(outcomes)} at n = {', '.join(map(str, report.ns))}"
            )
        found.append((shares.right, shares.gradable))
    right, gradable = np.asarray(found, dtype=np.float64).mean(axis=0)
    return right, gradable


def _means(report: BestOfN, methods: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """The accuracy at each n of each way to choose; of a scorer by an aggregation, `scorer/aggregation`."""
    curves = dict(report.curves)
    for scorer, of in (report.aggregations or {}).items():
        curves |= {f"{scorer}/{how}": curve for how, curve in of.curves.items()}
    return {method: {n: of.mean for n, of in curves[method].items()} for method in methods}


def _aucs(report: BestOfN, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """How well scorers tell right responses, and right steps, from wrong ones within a problem, where that is known."""
    found: dict[str, dict[str, float]] = {}
    for method in (name for name in report.auc if name in methods):
        measured = ((kind, report.auc[method].get(kind)) for kind in _AUCS)
        found[method] = {kind: of.mean for kind, of in measured if of is not None and of.mean is not None}
    return found


def page(recipe: Recipe, found: StudyAnswer) -> str:
    """The study's answer as a page of Markdown."""
    worlds = found.worlds
    methods = dict.fromkeys(method for curves in worlds.values() for method in curves)
    ns = sorted({of.n for of in found.comparisons.values()})
    lines = [
        f"# {recipe.title}",
        "",
        found.claim,
        "",
        f"**{found.verdict.capitalize()}**, over {len(worlds)} worlds.",
        "",
    ]
    lines += [f"The paper: {found.paper}", "", f"Settings: {found.settings}", ""]
    lines += ["| difference of accuracy, in points | n | over worlds, 95 % | over problems, 95 % | worlds above 0 |"]
    lines += ["|---|---|---|---|---|"]
    for name, of in found.comparisons.items():
        above = sum(estimate.estimate.mean > 0 for estimate in of.by_world.values())
        told = "" if of.decides else " (told beside)"
        cells = [_points(of.over_worlds), _points(of.over_problems), f"{above} of {len(of.by_world)}"]
        lines.append(f"| {name}{told} | {of.n} | {' | '.join(cells)} |")
    lines += _left_out(found.comparisons)
    lines += [
        "",
        f"| accuracy, mean over worlds | {' | '.join(f'n = {n}' for n in ns)} |",
        "|---" * (len(ns) + 1) + "|",
    ]
    for method in methods:
        cells = [_mean_over([curves[method][str(n)] for curves in worlds.values()]) for n in ns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += _auc_table(list(found.auc.values()))
    made = found.provenance
    how = f"`{made['command']}`, commit {made['git_commit']}, {made['hardware']}"
    lines += ["", f"{how}; worlds {', '.join(worlds)}.", ""]
    return "\n".join(lines)


def _left_out(comparisons: Mapping[str, StudyComparison]) -> list[str]:
    said = [
        f"Left out of {name}: worlds {', '.join(of.left_out)}, where nothing that one of the two chose could be graded."
        for name, of in comparisons.items()
        if of.left_out
    ]
    return ["", *said] if said else []


def _mean_over(worlds: Sequence[float | None]) -> str:
    """The mean of what is known, and of how many worlds where that is not all."""
    known = [mean for mean in worlds if mean is not None]
    if not known:
        return "nothing gradable"
    return f"{np.mean(known):.3f}" + ("" if len(known) == len(worlds) else f" ({len(known)} worlds)")


def _auc_table(worlds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    kinds = [kind for kind in _AUCS if all(kind in of for world in worlds for of in world.values())]
    if not kinds or not worlds[0]:
        return []
    head = f"| AUC within a problem, mean over worlds | {' | '.join(_AUCS[kind] for kind in kinds)} |"
    rows = [
        f"| {method} | {' | '.join(f'{np.mean([world[method][kind] for world in worlds]):.3f}' for kind in kinds)} |"
        for method in worlds[0]
    ]
    return ["", head, "|---" * (len(kinds) + 1) + "|", *rows]


def _points(measured: Measured) -> str:
    if measured.mean is None:
        return "nothing gradable"
    of = measured.estimate
    return f"{100 * of.mean:+.1f} [{100 * of.low:+.1f}, {100 * of.high:+.1f}]"
