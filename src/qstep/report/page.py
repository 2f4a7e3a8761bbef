"""The page: results and examples checked, put into words and charts, filled into one template, written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qstep.data.jsonl import write_whole
from qstep.report import charts, diagnostics, findings
from qstep.types import Estimate

View = dict[str, Any]
Estimates = Mapping[str, Mapping[str, Estimate]]

_MAX_POINTS = 240
_COLUMNS = 5  # of a table, so that none is wider than the page
_SHOWN_METRICS = 8
_TOKENS = ("tokens_generated", "tokens_scored")
_ANSWERS = {"chosen": "its choice", "majority": "majority", "weighted": "weighted vote", "pass": "any right"}
_FIRST = (
    "loss",
    "eval_loss",
    "loss/",
    "rewards/accuracies",
    "eval_",
    "importance/effective_sample_size",
    "importance/",
    "logps/ratio",
)
_LAST = ("grad_norm", "learning_rate")
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_report(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Writes the HTML file `out`, whole or not at all, and returns its path.

    `results` holds what was measured: `title`, `policies`, `comparisons`, `verifiers`, `verifier_auc`,
    `aggregations`, `over_optimisation`, `length`, `steps`, `searches`, `labels`, `training`, `provenance`. Only
    `provenance` is required; what is not there is not shown. `examples` holds problems with their responses,
    steps and Q-values. Text in them is data: it is escaped, and the page has no script and no address.
    Raises ValueError, naming the field, on a malformed value.
    """
    results, examples = _text_only(results), _text_only(list(examples))
    if not isinstance(results.get("provenance"), Mapping):
        raise ValueError('results["provenance"] is missing: versions, seeds, git_commit, command, hardware')
    policies, verifiers = _estimates(results, "policies"), _estimates(results, "verifiers")
    searches = _searches(results.get("searches", {}))
    chosen = {row["name"]: row["answers"]["chosen"] for row in searches["rows"]} if searches else {}
    found = _findings(results.get("comparisons", {}), policies, verifiers, chosen)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals |= {
        name: getattr(findings, name)
        for name in ("label", "lead", "percent_interval", "plain_interval", "points_interval")
    }
    page = environment.from_string(_resource("page.html")).render(
        title=results.get("title", "qstep report"),
        style=Markup(_resource("page.css")),
        findings=found,
        differences=charts.differences(found) if found else None,
        best_of_n=_best_of_n(verifiers),
        unknown={key: _unknown(results, key) for key in ("verifiers", "policies", "searches")},
        searches=searches,
        auc=_estimates(results, "verifier_auc"),
        steps=diagnostics.step_view(results.get("steps", {})),
        step_length=diagnostics.length_view({name: of.get("length") for name, of in results.get("steps", {}).items()}),
        aggregations=diagnostics.aggregation_view(results.get("aggregations", {})),
        over_optimisation=diagnostics.over_optimisation_view(results.get("over_optimisation", {})),
        length=diagnostics.length_view(results.get("length", {})),
        policies=_policies(policies),
        labels=_labels(results.get("labels", {})),
        training={run: _training(rows, run) for run, rows in results.get("training", {}).items()},
        examples=[_example(problem, i) for i, problem in enumerate(examples)],
        provenance=_flat(results["provenance"]),
    )
    write_whole(out, [page.encode()])
    return out


def _resource(name: str) -> str:
    return resources.files("qstep.report").joinpath(name).read_text(encoding="utf-8")


def _text_only(value: Any) -> Any:
    """The same data with what no page can hold (NUL, control codes, lone surrogates) shown as U+FFFD."""
    if isinstance(value, str):
        return _NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_text_only(str(key)): _text_only(item) for key, item in value.items()}
    return [_text_only(item) for item in value] if isinstance(value, list | tuple) else value


def _estimates(results: Mapping[str, Any], key: str) -> dict[str, dict[str, Estimate]]:
    for name, of_name in results.get(key, {}).items():
        if not isinstance(of_name, Mapping):
            raise ValueError(f"results[{key!r}][{name!r}] is {of_name!r}, not a mapping of estimates")
    return {
        name: {x: findings.read_estimate(e, f"results[{key!r}][{name!r}][{x!r}]") for x, e in of_name.items()}
        for name, of_name in results.get(key, {}).items()
    }


