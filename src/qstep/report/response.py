"""The view of a problem and its responses: steps with Qs and labels, and who chose which response."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qstep.data import NO_ERROR, conversation_text, first_wrong, has_turns
from qstep.report.findings import is_number
from qstep.types import Row


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its text, its Q and exact label if it has them, and its place."""

    text: str
    q_value: float | None
    label: bool | None
    place: str
    """`first-wrong`, `after` for later steps, or an empty string."""

    @property
    def q(self) -> str:
        return "n/a" if self.q_value is None else signed(self.q_value)

    @property
    def sigmoid(self) -> float | None:
        """sigmoid(Q), between 0 and 1."""
        return None if self.q_value is None else (1 + math.tanh(self.q_value / 2)) / 2

    @property
    def shade(self) -> int | None:
        """The shade of the sigmoid, one of nine: 0 is wrong, 4 is undecided, 8 is right."""
        return None if self.sigmoid is None else min(8, int(9 * self.sigmoid))


@dataclass(frozen=True, slots=True)
class Response:
    """One response. `text` is its completion if the steps do not contain all of it."""

    steps: list[Step]
    text: str
    verdict: str | None
    answer: Any
    score: float | None
    chosen_by: list[str]

    @property
    def rank(self) -> float:
        return -math.inf if self.score is None or math.isnan(self.score) else self.score


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with some of its responses, the chosen ones first, and counts of all responses."""

    id: Any
    prompt: str
    gold: Any
    responses: list[Response]
    right: int
    judged: int
    total: int

    @property
    def open(self) -> list[Response]:
        """The responses to show directly: the chosen ones, or else the one with the best score."""
        return self.responses[: sum(bool(response.chosen_by) for response in self.responses) or 1]

    @property
    def folded(self) -> list[Response]:
        return self.responses[len(self.open) :]


def view_problem(rows: Sequence[Row], chosen: Mapping[str, int] | None = None, *, shown: int | None = None) -> Problem:
    """The view of one problem's rows: the first `shown` (all by default), and those in `chosen` (index by chooser).

    Raises ValueError, naming row and field, for a malformed row.
    """
    chosen = chosen or {}
    places = {*chosen.values(), *range(len(rows) if shown is None else min(shown, len(rows)))}
    responses = [
        _view_response(rows[i], [who for who, place in chosen.items() if place == i], f"rows[{i}]")
        for i in sorted(places)
    ]
    responses.sort(key=lambda response: (not response.chosen_by, -response.rank))
    first = rows[0]
    prompt = first["prompt"]
    if not isinstance(prompt, str):
        prompt = conversation_text(prompt)
    verdicts = [row.get("verdict") for row in rows]
    return Problem(
        first.get("problem_id", first.get("id")),
        prompt,
        first.get("gold"),
        responses,
        verdicts.count("right"),
        sum(verdict is not None for verdict in verdicts),
        len(rows),
    )


def _view_response(row: Row, chosen_by: list[str], where: str) -> Response:
    """The view of one row of a scored file. A soft label is an estimate, so it is not shown as a check."""
    texts = row.get("completions") or []
    qs, labels = (row.get(name) or [None] * len(texts) for name in ("q_values", "labels"))
    if not len(texts) == len(qs) == len(labels):
        counts = f"{len(texts)} steps, {len(qs)} q_values, {len(labels)} labels"
        raise ValueError(f"{where} has {counts}: give one of each for every step")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{where}["completions"] is {texts!r}; each must be a string')
    checked = [label if isinstance(label, bool) else None for label in labels]
    first = first_wrong(checked)
    completion, score = row.get("completion", ""), row.get("score")
    if has_turns(completion):
        completion = conversation_text(completion)
    return Response(
        [
            Step(text.strip("\n"), _known(q), label, _place(step, first))
            for step, (text, q, label) in enumerate(zip(texts, qs, checked, strict=True))
        ],
        "" if _letters("".join(texts)) == _letters(completion) else completion,
        row.get("verdict"),
        row.get("answer"),
        float(score) if is_number(score) else None,
        chosen_by,
    )


def signed(x: float) -> str:
    """A number with its sign, two decimals and a minus."""
    return f"{x:+.2f}".replace("-", "\u2212")


def _known(q: Any) -> float | None:
    return float(q) if is_number(q) and not math.isnan(q) else None


def _place(step: int, first: int) -> str:
    if first == NO_ERROR or step < first:
        return ""
    return "first-wrong" if step == first else "after"


def _letters(text: str) -> str:
    return "".join(text.split())
