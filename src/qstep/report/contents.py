"""Gathers results of several kinds into the contents of one page."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from qstep.data import canonical_json
from qstep.evals import VerdictCounts, policy_difference
from qstep.evals.measures import Difference
from qstep.evals.results import (
    BestOfN,
    Page,
    PolicyEvaluation,
    SearchComparison,
    StepJudgement,
)

Reported = BestOfN | SearchComparison | PolicyEvaluation | StepJudgement | Page
"""The kinds of results that a page can show."""


def gathered(results: Mapping[str, Reported]) -> Page:
    """The page for `render_report` from evaluations, best-of-n, searches, step benchmarks, and other pages.

    Raises ValueError if two evaluations have different problems.
    """
    page: dict[str, Any] = {name: {} for name in ("policies", "comparisons", "verifiers", "verifier_auc", "provenance")}
    page |= {name: {} for name in ("aggregations", "over_optimisation", "length", "steps")}
    several = Counter(map(type, results.values()))
    for name, result in results.items():
        if isinstance(result, Page):
            _add(page, {field.name: getattr(result, field.name) for field in fields(result)})
        elif result.provenance:
            shown = ("command", "git_commit", "hardware", "date")
            page["provenance"][name] = {key: result.provenance[key] for key in shown if key in result.provenance}
    evaluations = {name: result for name, result in results.items() if isinstance(result, PolicyEvaluation)}
    _add(page, {"policies": {name: result.accuracies for name, result in evaluations.items()}})
    _add(page, _comparisons("", _between_policies(evaluations)))
    for name, result in results.items():
        before = f"{name}: " if several[type(result)] > 1 else ""
        if isinstance(result, BestOfN):
            _add(page, _named(before, verifiers=result.curves, verifier_auc=result.auc))
            _add(page, _comparisons(before, _between_choices(result)))
            of_scorers = {"aggregations": result.aggregations, "over_optimisation": result.over_optimisation}
            _add(page, _named(before, **of_scorers, length=result.length))
        elif isinstance(result, StepJudgement):
            _add(page, _named(before, steps=result.steps, thresholds=dict.fromkeys(result.steps, result.threshold)))
        elif isinstance(result, SearchComparison):
            _add(page, _named(before, searches=result.searches))
            _add(page, _comparisons(before, result.differences.values()))
    return Page(**page | {"problems": _digest_of_problems(results.values())})


def _digest_of_problems(results: Iterable[Reported]) -> str | None:
    """A digest of the known problems of the results. It is None if no result names its problems."""
    known = {canonical_json(problems) for result in results if (problems := _problems_of(result))}
    return hashlib.sha256(b"\n".join(sorted(known))).hexdigest() if known else None


def _problems_of(result: Reported) -> list[str] | str | None:
    if isinstance(result, BestOfN):
        return sorted(result.problem_names or [])
    if isinstance(result, PolicyEvaluation):
        return result.golds
    return result.problems if isinstance(result, Page) else None


def _add(page: dict[str, Any], more: Mapping[str, Any]) -> None:
    for part, value in more.items():
        held = page.get(part)
        if isinstance(held, dict) and isinstance(value, dict) and (twice := sorted(held.keys() & value.keys())):
            names = ", ".join(map(str, twice))
            raise ValueError(f"several results have {part} of the name {names}. Give each a page of its own")
        if value is not None:
            page[part] = page.get(part, {}) | value if isinstance(value, dict) else value


def _named(before: str, **parts: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        part: {before + name: value for name, value in values.items()}
        for part, values in parts.items()
        if values is not None
    }


def _comparisons(before: str, differences: Iterable[Difference]) -> dict[str, dict[str, Difference]]:
    named = (replace(found, a=before + found.a, b=before + found.b) for found in differences)
    return {"comparisons": {found.name: found for found in named}}


def _between_policies(evaluations: Mapping[str, PolicyEvaluation]) -> Iterator[Difference]:
    """The first policy against each other one: sampled if both have that mode, else in the first common mode."""
    first, *others = evaluations or [""]
    for other in others:
        counted = {name: evaluations[name].problems for name in (first, other)}
        modes = sorted(counted[first], key=lambda mode: mode != "sampled")
        mode = next((mode for mode in modes if mode in counted[other]), None)
        if mode is not None:
            counts = {
                name: {problem: VerdictCounts(*verdicts) for problem, verdicts in modes[mode].items()}
                for name, modes in counted.items()
            }
            difference = policy_difference(counts, first, other, mode)
            if len({evaluations[name].golds for name in (first, other)} - {None}) > 1:
                problem = f"{first} and {other} answered problems with other gold answers"
                raise ValueError(f"{problem}: evaluate both on the same problems")
            yield difference


def _between_choices(found: BestOfN) -> Iterator[Difference]:
    """The first scorer against the majority, one response, and each other scorer, at the largest n.

    If another way to choose is the most accurate one, it is compared with the majority too.
    """
    if not found.auc:
        return
    first, *others = found.auc
    differences = {(difference.a, difference.b): difference for difference in found.differences.values()}
    for other in ("majority", "mean", *(other for other in others if (first, other) in differences)):
        yield differences[first, other]
    means = {name: curve[str(max(found.ns))].mean for name, curve in found.curves.items() if name != "pass"}
    best = max(means, key=lambda name: means[name] or 0.0)
    if best not in ("majority", "mean", first):
        yield differences[best, "majority"]


def titled(page: Page, title: str | None, **parts: Any) -> Page:
    """The page with the title, its own title or the default one, and with more parts."""
    return replace(page, title=title or page.title or "qstep report", **parts)
