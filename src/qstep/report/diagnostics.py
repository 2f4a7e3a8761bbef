"""A scorer's diagnostics as tables and charts: how it judges steps, and what its scores correlate with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qstep.evals.measures import Aggregated, Lengths, Measured, OverOptimisation
from qstep.evals.results import StepReport, Threshold
from qstep.evals.ways import voter
from qstep.report import charts, findings
from qstep.report.tables import classes_of
from qstep.types import Estimate

_AUROC = {
    "step": "The scorer",
    "position": "Position alone",
    "step_at_equal_position": "The scorer, at equal positions",
}
_KINDS = ("all", "right", "wrong", "within_problem")


def step_view(steps: Mapping[str, StepReport], thresholds: Mapping[str, Threshold]) -> dict[str, Any] | None:
    """The section on first wrong steps: tables of the subsets, a reliability chart, a threshold chart, and notes."""
    if not steps:
        return None
    reliability = {
        name: [(bin.predicted, bin.right) for bin in subset.calibration.reliability] for name, subset in steps.items()
    }
    swept = {
        name: [
            (x, y)
            for x, y in zip(subset.by_threshold.threshold, subset.by_threshold.f1, strict=True)
            if findings.is_number(y)
        ]
        for name, subset in steps.items()
    }
    return {
        "subsets": {name: _subset(subset) for name, subset in steps.items()},
        "columns": ["F1", "With an error", "Without one", "ECE"],
        "thresholds": [_threshold(subset) for subset in dict.fromkeys(thresholds.values())],
        "auroc": _auroc(steps),
        "classes": _classes(steps),
        "reliability": charts.reliability(reliability) if any(reliability.values()) else None,
        "by_threshold": charts.by_threshold(swept) if any(swept.values()) else None,
        "aggregations": _by_aggregation(steps),
    }


def length_view(lengths: Mapping[str, Lengths]) -> list[tuple[str, str, list[str]]]:
    """Rows of a table: name, measure, and its values for all, right and wrong responses, and within a problem."""
    rows = []
    for name, lengths_of in lengths.items():
        for length, rhos in lengths_of.correlation.items():
            cells = [_cell(rhos.get(kind), findings.plain_interval) for kind in _KINDS]
            rows.append((findings.label(name), f"rank correlation with {length}", cells))
        if lengths_of.fewer_steps:
            cells = [_cell(lengths_of.fewer_steps.get(kind), findings.percent_interval) for kind in _KINDS[:3]]
            rows.append((findings.label(name), "the choice has fewer steps", [*cells, "\u2013"]))
    return rows


def aggregation_view(aggregations: Mapping[str, Aggregated]) -> list[dict[str, Any]]:
    """A table for each scorer, with a row for each aggregation and a column for each n."""
    tables = []
    for name, scored in aggregations.items():
        ns = sorted({n for curve in scored.curves.values() for n in curve}, key=_number)
        rows = {
            _aggregation(way): [_cell(curve.get(n), findings.percent_interval) for n in ns]
            for way, curve in scored.curves.items()
        }
        tables.append({"name": findings.label(name), "ns": ns, "rows": rows})
    return tables


def _aggregation(way: str) -> str:
    how = voter(way)
    return way if how is None else f"{how}, as weight of a vote"


def over_optimisation_view(found: Mapping[str, OverOptimisation]) -> list[tuple[str, str, str]]:
    """Rows of a table: a way to choose, the n at which it is best, and its drop from there to the largest n."""
    return [
        (findings.label(name), str(falls.peak_n or "n/a"), _cell(falls.drop, findings.points_interval))
        for name, falls in found.items()
    ]


def _threshold(threshold: Threshold) -> str:
    where = ", the Q of the question" if threshold.value == 0.5 else ""
    if threshold.chosen_on is not None:
        where = f", chosen on {threshold.chosen_on.rows} rows of {threshold.chosen_on.source}, which are not evaluated"
    return f"\u03c3(Q) below {threshold.value:.3g}{where}"


def _subset(subset: StepReport) -> dict[str, Any]:
    cells = [_cell(value, findings.percent_interval) for value in (subset.f1, subset.acc_error, subset.acc_correct)]
    notes = [f"{count} responses left out: {reason}" for reason, count in subset.left_out.items()]
    if windows := subset.scored.get("in_windows"):
        notes.append(f"{windows} responses are longer than the scorer's max_length and were read in windows")
    if steps := subset.separators.get("steps_with_a_separator"):
        notes.append(f"{steps} steps contain the scorer's separator, and each is still scored as one step")
    if rows := subset.separators.get("rows_split_at_another"):
        notes.append(f"{rows} responses were split at another separator than the scorer's")
    return {
        "responses": f"{subset.n_error} + {subset.n_correct}",
        "cells": [*cells, _cell(subset.calibration.ece, findings.plain_interval)],
        "notes": notes,
    }


def _auroc(of_subsets: Mapping[str, StepReport]) -> dict[str, Any]:
    """A row for each subset, and another for the measures within its problems, if there are any."""
    rows = []
    for name, subset in of_subsets.items():
        said = findings.label(name)
        for where, row in (("", said), ("_within_problem", f"{said}, within a problem")):
            values = [subset.auroc.get(kind + where) for kind in _AUROC]
            if any(value is not None for value in values):
                rows.append((row, [_cell(value, findings.plain_interval) for value in values]))
    return {"columns": list(_AUROC.values()), "rows": rows}


def _classes(of_subsets: Mapping[str, StepReport]) -> dict[str, Any]:
    """A row for each `classification`: first wrong steps found, and the AUROC of steps, with position's figures."""
    rows = []
    for name, of_class in classes_of(of_subsets).items():
        found, auroc = of_class.found, [of_class.auroc.get(kind) for kind in _AUROC]
        shares = (found.f1, found.acc_error, of_class.acc_error_of_position, found.acc_correct)
        cells = [_cell(share, findings.percent_interval) for share in shares]
        cells += [_cell(value, findings.plain_interval) for value in auroc]
        rows.append((name, [*cells, f"{found.n_error} + {found.n_correct}"]))
    shown = ["F1", "With an error", "One step named in all", "Without one", "AUROC", "AUROC of position"]
    return {"columns": [*shown, "AUROC at equal positions", "Responses with + without"], "rows": rows}


def _by_aggregation(of_subsets: Mapping[str, StepReport]) -> dict[str, list[str]]:
    hows = dict.fromkeys(how for subset in of_subsets.values() for how in subset.aggregations)
    return {
        how: [_cell(subset.aggregations.get(how), findings.plain_interval) for subset in of_subsets.values()]
        for how in hows
    }


def _cell(value: Measured | None, form: Callable[[Estimate], str]) -> str:
    return "\u2013" if value is None else form(value.estimate)


def _number(n: str) -> tuple[int, str]:
    return (int(n), n) if n.isdecimal() else (0, n)
