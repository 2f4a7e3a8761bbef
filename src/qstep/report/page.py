"""The page: checks results and examples, turns them into words and charts, and fills one template."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qstep.data.jsonl import write_whole
from qstep.evals import as_json, structure
from qstep.evals.measures import Accuracy, Agreement, Difference, LabelAgreement, Measured
from qstep.evals.results import Page, Search
from qstep.report import charts, diagnostics, findings
from qstep.report.examples import Examples
from qstep.report.response import signed
from qstep.runs.training_log import metrics_of
from qstep.types import Estimate

View = dict[str, Any]
Estimates = Mapping[str, Mapping[str, Estimate]]

_MAX_POINTS = 240
_COLUMNS = 5  # of a table, so that none is wider than the page
_SHOWN_METRICS = 8
_SAMPLE_SIZE = "importance/effective_sample_size"
_FIRST = (
    "loss",
    "eval_accuracy",
    "eval_loss",
    "loss/",
    "rewards/accuracies",
    "eval_",
    _SAMPLE_SIZE,
    "importance/",
    "logps/ratio",
)
_LAST = ("grad_norm", "learning_rate")
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_report(results: Page, examples: Sequence[Examples], out: Path) -> Path:
    """Writes the HTML file `out` and returns its path. The file appears only once it is complete.

    The page omits sections that `results` has no data for. `examples` are problems with their responses, steps and Qs.
    Their text is escaped, and the page has no scripts and no addresses. Raises ValueError, naming the field, for a
    malformed value.
    """
    results = structure(Page, _text_only(as_json(results)), "results")
    policies, verifiers = _estimates(results.policies or {}), _estimates(results.verifiers or {})
    best_of_n = _best_of_n(verifiers, next(iter(results.verifier_auc or {}), None))
    searches = _searches(results.searches or {})
    chosen = {row["name"]: row["answers"]["chosen"] for row in searches["rows"]} if searches else {}
    found = _findings((results.comparisons or {}).values(), policies, verifiers, chosen)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals |= {
        name: getattr(findings, name)
        for name in ("label", "lead", "percent_interval", "plain_interval", "points_interval")
    }
    step_lengths = {name: part.length for name, part in (results.steps or {}).items()}
    page = environment.from_string(resource("page.html")).render(
        title=results.title or "qstep report",
        style=Markup(resource("page.css")),
        findings=found,
        differences=charts.differences(found) if found else None,
        best_of_n=best_of_n,
        unknown=_unknown(results),
        searches=searches,
        auc=_auc(results.verifier_auc or {}),
        steps=diagnostics.step_view(results.steps or {}, results.thresholds or {}),
        step_length=diagnostics.length_view(step_lengths),
        aggregations=diagnostics.aggregation_view(results.aggregations or {}),
        over_optimisation=diagnostics.over_optimisation_view(results.over_optimisation or {}),
        length=diagnostics.length_view(results.length or {}),
        policies=_policies(policies),
        labels=_labels(results.labels),
        weighted=any(_SAMPLE_SIZE in row for rows in (results.training or {}).values() for row in rows),
        training={run: _training(rows, run) for run, rows in (results.training or {}).items()},
        examples=[part for part in examples if part.problems],
        signed=signed,
        provenance=_flat(results.provenance),
    )
    write_whole(out, [page_text(page).encode()])
    return out


def page_text(page: str) -> str:
    """The page, with characters that it cannot contain (NUL, control codes, lone surrogates) as U+FFFD."""
    return _NOT_TEXT.sub("\ufffd", page)


def resource(name: str) -> str:
    """A file of this folder, such as a template."""
    return resources.files("qstep.report").joinpath(name).read_text(encoding="utf-8")


def _text_only(value: Any) -> Any:
    """The same data, with characters that a page cannot contain (NUL, control codes, lone surrogates) as U+FFFD."""
    if isinstance(value, str):
        return _NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_text_only(str(key)): _text_only(item) for key, item in value.items()}
    return [_text_only(item) for item in value] if isinstance(value, list | tuple) else value


def _estimates(measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, Estimate]]:
    return {name: {x: value.estimate for x, value in of_name.items()} for name, of_name in measured.items()}


def _auc(measured: Mapping[str, Mapping[str, Measured | None]]) -> dict[str, dict[str, Estimate]]:
    known = {name: {kind: value for kind, value in of_name.items() if value} for name, of_name in measured.items()}
    return _estimates(known)


def _findings(
    comparisons: Iterable[Difference], policies: Estimates, verifiers: Estimates, searches: Mapping[str, Estimate]
) -> list[findings.Finding]:
    accuracies: dict[findings.AccuracyOf, Estimate] = {(name, None): e for name, e in searches.items()}
    accuracies |= {(name, mode): e for name, modes in policies.items() for mode, e in modes.items()}
    accuracies |= {(name, int(n)): e for name, curve in verifiers.items() for n, e in curve.items()}
    return [findings.find(difference, accuracies) for difference in comparisons]


def _best_of_n(verifiers: Estimates, scorer: str | None) -> View | None:
    for name, curve in verifiers.items():
        for n in curve:
            if not n.isdecimal() or int(n) < 1:
                raise ValueError(f'results["verifiers"][{name!r}]: {n!r} is not a number of responses')
    curves = {name: {int(n): curve[n] for n in sorted(curve, key=int)} for name, curve in verifiers.items()}
    sizes = sorted({n for curve in curves.values() for n in curve})
    names = list(curves)
    tables = [{name: curves[name] for name in names[i : i + _COLUMNS]} for i in range(0, len(names), _COLUMNS)]
    if not sizes:
        return None
    example = ""
    if scorer is not None:
        example = f"{findings.label(scorer, sizes[-1])} is the choice of {findings.label(scorer)} among {sizes[-1]}."
    return {"chart": charts.best_of_n(curves), "tables": tables, "sizes": sizes, "example": example}


def _searches(searches: Mapping[str, Search]) -> View | None:
    """A row for each search, and a curve for each method: its searches by the tokens that they drew."""
    rows: list[View] = []
    for name, search in searches.items():
        if "chosen" not in search.answers:
            raise ValueError(f"results['searches'][{name!r}] has no accuracy of the chosen answer (chosen)")
        answers = {how: measured.estimate for how, measured in search.answers.items()}
        tokens = [search.tokens_generated.mean, search.tokens_scored.mean]
        rows.append({"name": name, "method": search.method, "tokens": tokens, "answers": answers})
    curves: dict[str, list[tuple[float, Estimate]]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"][0]):
        curves.setdefault(row["method"], []).append((max(row["tokens"][0], 1), row["answers"]["chosen"]))
    return {"rows": rows, "answers": findings.ANSWERS_SAID, "chart": charts.searches(curves)} if rows else None


def _unknown(results: Page) -> dict[str, list[tuple[str, str, str, str]]]:
    """The accuracies with ungradable answers: name, n or mode, the ungradable share, and the bounds."""
    parts: dict[str, Mapping[str, Mapping[str, Accuracy]]] = {
        "verifiers": results.verifiers or {},
        "policies": results.policies or {},
        "searches": {name: accuracy.answers for name, accuracy in (results.searches or {}).items()},
    }
    return {
        part: [
            (
                findings.label(name),
                x,
                _percent(accuracy.ungradable_share),
                f"{_percent(accuracy.as_wrong)} to {_percent(accuracy.as_right)}",
            )
            for name, of_name in measured.items()
            for x, accuracy in of_name.items()
            if accuracy.ungradable_share
        ]
        for part, measured in parts.items()
    }


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f}\u00a0%"


def _policies(policies: Estimates) -> View | None:
    found = {mode for modes in policies.values() for mode in modes}
    modes = sorted(found, key=lambda mode: (mode != "sampled", mode))  # sampled accuracy varies less between seeds
    columns = {mode: {p: e[mode] for p, e in policies.items() if mode in e} for mode in modes}
    drawn = {mode: charts.policy_bars(column) for mode, column in columns.items()}
    return {"charts": drawn, "columns": columns, "names": list(policies)} if modes else None


def _labels(labels: LabelAgreement | None) -> View | None:
    """A table with a row for each measure and a column for each reading of the labels."""
    if labels is None:
        return None
    columns = {"any rollout right": _reading(labels.hard), "half of them right": _reading(labels.half)}
    measures = dict.fromkeys(measure for column in columns.values() for measure in column)
    counted = {
        "problems": labels.n_problems,
        "rows": labels.n_rows,
        "steps": labels.n_steps,
        "steps without an exact label": labels.n_unlabelled_steps,
        "steps without a rollout": labels.n_untried_steps,
    }
    return {"columns": columns, "measures": list(measures), "counts": {n: c for n, c in counted.items() if c}}


def _reading(reading: Agreement) -> dict[str, str]:
    column = {"agreement": findings.percent_interval(reading.agreement.estimate)}
    column["kappa"] = "n/a" if reading.kappa is None else f"{reading.kappa:.3f}"
    return column | _flat(reading.confusion)


def _training(rows: Sequence[Mapping[str, Any]], run: str) -> View:
    """Charts of the metrics of one run. Metrics with one value and values that are not finite are listed instead."""
    series: dict[str, list[tuple[float, float]]] = {}
    broken: dict[str, int] = {}
    for i, row in enumerate(rows):
        if not findings.is_number(row.get("step")):
            raise ValueError(f'results["training"][{run!r}][{i}]: "step" must be a number, found {row}')
        for name, value in metrics_of(row).items():
            if findings.is_number(value) and abs(value) < 1e100:  # False for NaN
                series.setdefault(name, []).append((float(row["step"]), float(value)))
            else:
                broken[name] = broken.get(name, 0) + 1
    names = sorted((name for name in series if len(series[name]) > 1), key=_rank)
    drawn = [(name, charts.metric(name, _thin(series[name]))) for name in names]
    return {
        "shown": drawn[:_SHOWN_METRICS],
        "more": drawn[_SHOWN_METRICS:],
        "thinned": max(map(len, series.values()), default=0) > _MAX_POINTS,
        "single": {name: values[0][1] for name, values in sorted(series.items()) if len(values) == 1},
        "broken": dict(sorted(broken.items())),
    }


def _rank(name: str) -> tuple[int, str]:
    if name in _LAST:
        return len(_FIRST) + 1 + _LAST.index(name), name
    starts = (i for i, x in enumerate(_FIRST) if name == x or (x[-1] in "/_" and name.startswith(x)))
    return next(starts, len(_FIRST)), name


def _thin(series: list[tuple[float, float]]) -> list[tuple[float, float]]:
    width = math.ceil(len(series) / _MAX_POINTS)
    bins = [series[i : i + width] for i in range(0, len(series), width)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"versions": {"torch": "2.13"}}` -> `{"versions / torch": "2.13"}`."""
    rows: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name} / ")
        else:
            rows[prefix + name] = _plain(value)
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
