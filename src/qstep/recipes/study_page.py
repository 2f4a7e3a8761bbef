"""The page of a study: its claim, the verdict, and its tables, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qstep.evals import StudyAnswer
from qstep.evals.measures import Measured
from qstep.evals.results import StudyComparison
from qstep.recipes.recipe import Recipe
from qstep.recipes.study_results import AUCS


def page(recipe: Recipe, found: StudyAnswer) -> str:
    """The study's answer as a page of Markdown."""
    seeds = found.seeds
    methods = dict.fromkeys(method for curves in seeds.values() for method in curves)
    policies = all(comparison.measure for comparison in found.comparisons.values())
    measured = list(dict.fromkeys(measured_at(comparison) for comparison in found.comparisons.values()))
    columns = measured if policies else sorted(measured, key=int)
    lines = [
        f"# {recipe.title}",
        "",
        f"Claim: {found.claim}.",
        "",
        f"**{found.verdict.capitalize()}**, over {len(seeds)} seed{'s' * (len(seeds) > 1)}.",
        "",
    ]
    lines += [f"The paper: {found.paper}", "", f"Settings: {found.settings}", ""]
    what = "measure" if policies else "n"
    lines += [
        f"| difference of accuracy, in points | {what} | over seeds, 95 % | over problems, 95 % | seeds above 0 |"
    ]
    lines += ["|---|---|---|---|---|"]
    for name, comparison in found.comparisons.items():
        above = sum(estimate.estimate.mean > 0 for estimate in comparison.by_seed.values())
        note = "" if comparison.decides else " (exploratory)"
        cells = [_points(comparison.over_seeds), _points(comparison.over_problems)]
        cells = [measured_at(comparison), *cells, f"{above} of {len(comparison.by_seed)}"]
        lines.append(f"| {name}{note} | {' | '.join(cells)} |")
    lines += _left_out(found.comparisons)
    lines += [
        "",
        f"| accuracy, mean over seeds | {' | '.join(at if policies else f'n = {at}' for at in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method in methods:
        cells = [_mean_over([curves[method][at] for curves in seeds.values()]) for at in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += _auc_table(list((found.auc or {}).values()))
    made = found.provenance
    how = f"`{made['command']}`, commit {made['git_commit']}, {made['hardware']}"
    lines += ["", f"{how}; seeds {', '.join(seeds)}.", ""]
    return "\n".join(lines)


def measured_at(comparison: StudyComparison) -> str:
    """What is compared: a measure of policies, or the number of responses that is chosen among."""
    return comparison.measure or str(comparison.n)


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
    kinds = [kind for kind in AUCS if all(kind in measured for aucs in by_seed for measured in aucs.values())]
    if not kinds or not by_seed or not by_seed[0]:
        return []
    head = f"| AUC within a problem, mean over seeds | {' | '.join(AUCS[kind] for kind in kinds)} |"
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
