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

A study of policies names the `evaluate` stage of each, and a comparison has a measure instead of n:

      results: {base: eval_base, dqo: eval_dqo}
      comparisons:
        DQO gains: {a: dqo, b: base, measure: sampled}      or greedy, or pass@8

In a recipe with variants, the variant stands before each name: `{a: lam_09/dqo, b: lam_1/dqo, measure: sampled}`.

Each seed has its own base model, problems and samples, so a comparison has one difference for each seed. Student's
interval of their mean generalises to other seeds. The interval over problems (a paired bootstrap for each seed) is
about these seeds only. If the seeds have the same problems, it is one bootstrap of the problems' means over seeds.

A claim holds if all deciding comparisons have an interval over seeds above 0. It does not hold if one has an interval
below 0. Otherwise the study cannot tell at this scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from qstep.evals import StudyAnswer
from qstep.evals.intervals import Interval, pooled, ratio_difference, unseen_estimate
from qstep.evals.measures import Measured
from qstep.evals.results import StudyComparison
from qstep.recipes.graph import Run
from qstep.recipes.recipe import Recipe
from qstep.recipes.study_results import SeedResults, Stages, is_measure, k_of, positions, seed_results
from qstep.runs.provenance import provenance
from qstep.types import Estimate

Conclusion = Literal["holds", "does not hold", "cannot tell at this scale"]

_LEAST_SEEDS = 3
"""With fewer seeds the verdict is "cannot tell"."""

_ENTRIES = {"claim", "paper", "settings", "results", "comparisons"}


@dataclass(frozen=True)
class Comparison:
    """Ways to choose among `at` responses, or policies by the measure `at`. `a` is compared with `b`.

    If `decides` is false, the verdict ignores it.
    """

    name: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    at: str
    decides: bool = True


