"""What the page shows of how a scorer judges steps, and of what its scores go with: tables and charts as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qstep.report import charts, findings
from qstep.types import Estimate

_FIRST_ERROR = {"f1": "F1", "acc_error": "With an error", "acc_correct": "Without one"}
_AUROC = {
    "step": "The scorer",
    "position": "Position alone",
    "step_at_equal_position": "The scorer, at equal positions",
}
_KINDS = ("all", "right", "wrong", "within_problem")


def step_view(steps: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section on first wrong steps: a table of the subsets, a reliability and a threshold chart, notes."""
    if not steps:
        return None
    for name, of in steps.items():
        if not isinstance(of, Mapping):
            raise ValueError(f'results["steps"][{name!r}] is {of!r}, not the report of a subset')
    found = {name: _subset(of, f'results["steps"][{name!r}]') for name, of in steps.items()}
    reliability = {
        name: [(bin["predicted"], bin["right"]) for bin in _mapping(of.get("calibration")).get("reliability", [])]
        for name, of in steps.items()
    }
    swept = {name: _curve(_mapping(of.get("by_threshold"))) for name, of in steps.items()}
    return {
        "subsets": found,
        "columns": [*_FIRST_ERROR.values(), "ECE"],
        "auroc": _auroc({name: _mapping(of.get("auroc")) for name, of in steps.items()}),
        "reliability": charts.reliability(reliability) if any(reliability.values()) else None,
        "by_threshold": charts.by_threshold(swept) if any(swept.values()) else None,
        "aggregations": _by_aggregation({name: _mapping(of.get("aggregations")) for name, of in steps.items()}),
    }


def length_view(lengths: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Rows of a table: name, measure, and its value over all responses, right ones, wrong ones, within a problem."""
    rows = []
    for name, of in lengths.items():
        where = f"length of {name!r}"
        for length, rhos in _mapping(_mapping(of).get("correlation")).items():
            cells = [_cell(_mapping(rhos).get(kind), findings.plain_interval, where) for kind in _KINDS]
            rows.append((findings.label(name), f"rank correlation with {length}", cells))
        picks = _mapping(_mapping(of).get("fewer_steps"))
        if picks:
            cells = [_cell(picks.get(kind), findings.percent_interval, where) for kind in _KINDS[:3]]
            rows.append((findings.label(name), "the pick has fewer steps", [*cells, "\u2013"]))
    return rows


def aggregation_view(aggregations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each scorer: a row an aggregation, a column an n."""
    tables = []
    for name, of in aggregations.items():
        curves = _mapping(_mapping(of).get("curves"))
        ns = sorted({n for curve in curves.values() for n in _mapping(curve)}, key=_number)
        rows = {
            how: [_cell(_mapping(curve).get(n), findings.percent_interval, f"aggregation {how!r}") for n in ns]
            for how, curve in curves.items()
        }
        tables.append({"name": findings.label(name), "ns": ns, "rows": rows})
    return tables


def over_optimisation_view(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a table: a way to choose, the n at which it is best, and how much worse it is at the largest."""
    return [
        (
            findings.label(name),
            str(_mapping(of).get("peak_n") or "n/a"),
            _cell(_mapping(of).get("drop"), findings.points_interval, f"over-optimisation of {name!r}"),
        )
        for name, of in found.items()
    ]


def _subset(of: Mapping[str, Any], where: str) -> dict[str, Any]:
    calibration = _mapping(of.get("calibration"))
    cells = [_cell(of.get(metric), findings.percent_interval, where) for metric in _FIRST_ERROR]
    notes = [f"{count} responses left out: {reason}" for reason, count in _mapping(of.get("left_out")).items()]
    separators = _mapping(of.get("separators"))
    if steps := separators.get("steps_with_a_separator"):
        notes.append(f"{steps} steps contain the scorer's separator and are scored as the one step they are given as")
    if rows := separators.get("rows_split_at_another"):
        notes.append(f"{rows} responses were split at another separator than the scorer's")
    return {
        "responses": f"{of.get('n_error', 0)} + {of.get('n_correct', 0)}",
        "cells": [*cells, _cell(calibration.get("ece"), findings.plain_interval, where)],
        "notes": notes,
    }


def _auroc(of_subsets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row a subset, and one more for what was measured within its problems, if it was."""
    rows = []
    for name, of in of_subsets.items():
        for where, said in (
            ("", findings.label(name)),
            ("_within_problem", f"{findings.label(name)}, within a problem"),
        ):
            values = [of.get(kind + where) for kind in _AUROC]
            if any(value is not None for value in values):
                rows.append((said, [_cell(value, findings.plain_interval, f"AUROC of {name!r}") for value in values]))
    return {"columns": list(_AUROC.values()), "rows": rows}


def _by_aggregation(of_subsets: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    hows = dict.fromkeys(how for of in of_subsets.values() for how in of)
    return {
        how: [_cell(of.get(how), findings.plain_interval, f"aggregation {how!r}") for of in of_subsets.values()]
        for how in hows
    }


def _curve(swept: Mapping[str, Any]) -> list[tuple[float, float]]:
    pairs = zip(swept.get("threshold", []), swept.get("f1", []), strict=True)
    return [(x, y) for x, y in pairs if findings.is_number(x) and findings.is_number(y)]


def _cell(value: Any, form: Callable[[Estimate], str], where: str) -> str:
    return "\u2013" if value is None else form(findings.read_estimate(value, where))


def _number(n: str) -> tuple[int, str]:
    return (int(n), n) if n.isdecimal() else (0, n)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
