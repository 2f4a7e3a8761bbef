"""What a page shows, gathered from results of several kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from qstep.evals import METHODS, VerdictCounts, policy_difference, structure
from qstep.evals.results import (
    Accuracy,
    BestOfN,
    Page,
    PolicyEvaluation,
    SearchComparison,
    StepJudgement,
)

Reported = BestOfN | SearchComparison | PolicyEvaluation | StepJudgement | Page
"""What a page can show."""


def gathered(results: Mapping[str, Reported]) -> Page:
    """What `render_report` shows of evaluations, of best-of-n, of searches, of step benchmarks, and of other pages.

    Raises ValueError where two evaluations were not of the same problems.
    """
    page: dict[str, Any] = {name: {} for name in ("policies", "comparisons", "verifiers", "verifier_auc", "provenance")}
    page |= {name: {} for name in ("aggregations", "over_optimisation", "length", "steps")}
    kinds = [[name for name, of in results.items() if isinstance(of, kind)] for kind in (BestOfN, StepJudgement)]
    kinds.append([name for name, of in results.items() if isinstance(of, SearchComparison)])
    for name, of in results.items():
        if isinstance(of, Page):
            _add(page, {field.name: getattr(of, field.name) for field in fields(of)})
        elif of.provenance:
            made = {key: of.provenance[key] for key in ("command", "git_commit", "hardware", "date")}
            page["provenance"][name] = made
    evaluations = {name: of for name, of in results.items() if isinstance(of, PolicyEvaluation)}
    _add(page, {"policies": {name: of.accuracies for name, of in evaluations.items()}})
    _add(page, {"comparisons": _between_policies(evaluations)})
    for name, of in results.items():
        before = f"{name}: " if any(name in names and len(names) > 1 for names in kinds) else ""
        if isinstance(of, BestOfN):
            _add(page, _named(before, verifiers=of.curves, verifier_auc=of.auc, comparisons=dict(_between_choices(of))))
            of_scorers = {"aggregations": of.aggregations, "over_optimisation": of.over_optimisation}
            _add(page, _named(before, **of_scorers, length=of.length))
        elif isinstance(of, StepJudgement):
            _add(page, _named(before, steps=of.steps, thresholds=dict.fromkeys(of.steps, of.threshold)))
        elif isinstance(of, SearchComparison):
            # A comparison's two names are those of the searches that it is of.
            named = {" - ".join(before + n for n in title.split(" - ")): d for title, d in of.differences.items()}
            _add(page, {**_named(before, searches=of.searches), "comparisons": named})
    return Page(**page)


def _add(page: dict[str, Any], more: Mapping[str, Any]) -> None:
    for part, value in more.items():
        if value is not None:
            page[part] = page.get(part, {}) | value if isinstance(value, dict) else value


def _named(before: str, **parts: Mapping[str, Any] | None) -> dict[str, Any]:
    return {part: {before + name: value for name, value in of.items()} for part, of in parts.items() if of is not None}


def _between_policies(evaluations: Mapping[str, PolicyEvaluation]) -> dict[str, Accuracy]:
    """The first policy against each other one, sampled where both were, else in the first way both were."""
    found: dict[str, Accuracy] = {}
    first, *others = evaluations or [""]
    for other in others:
        ours, theirs = evaluations[first].problems, evaluations[other].problems
        mode = next((mode for mode in sorted(ours, key=lambda mode: mode != "sampled") if mode in theirs), None)
        if mode is None:
            continue
        counts = [{problem: VerdictCounts(*of) for problem, of in side[mode].items()} for side in (ours, theirs)]
        try:
            difference = policy_difference(*counts)
        except ValueError as error:
            raise ValueError(f"{first} and {other}: {error}") from error
        found[f"{first} - {other} ({mode})"] = structure(Accuracy, difference, "difference")
    return found


def _between_choices(of: BestOfN) -> Iterator[tuple[str, Accuracy]]:
    """The first scorer against the majority, one response, and each other scorer, at the largest n.

    Also the best of all ways to choose against the majority, where that is another one.
    """
    scorers = [name for name in of.curves if name not in METHODS and f"{name}_weighted" in of.curves]
    if not scorers:
        return
    most = max(of.ns)
    for other in ("majority", "mean", *scorers[1:]):
        yield f"{scorers[0]}@{most} - {other}", of.differences[f"{scorers[0]}_minus_{other}"]
    means = {name: curve[str(most)].mean for name, curve in of.curves.items() if name != "pass"}
    best = max(means, key=lambda name: means[name] or 0.0)
    if best not in ("majority", "mean", scorers[0]):
        yield f"{best}@{most} - majority", of.differences[f"{best}_minus_majority"]


def titled(page: Page, title: str | None, **parts: Any) -> Page:
    """The page with its title, or its own, and with more parts."""
    return replace(page, title=title or page.title or "qstep report", **parts)
