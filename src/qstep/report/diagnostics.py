"""What the page shows of how a scorer judges steps, and of what its scores go with: tables and charts as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qstep.evals.results import Aggregated, Lengths, Measured, OverOptimisation, StepReport, Threshold
from qstep.report import charts, findings
from qstep.types import Estimate

_AUROC = {
    "step": "The scorer",
    "position": "Position alone",
    "step_at_equal_position": "The scorer, at equal positions",
}
_KINDS = ("all", "right", "wrong", "within_problem")


def step_view(steps: Mapping[str, StepReport], thresholds: Mapping[str, Threshold]) -> dict[str, Any] | None:
    """The section on first wrong steps: tables of the subsets, a reliability and a threshold chart, notes."""
    if not steps:
        return None
    reliability = {
        name: [(bin.predicted, bin.right) for bin in of.calibration.reliability] for name, of in steps.items()
    }
    swept = {
        name: [
            (x, y) for x, y in zip(of.by_threshold.threshold, of.by_threshold.f1, strict=True) if findings.is_number(y)
        ]
        for name, of in steps.items()
    }
    return {
        "subsets": {name: _subset(of) for name, of in steps.items()},
        "columns": ["F1", "With an error", "Without one", "ECE"],
        "thresholds": [_threshold(of) for of in dict.fromkeys(thresholds.values())],
        "auroc": _auroc(steps),
        "reliability": charts.reliability(reliability) if any(reliability.values()) else None,
        "by_threshold": charts.by_threshold(swept) if any(swept.values()) else None,
        "aggregations": _by_aggregation(steps),
    }


def length_view(lengths: Mapping[str, Lengths]) -> list[tuple[str, str, list[str]]]:
    """Rows of a table: name, measure, and its value over all responses, right ones, wrong ones, within a problem."""
    rows = []
    for name, of in lengths.items():
        for length, rhos in of.correlation.items():
            cells = [_cell(rhos.get(kind), findings.plain_interval) for kind in _KINDS]
            rows.append((findings.label(name), f"rank correlation with {length}", cells))
        if of.fewer_steps:
            cells = [_cell(of.fewer_steps.get(kind), findings.percent_interval) for kind in _KINDS[:3]]
            rows.append((findings.label(name), "the pick has fewer steps", [*cells, "\u2013"]))
    return rows


def aggregation_view(aggregations: Mapping[str, Aggregated]) -> list[dict[str, Any]]:
    """A table for each scorer: a row an aggregation, a column an n."""
    tables = []
    for name, of in aggregations.items():
        ns = sorted({n for curve in of.curves.values() for n in curve}, key=_number)
        rows = {how: [_cell(curve.get(n), findings.percent_interval) for n in ns] for how, curve in of.curves.items()}
        tables.append({"name": findings.label(name), "ns": ns, "rows": rows})
    return tables


def over_optimisation_view(found: Mapping[str, OverOptimisation]) -> list[tuple[str, str, str]]:
    """Rows of a table: a way to choose, the n at which it is best, and how much worse it is at the largest."""
    return [
        (findings.label(name), str(of.peak_n or "n/a"), _cell(of.drop, findings.points_interval))
        for name, of in found.items()
    ]


def _threshold(of: Threshold) -> str:
    where = ", the Q of the question" if of.value == 0.5 else ""
    if of.chosen_on is not None:
        where = f", chosen on {of.chosen_on.rows} rows of {of.chosen_on.source}, which are not judged"
    return f"\u03c3(Q) below {of.value:.3g}{where}"


def _subset(of: StepReport) -> dict[str, Any]:
    cells = [_cell(value, findings.percent_interval) for value in (of.f1, of.acc_error, of.acc_correct)]
    notes = [f"{count} responses left out: {reason}" for reason, count in of.left_out.items()]
    if steps := of.separators.get("steps_with_a_separator"):
        notes.append(f"{steps} steps contain the scorer's separator and are scored as the one step they are given as")
    if rows := of.separators.get("rows_split_at_another"):
        notes.append(f"{rows} responses were split at another separator than the scorer's")
    return {
        "responses": f"{of.n_error} + {of.n_correct}",
        "cells": [*cells, _cell(of.calibration.ece, findings.plain_interval)],
        "notes": notes,
    }


def _auroc(of_subsets: Mapping[str, StepReport]) -> dict[str, Any]:
    """A row a subset, and one more for what was measured within its problems, if it was."""
    rows = []
    for name, of in of_subsets.items():
        said = findings.label(name)
        for where, row in (("", said), ("_within_problem", f"{said}, within a problem")):
            values = [of.auroc.get(kind + where) for kind in _AUROC]
            if any(value is not None for value in values):
                rows.append((row, [_cell(value, findings.plain_interval) for value in values]))
    return {"columns": list(_AUROC.values()), "rows": rows}


def _by_aggregation(of_subsets: Mapping[str, StepReport]) -> dict[str, list[str]]:
    hows = dict.fromkeys(how for of in of_subsets.values() for how in of.aggregations)
    return {
        how: [_cell(of.aggregations.get(how), findings.plain_interval) for of in of_subsets.values()] for how in hows
    }


def _cell(value: Measured | None, form: Callable[[Estimate], str]) -> str:
    return "\u2013" if value is None else form(value.estimate)


def _number(n: str) -> tuple[int, str]:
    return (int(n), n) if n.isdecimal() else (0, n)