def _findings(
    comparisons: View, policies: Estimates, verifiers: Estimates, searches: Mapping[str, Estimate]
) -> list[findings.Finding]:
    accuracies = {**searches}
    accuracies |= {f"{name} ({mode})": e for name, modes in policies.items() for mode, e in modes.items()}
    accuracies |= {f"{name}@{n}": e for name, curve in verifiers.items() for n, e in curve.items()}
    return [
        findings.find(name, findings.read_estimate(e, f'results["comparisons"][{name!r}]'), accuracies)
        for name, e in comparisons.items()
    ]


def _best_of_n(verifiers: Estimates) -> View | None:
    for name, curve in verifiers.items():
        for n in curve:
            if not n.isdecimal() or int(n) < 1:
                raise ValueError(f'results["verifiers"][{name!r}]: {n!r} is not a number of responses')
    curves = {name: {int(n): curve[n] for n in sorted(curve, key=int)} for name, curve in verifiers.items()}
    sizes = sorted({n for curve in curves.values() for n in curve})
    names = list(curves)
    tables = [{name: curves[name] for name in names[i : i + _COLUMNS]} for i in range(0, len(names), _COLUMNS)]
    return {"chart": charts.best_of_n(curves), "tables": tables, "sizes": sizes} if sizes else None


def _searches(searches: Mapping[str, Any]) -> View | None:
    """A row a search, and a curve a method: its searches by the tokens that they drew."""
    rows: list[View] = []
    for name, of in searches.items():
        where = f'results["searches"][{name!r}]'
        fields = [_mapping(of).get("method"), *(_mapping(_mapping(of).get(kind)).get("mean") for kind in _TOKENS)]
        if not (isinstance(fields[0], str) and all(findings.is_number(mean) and mean >= 0 for mean in fields[1:])):
            raise ValueError(f"{where}: method and the mean {' and '.join(_TOKENS)} are {fields}")
        answers = {how: findings.read_estimate(of[how], f"{where}[{how!r}]") for how in _ANSWERS if how in of}
        if "chosen" not in answers:
            raise ValueError(f"{where} has no chosen: how often its answer is right")
        rows.append({"name": name, "method": fields[0], "tokens": fields[1:], "answers": answers})
    curves: dict[str, list[tuple[float, Estimate]]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"][0]):
        curves.setdefault(row["method"], []).append((max(row["tokens"][0], 1), row["answers"]["chosen"]))
    return {"rows": rows, "answers": _ANSWERS, "chart": charts.searches(curves)} if rows else None


def _unknown(results: Mapping[str, Any], key: str) -> list[tuple[str, str, str, str]]:
    """Of each accuracy of which a share cannot be graded: name, n or mode, the share, and the bounds."""
    found = []
    for name, of_name in results.get(key, {}).items():
        for x, e in of_name.items():
            if not _mapping(e).get("ungradable_share"):
                continue
            numbers = [e.get(bound) for bound in ("ungradable_share", "as_wrong", "as_right")]
            if not all(findings.is_number(number) for number in numbers):
                raise ValueError(f"results[{key!r}][{name!r}][{x!r}]: ungradable_share, as_wrong, as_right: {numbers}")
            share, low, high = (f"{100 * number:.1f}\u00a0%" for number in numbers)
            found.append((findings.label(name), x, share, f"{low} to {high}"))
    return found


def _policies(policies: Estimates) -> View | None:
    found = {mode for modes in policies.values() for mode in modes}
    modes = sorted(found, key=lambda mode: (mode != "sampled", mode))  # sampled swings less with the seed
    columns = {mode: {p: e[mode] for p, e in policies.items() if mode in e} for mode in modes}
    drawn = {mode: charts.policy_bars(column) for mode, column in columns.items()}
    return {"charts": drawn, "columns": columns, "names": list(policies)} if modes else None


def _labels(labels: Mapping[str, Any]) -> View | None:
    """A table: a row a measure, a column a reading of the labels (`labels` itself where none is named)."""
    readings = {name: value for name, value in labels.items() if "agreement" in _mapping(value)}
    columns: dict[str, dict[str, str]] = {}
    for name, reading in (readings or {"all steps": labels}).items():
        column = {"agreement": findings.percent_interval, "kappa": findings.plain_interval}
        columns[name] = {
            key: form(findings.read_estimate(reading[key], f'results["labels"]: {name}, {key}'))
            for key, form in column.items()
            if key in reading
        } | _flat(reading.get("confusion", {}))
    measures = dict.fromkeys(measure for column in columns.values() for measure in column)
    counts = {name: count for name, count in labels.items() if name.startswith("n_")}
    return {"columns": columns, "measures": list(measures), "counts": counts} if labels else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _training(rows: Sequence[Mapping[str, Any]], run: str) -> View:
    """Charts of the metrics of one run; what cannot be drawn (one value, not finite) is told in words."""
    series: dict[str, list[tuple[float, float]]] = {}
    broken: dict[str, int] = {}
    for i, row in enumerate(rows):
        if not findings.is_number(row.get("step")):
            raise ValueError(f'results["training"][{run!r}][{i}]: "step" must be a number, found {row}')
        for name in row.keys() - {"step", "epoch"}:
            if findings.is_number(row[name]) and abs(row[name]) < 1e100:  # False for NaN
                series.setdefault(name, []).append((float(row["step"]), float(row[name])))
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


def _example(problem: Mapping[str, Any], i: int) -> View:
    """One problem for the template: the picked responses open, the others folded, best score first."""
    for name in ("prompt", "responses"):
        if name not in problem:
            raise ValueError(f"examples[{i}] has no {name!r}")
    responses = [_response(r, f'examples[{i}]["responses"][{j}]') for j, r in enumerate(problem["responses"])]
    responses.sort(key=lambda r: (not r["chosen_by"], -r["rank"]))
    prompt, picked = problem["prompt"], sum(bool(r["chosen_by"]) for r in responses) or 1
    if not isinstance(prompt, str):
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return {
        "id": problem.get("problem_id", i),
        "prompt": prompt,
        "gold": problem.get("gold"),
        "open": responses[:picked],
        "folded": responses[picked:],
        "right": sum(r["verdict"] == "right" for r in responses),
        "judged": any(r["verdict"] is not None for r in responses),
    }


def _response(response: Mapping[str, Any], where: str) -> View:
    texts = response.get("steps") or []
    qs, labels = (response.get(name) or [None] * len(texts) for name in ("q_values", "labels"))
    if not len(texts) == len(qs) == len(labels):
        counts = f"{len(texts)} steps, {len(qs)} q_values, {len(labels)} labels"
        raise ValueError(f"{where} has {counts}: each step needs one")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{where}["steps"] is {texts!r}; each must be text')
    if not all(label in (0, 1, None) for label in labels):
        raise ValueError(f'{where}["labels"] is {labels!r}; each must be 1, 0 or null')
    first_wrong = labels.index(0) if 0 in labels else len(labels)
    steps = [
        {"text": text.strip("\n"), "label": label, "place": _place(j, first_wrong), **_shade(q)}
        for j, (text, q, label) in enumerate(zip(texts, qs, labels, strict=True))
    ]
    completion, score = response.get("completion", ""), response.get("score")
    rank = score if findings.is_number(score) and not math.isnan(score) else -math.inf
    return {
        "steps": steps,
        "completion": "" if _letters("".join(texts)) == _letters(completion) else completion,
        "verdict": response.get("verdict"),
        "answer": response.get("answer"),
        "score": None if score is None else _signed(rank),
        "rank": rank,
        "chosen_by": response.get("chosen_by") or [],
    }


def _place(step: int, first_wrong: int) -> str:
    return "first-wrong" if step == first_wrong else "after" if step > first_wrong else ""


def _letters(text: str) -> str:
    return "".join(text.split())


def _shade(q: float | None) -> View:
    """Q as text, its sigmoid, and which of nine shades (0 wrong, 4 undecided, 8 right) that falls into."""
    if not findings.is_number(q) or math.isnan(q):
        return {"q": "n/a", "sigmoid": None, "shade": None}
    p = (1 + math.tanh(q / 2)) / 2
    return {"q": _signed(q), "sigmoid": f"{p:.2f}", "shade": min(8, int(9 * p))}


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "\u2212")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"versions": {"torch": "2.13"}}` -> `{"versions / torch": "2.13"}`."""
    rows: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name} / ")
        else:
            rows[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return rows
