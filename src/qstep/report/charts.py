"""Charts as static SVG, without scripts: Altair describes them, and vl-convert draws them offline."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from qstep.report.findings import Finding, label, percent_interval, points_interval
from qstep.types import Estimate

# Distinguishable with colour blindness, with a contrast of at least 3:1 on both the light and the dark page.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#2f7fc1", "#d06a1a", "#15916b", "#a35fb0", "#7b8490"
_COLOURS = {"pqm": _BLUE, "bce": _ORANGE, "majority": _GREEN, "pqm_weighted": _PURPLE, "pass": _GREY}
_COLOURS |= {"beam": _BLUE, "best_of_n": _ORANGE, "dvts": _GREEN, "lookahead": _PURPLE}
_COLOURS |= {"dqo": _BLUE, "rs": _GREEN, "dro": _PURPLE, "base": _GREY}
_OTHERS = ("#a67c00", "#c2527a", "#3f8a9e", "#8a6d5a")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
_VERDICTS = {"better": (_BLUE, "circle"), "worse": (_ORANGE, "square"), "cannot tell": (_GREY, "diamond")}
_VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
_ROWS = alt.NamedData("rows")
_DRAWN = {"svg", "g", "path", "line", "rect", "text", "tspan"}


def best_of_n(curves: Mapping[str, Mapping[int, Estimate]]) -> Markup:
    """Accuracy against n (log2). Each way to choose has a line, with its 95 % interval as a band."""
    rows = [
        _row(label(name), e, f"{label(name)}, n = {n}: {percent_interval(e)}", n=n)
        for name, curve in curves.items()
        for n, e in curve.items()
    ]
    names, sizes = [label(name) for name in curves], sorted({row["n"] for row in rows})
    legend = alt.Legend(title=None, orient="top", columns=3, columnPadding=24, symbolOpacity=1, symbolSize=70)
    x = alt.X("n:Q", title="n, responses to choose from").scale(type="log", base=2).axis(values=sizes)
    y = alt.Y("low:Q", title=None).scale(zero=False).axis(format=".0%", tickCount=6)
    colour = alt.Color("who:N", legend=legend).scale(domain=names, range=_colours(curves))
    shape = alt.Shape("who:N", legend=legend).scale(domain=names, range=_SHAPES)
    base = alt.Chart(_ROWS).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.13).encode(y=y, y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y="mean:Q")
    dots = _dots(base).encode(y="mean:Q", shape=shape)
    about = f"Accuracy by number of responses, for {', '.join(names)}. The table has the values."
    return _svg((band + line + dots).properties(width=440, height=270), rows, about)


def searches(curves: Mapping[str, Sequence[tuple[float, Estimate]]]) -> Markup:
    """Accuracy against tokens drawn per problem (log2). Each method has a line through its searches."""
    rows = [
        _row(label(name), e, f"{label(name)}, {tokens:.0f} tokens: {percent_interval(e)}", tokens=tokens)
        for name, curve in curves.items()
        for tokens, e in curve
    ]
    names = [label(name) for name in curves]
    legend = alt.Legend(title=None, orient="top", columns=2, columnPadding=24, symbolOpacity=1, symbolSize=70)
    x = alt.X("tokens:Q", title="tokens drawn per problem").scale(type="log", base=2, nice=False, padding=12)
    y = alt.Y("low:Q", title=None).scale(zero=False).axis(format=".0%", tickCount=6)
    colour = alt.Color("who:N", legend=legend).scale(domain=names, range=_colours(curves))
    shape = alt.Shape("who:N", legend=legend).scale(domain=names, range=_SHAPES)
    base = alt.Chart(_ROWS).encode(x=x.axis(tickCount=8, format="d"), color=colour)
    limits = base.mark_rule(strokeWidth=1.6, opacity=0.55).encode(y=y, y2="high:Q", description="about:N")
    line = base.mark_line(strokeWidth=2).encode(y="mean:Q")
    dots = _dots(base).encode(y="mean:Q", shape=shape)
    about = f"Accuracy by tokens drawn, for {', '.join(names)}. The table has the values."
    return _svg((limits + line + dots).properties(width=440, height=270), rows, about)


def policy_bars(policies: Mapping[str, Estimate]) -> Markup:
    """A horizontal bar for each policy, with its 95 % interval as a line."""
    rows = [_row(label(p), e, f"{label(p)}: {percent_interval(e)}") for p, e in policies.items()]
    names = [label(name) for name in policies]
    x = alt.X("mean:Q", title=None).scale(domain=[0, 1]).axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
    colour = alt.Color("who:N", legend=None).scale(domain=names, range=_colours(policies))
    base = alt.Chart(_ROWS).encode(y=_names(names))
    bars = base.mark_bar(height=14).encode(x=x, color=colour, description="about:N")
    limits = base.mark_rule(strokeWidth=1.6).encode(x="low:Q", x2="high:Q", description="about:N")
    about = "Accuracy: " + "; ".join(row["about"] for row in rows)
    return _svg((bars + limits).properties(width=min(250, 490 - _room(names)), height=alt.Step(28)), rows, about)


def differences(findings: Sequence[Finding]) -> Markup:
    """Paired differences in percentage points with their 95 % intervals, and a line at 0."""
    rows = [
        _row(
            f.label,
            f.difference,
            f"{f.label}: {points_interval(f.difference)} points, {f.verdict}",
            scale=100,
            verdict=f.verdict,
        )
        for f in findings
    ]
    colours, shapes = zip(*_VERDICTS.values(), strict=True)
    colour = alt.Color("verdict:N", legend=None).scale(domain=list(_VERDICTS), range=colours)
    shape = alt.Shape("verdict:N", legend=None).scale(domain=list(_VERDICTS), range=shapes)
    x = alt.X("low:Q", title="difference, percentage points").axis(tickCount=5, labelOverlap="greedy")
    names = [f.label for f in findings]
    base = alt.Chart(_ROWS).encode(y=_names(names), color=colour)
    limits = base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", description="about:N")
    dots = _dots(base).encode(x="mean:Q", shape=shape)
    zero = alt.Chart(alt.Data(values=[{}])).mark_rule(strokeDash=[4, 3]).encode(x=alt.datum(0))
    about = "Differences with 95 % intervals: " + "; ".join(row["about"] for row in rows)
    return _svg((limits + zero + dots).properties(width=min(230, 480 - _room(names)), height=alt.Step(30)), rows, about)


def reliability(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """The share of right steps against the predicted probability, for each name. On the dashed line they are equal."""
    about = f"Share of right steps by predicted probability, for {', '.join(map(label, curves))}."
    return _unit_square(curves, "sigmoid(Q), mean of a bin", "right steps", about, diagonal=True)


def by_threshold(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """F1 against the threshold of sigmoid(Q), for each name."""
    about = f"F1 by the threshold of sigmoid(Q), for {', '.join(map(label, curves))}."
    return _unit_square(curves, "threshold of sigmoid(Q)", "F1", about, diagonal=False)


def _unit_square(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str, about: str, *, diagonal: bool
) -> Markup:
    """A line for each name, with both axes from 0 to 1."""
    rows = [
        {"who": label(name), "x": x, "y": y, "about": f"{label(name)}: {y:.3f} at {x:.3f}"}
        for name, curve in curves.items()
        for x, y in curve
    ]
    names = [label(name) for name in curves]
    legend = alt.Legend(title=None, orient="top", columns=2, columnPadding=24, symbolOpacity=1, symbolSize=70)
    values = [0, 0.25, 0.5, 0.75, 1]
    base = alt.Chart(_ROWS).encode(
        x=alt.X("x:Q", title=x_title).scale(domain=[0, 1]).axis(values=values, format=".2f"),
        y=alt.Y("y:Q", title=y_title).scale(domain=[0, 1]).axis(values=values, format=".2f"),
        color=alt.Color("who:N", legend=legend).scale(domain=names, range=_colours(curves)),
    )
    chart = base.mark_line(strokeWidth=2)
    if diagonal:
        ends = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
        chart = chart + ends.mark_line(strokeDash=[4, 3], color=_GREY).encode(x="x:Q", y="y:Q") + _dots(base)
    return _svg(chart.properties(width=280, height=240), rows, about)


def metric(name: str, series: Sequence[tuple[float, float]]) -> Markup:
    """One training metric against the step. The chart is small, so that many fit on a page."""
    (first, start), (last, end) = series[0], series[-1]
    low, high = min(y for _, y in series), max(y for _, y in series)
    margin = 0 if high > low else abs(low) / 10 or 1.0
    x = alt.X("x:Q", title=None).axis(tickCount=3, grid=False).scale(zero=False, nice=False)
    y = alt.Y("y:Q", title=None).axis(tickCount=3).scale(domain=[low - margin, high + margin], nice=True)
    rows = [{"x": x, "y": y} for x, y in series]
    line = alt.Chart(_ROWS).mark_line(strokeWidth=1.6, color=_BLUE).encode(x=x, y=y)
    about = f"{name}: {start:.4g} at step {first:g}, {end:.4g} at step {last:g}"
    return _svg(line.properties(width=180, height=84), rows, about)


def _row(who: str, e: Estimate, about: str, scale: float = 1, **columns: Any) -> dict[str, Any]:
    """A row of chart data. An unknown interval is null, which Vega leaves out."""
    mean, low, high = (scale * x if math.isfinite(x) else None for x in (e.mean, e.low, e.high))
    return {"who": who, "about": about, "mean": mean, "low": low, "high": high, **columns}


def _dots(chart: alt.Chart) -> alt.Chart:
    return chart.mark_point(size=60, filled=True, opacity=1).encode(description="about:N")


def _names(names: Sequence[str]) -> alt.Y:
    """An axis of names with room for the widest one in any font."""
    axis = alt.Axis(labelLimit=300, minExtent=_room(names), ticks=False, domain=False, labelPadding=8)
    return alt.Y("who:N", sort=names, title=None, axis=axis)


def _room(names: Sequence[str]) -> float:
    return min(300, 12 + 7.2 * max(map(len, names)))


def _colours(names: Iterable[str]) -> list[str]:
    return [_COLOURS.get(name, _OTHERS[i % len(_OTHERS)]) for i, name in enumerate(names)]


def _svg(chart: alt.LayerChart | alt.Chart, rows: list[dict[str, Any]], about: str) -> Markup:
    """Draws `rows` as `chart` says, with drawing elements only. Marks described by a row get a `<title>` as tooltip.

    Vega's own descriptions of the other elements name columns, and only the first point of a line. They are replaced by
    `about` for the complete chart. The page's style sheet colours text and lines.
    """
    described_by = {row["about"] for row in rows if "about" in row}
    styled = (
        chart.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", titlePadding=8)
        .configure_legend(labelFontSize=12, labelLimit=190)
    )
    spec = styled.to_dict(validate=False) | {"datasets": {"rows": rows}}
    text = vl_convert.vegalite_to_svg(spec, vl_version=_VEGA_LITE)
    root = ET.fromstring(text.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1))
    for element in list(root.iter()):
        if element.tag not in _DRAWN:
            raise RuntimeError(f"the chart holds an unexpected element <{element.tag}>")
        described = element.attrib.pop("aria-label", None)
        for name in [name for name in element.attrib if name.startswith(("aria-", "role"))]:
            del element.attrib[name]
        if described in described_by and "class" not in element.attrib:
            ET.SubElement(element, "title").text = described
    title = ET.Element("title")
    title.text = about
    root.insert(0, title)
    root.attrib.update({"class": "chart", "role": "img", "aria-label": about})
    return Markup(ET.tostring(root, encoding="unicode"))