@dataclass(frozen=True)
class Study:
    """The content of a recipe's `study`."""

    claim: str
    paper: str
    settings: str
    results: Stages
    comparisons: tuple[Comparison, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Study:
        """Raises RecipeError if an entry is missing, unknown or malformed."""
        written = recipe.study
        if not isinstance(written, dict) or set(written) != _ENTRIES or not isinstance(written["comparisons"], dict):
            raise recipe.error(f"`study` must be a mapping with {', '.join(sorted(_ENTRIES))}")
        results = written["results"]
        if not isinstance(results, dict):
            results = str(results)
        responses = _check_results(recipe, results)
        comparisons = [_comparison(recipe, str(name), entry, results) for name, entry in written["comparisons"].items()]
        for comparison in comparisons:
            if responses is not None:
                _check_policies(recipe, comparison, results, responses)
        texts = {name: str(written[name]).strip() for name in ("claim", "paper", "settings")}
        return cls(**texts, results=results, comparisons=tuple(comparisons))

    def can_be_answered(self, recipe: Recipe, runs: Sequence[Run]) -> bool:
        """Whether all runs have the stages that it reads. With `--only`, they may not."""
        return all(recipe.last(name, run.variant) in run.stages for run in runs for name in _stages(self.results))


def _stages(results: Stages) -> list[str]:
    return [results] if isinstance(results, str) else [*results.values()]


def _check_results(recipe: Recipe, results: Stages) -> int | None:
    """Checks the stages of a study. Returns the least number of sampled responses if it is of policies."""
    from qstep.stages.evaluate import EvaluateConfig

    command = "best-of-n" if isinstance(results, str) else "evaluate"
    responses = []
    for variant in recipe.variants or (None,):
        stages = recipe.resolved(variant, recipe.seeds[0])
        for name in _stages(results):
            last = recipe.last(name, variant)
            if last not in stages:
                raise recipe.error(f"study: results names an unknown stage {name!r}", str(name), stages)
            stage = stages[last]
            if stage.command.name != command:
                problem = f"study: results names a stage of `qstep {stage.command.name}`: name one of `qstep {command}`"
                more = "" if stage.command.name != "evaluate" else f", or write `results: {{policy: {name}}}`"
                raise recipe.error(problem + more)
            number = stage.options.get("num_samples", EvaluateConfig.num_samples)
            if command == "evaluate" and type(number) is not int:
                raise recipe.error(f"stage {last!r}: num_samples is {number!r}: give a whole number, without quotes")
            responses.append(number)
    return None if isinstance(results, str) else min(responses)


def _comparison(recipe: Recipe, name: str, entry: Any, results: Stages) -> Comparison:
    """A comparison as it is written. Raises RecipeError if it is malformed."""
    at = "n" if isinstance(results, str) else "measure"
    known = isinstance(entry, dict) and {"a", "b", at} <= set(entry) <= {"a", "b", at, "decides"}
    if not known or not (type(entry[at]) is int if at == "n" else is_measure(entry[at])):
        what = "a whole number `n`" if at == "n" else "`measure`, which is greedy, sampled or pass@k"
        raise recipe.error(
            f"study: comparison {name!r} must be a mapping with `a`, `b` and {what}; `decides` is optional"
        )
    a, b = (tuple(side) if isinstance(side, list) else (side,) for side in (entry["a"], entry["b"]))
    if not a or not b or not all(isinstance(way, str) for way in (*a, *b)):
        what = "a way to choose" if at == "n" else "a policy"
        raise recipe.error(f"study: comparison {name!r}: a and b must each be {what}, or a list of them")
    return Comparison(name, a, b, str(entry[at]), entry.get("decides", True) is not False)


def _check_policies(recipe: Recipe, comparison: Comparison, results: Stages, responses: int) -> None:
    """Raises RecipeError if a comparison names a policy that is not evaluated, or more responses than there are."""
    variants = [f"{variant}/" for variant in recipe.variants] or [""]
    known = [f"{variant}{policy}" for variant in variants for policy in results]
    for policy in (*comparison.a, *comparison.b):
        if policy not in known:
            problem = f"no policy {policy!r} is evaluated; there are {', '.join(known)}"
            raise recipe.error(f"study: comparison {comparison.name!r}: {problem}")
    if (k_of(comparison.at) or 0) > responses:
        problem = f"{comparison.at} needs as many responses, and num_samples is {responses}"
        raise recipe.error(f"study: comparison {comparison.name!r}: {problem}")


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
        RecipeError: a comparison names a way to choose, or an n, that the results do not have, or its sides have
            different problems.
        ValueError: the policies answered different problems.
    """
    study = Study.of(recipe)
    measures = list(dict.fromkeys(comparison.at for comparison in study.comparisons))
    seeds = {
        seed: seed_results(recipe, study.results, [run for run in runs if run.seed == seed], measures)
        for seed in dict.fromkeys(run.seed for run in runs)
    }
    compared = {comparison.name: _compared(recipe, comparison, seeds) for comparison in study.comparisons}
    deciding = [comparison.over_seeds for comparison in compared.values() if comparison.decides]
    first = next(iter(seeds.values()))
    named = (way for comparison in study.comparisons for way in (*comparison.a, *comparison.b))
    ways = [*dict.fromkeys((*named, *first.unscored))]
    aucs = {
        str(seed): {way: dict(auc) for way, auc in found.auc.items() if way in ways} for seed, found in seeds.items()
    }
    return StudyAnswer(
        claim=study.claim,
        paper=study.paper,
        settings=study.settings,
        verdict=verdict(deciding),
        comparisons=compared,
        seeds={str(seed): {way: dict(found.means[way]) for way in ways} for seed, found in seeds.items()},
        auc=aucs if any(aucs.values()) else None,
        # Another study's command may have run a shared stage.
        provenance={**first.provenance, "command": provenance({})["command"]},
    )


def verdict(deciding: Sequence[Interval]) -> Conclusion:
    """The verdict on a claim, from the intervals of the deciding comparisons."""
    if deciding and all((difference.low or 0) > 0 for difference in deciding):
        return "holds"
    if any((difference.high or 0) < 0 for difference in deciding):
        return "does not hold"
    return "cannot tell at this scale"


def _compared(recipe: Recipe, comparison: Comparison, seeds: Mapping[int, SeedResults]) -> StudyComparison:
    by_seed: dict[str, Estimate] = {}
    used: list[_Sides] = []
    left_out = []
    for seed, found in seeds.items():
        names, sides = _sides(recipe, comparison, found)
        if sides[:, 1].any(axis=1).all():
            by_seed[str(seed)] = _difference(sides)
            used.append((names, sides))
        else:
            left_out.append(str(seed))
    known = list(by_seed.values())
    n = int(comparison.at) if comparison.at.isdigit() else None
    return StudyComparison(
        a=list(comparison.a),
        b=list(comparison.b),
        n=n,
        measure=comparison.at if n is None else None,
        decides=comparison.decides,
        over_seeds=Measured.of(over_seeds([estimate.mean for estimate in known])),
        over_problems=Measured.of(_over_problems(known, used)),
        by_seed={seed: Measured.of(estimate) for seed, estimate in by_seed.items()},
        left_out=left_out or None,
    )


_Sides = tuple[Sequence[str] | None, NDArray[np.float64]]
"""The names of the problems, if known, and the right and gradable shares of a and b: [2 sides, 2, problems]."""


def _sides(recipe: Recipe, comparison: Comparison, found: SeedResults) -> _Sides:
    """Each side is the mean of its ways to choose or policies. Raises RecipeError if these cannot be compared."""
    ways = [*comparison.a, *comparison.b]
    for way in ways:
        if comparison.at not in found.outcomes.get(way, {}):
            ns = dict.fromkeys(n for by_n in found.outcomes.values() for n in by_n)
            raise recipe.error(
                f"study: comparison {comparison.name!r}: the results have no {way!r} at n = {comparison.at}; they have "
                f"{', '.join(found.outcomes)} at n = {', '.join(ns)}"
            )
    try:
        names, shares = found.shares(ways, comparison.at)
    except ValueError as error:
        raise recipe.error(f"study: comparison {comparison.name!r}: {error}") from None
    middle = len(comparison.a)
    return names, np.stack([shares[:middle].mean(axis=0), shares[middle:].mean(axis=0)])


def _difference(sides: NDArray[np.float64]) -> Estimate:
    a, b = sides
    return ratio_difference((a[0], a[1]), (b[0], b[1]))


def _over_problems(by_seed: Sequence[Estimate], used: Sequence[_Sides]) -> Estimate:
    """The mean of the differences, with its interval over the problems of these seeds.

    If the seeds have the same problems, the seeds are not independent. Then the shares of each problem are averaged
    over the seeds.
    """
    if not by_seed:
        return Estimate(math.nan, -1.0, 1.0, 0)
    first = used[0][0]
    orders = [None if names is None or first is None else positions(first, names) for names, _ in used]
    aligned = [sides[..., order] for (_, sides), order in zip(used, orders, strict=True) if order is not None]
    if len(used) == 1 or len(aligned) < len(used):
        return pooled(by_seed)
    return _difference(np.mean(aligned, axis=0))
