"""The page of `qstep inspect`: the tokens of responses, coloured by V, and a table of their steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qstep.data import conversation_text
from qstep.data.jsonl import write_whole
from qstep.report.page import page_text, resource
from qstep.report.response import signed
from qstep.types import Row

_SHADES = 9
_COLUMNS = {"log_ratio": "Log-ratio", "advantage": "Advantage", "value": "V before", "value_after": "V after", "q": "Q"}
_NAMES = {"log_ratio": "log-ratio", "advantage": "advantage", "value": "V", "q": "Q"}


def render_inspection(rows: Sequence[Row], title: str, out: Path) -> Path:
    """Writes the HTML file `out` from rows of `TokenValues.of_row`, and returns its path.

    Tokens are coloured by V; without V, by the advantage or the log-ratio. Text is escaped. The page has no scripts
    and no addresses.
    """
    tokens = [token for row in rows for token in row["tokens"]]
    shown = next((name for name in ("value", "advantage", "log_ratio") if _known(tokens, name)), None)
    values = _known(tokens, shown) if shown else [0.0]
    low, high = min(values), max(values)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(resource("inspection.html")).render(
        title=title,
        style=Markup(resource("page.css")),
        shown=_NAMES[shown] if shown else None,
        low=signed(low),
        high=signed(high),
        columns=list(_COLUMNS.values()),
        responses=[_response(row, shown, low, high) for row in rows],
    )
    write_whole(out, [page_text(page).encode()])
    return out


def _known(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _response(row: Row, shown: str | None, low: float, high: float) -> dict[str, Any]:
    prompt = row["prompt"]
    facts = {"beta": "β", "log_ratio": "log-ratio", "value": "V of the prompt", "q": "Q"}
    falls = [step["value_after"] - step["value"] for step in row["steps"] if None not in _ends(step)]
    deepest = min(falls, default=0.0)
    return {
        "name": row["id"],
        "prompt": prompt if isinstance(prompt, str) else conversation_text(prompt),
        "facts": [
            *(f"{name} {row[name]}" for name in ("verdict", "label", "reward") if row.get(name) is not None),
            *(f"{words} {signed(row[name])}" for name, words in facts.items() if row.get(name) is not None),
        ],
        **_curve(row),
        "tokens": [_token(token, shown, low, high) for token in row["tokens"]],
        "steps": [
            {
                "text": step["text"],
                "numbers": ["" if step[name] is None else signed(step[name]) for name in _COLUMNS],
                "falls": None not in _ends(step) and step["value_after"] - step["value"] == deepest < 0,
            }
            for step in row["steps"]
        ],
    }


def _ends(step: Row) -> tuple[float | None, float | None]:
    return step["value"], step["value_after"]


def _token(token: Row, shown: str | None, low: float, high: float) -> dict[str, Any]:
    value = token.get(shown) if shown else None
    shade = None
    if value is not None:
        shade = min(_SHADES - 1, int(_SHADES * (value - low) / (high - low))) if high > low else _SHADES // 2
    numbers = (f"{words} {signed(token[name])}" for name, words in _NAMES.items() if token.get(name) is not None)
    return {"text": token["text"], "shade": shade, "title": f"token {token['token'] + 1}: {', '.join(numbers)}"}


def _curve(row: Row) -> dict[str, Any]:
    """The points of V and the ends of steps, in a picture of 1000 x 100."""
    points = [(token["token"], token["value"]) for token in row["tokens"] if token.get("value") is not None]
    if len(points) < 2:
        return {"curve": "", "borders": []}
    last, values = max(1, len(row["tokens"]) - 1), [value for _, value in points]
    low, height = min(values), (max(values) - min(values)) or 1.0
    steps = [token["step"] for token in row["tokens"]]
    borders = [place for place in range(1, len(steps)) if steps[place] != steps[place - 1]]
    return {
        "curve": " ".join(f"{1000 * x / last:.1f},{95 - 90 * (y - low) / height:.1f}" for x, y in points),
        "borders": [f"{1000 * place / last:.1f}" for place in borders],
    }
