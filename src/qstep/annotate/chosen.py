"""Which responses are labelled, in which blocks, and with how many rollouts each problem."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from qstep.data import group_key, steps_of
from qstep.types import Row

Problem = tuple[str, str]
"""A problem, by `qstep.data.group_key`."""

Chosen = Mapping[Problem, set[str]]
"""The ids of the rows to label, by problem."""


def choose_rows(rows: Iterable[Row], max_problems: int | None, max_per_problem: int | None) -> tuple[Chosen, int]:
    """The rows to label, and the number of ungradable ones among them. It does not depend on the order of the rows.

    Problems are taken in order of the hash of their ids, and responses in order of `sample`.
    """
    found: dict[Problem, list[tuple[int, str, bool]]] = {}
    for row in rows:
        found.setdefault(group_key(row), []).append((row["sample"], row["id"], row["verdict"] != "ungradable"))
    kept = set(sorted(found, key=_shuffled)[:max_problems])
    first = {problem: sorted(own)[:max_per_problem] for problem, own in found.items() if problem in kept}
    chosen = {problem: {id for _, id, gradable in own if gradable} for problem, own in first.items()}
    return chosen, sum(not gradable for own in first.values() for _, _, gradable in own)


def share_budget(rows: Iterable[Row], chosen: Chosen, budget: int, separator: str) -> dict[Problem, int]:
    """The budget divided among problems in proportion to their steps. The shares add up to the budget."""
    steps = dict.fromkeys(chosen, 0)
    for problem, row in _rows_of(rows, chosen):
        steps[problem] += len(steps_of(row, separator))
    total = max(sum(steps.values()), 1)
    shares: dict[Problem, int] = {}
    before = 0
    for problem, own in steps.items():
        shares[problem] = budget * (before + own) // total - budget * before // total
        before += own
    return shares


def blocks_of_problems(rows: Iterable[Row], chosen: Chosen, size: int) -> Iterator[list[Row]]:
    """The chosen rows in blocks of at least `size`. A problem is never in two blocks."""
    block: list[Row] = []
    for own in _problems(rows, chosen):
        block += own
        if len(block) >= size:
            yield block
            block = []
    if block:
        yield block


def _problems(rows: Iterable[Row], chosen: Chosen) -> Iterator[list[Row]]:
    """The chosen rows of each problem, yielded once the last of them is read."""
    waiting: dict[Problem, list[Row]] = {}
    for problem, row in _rows_of(rows, chosen):
        own = waiting.setdefault(problem, [])
        own.append(row)
        if len(own) == len(chosen[problem]):
            yield waiting.pop(problem)


def _rows_of(rows: Iterable[Row], chosen: Chosen) -> Iterator[tuple[Problem, Row]]:
    for row in rows:
        problem = group_key(row)
        if row["id"] in chosen.get(problem, ()):
            yield problem, row


def _shuffled(problem: Problem) -> tuple[bytes, str]:
    problem_id, prompt = problem
    return hashlib.sha256(problem_id.encode()).digest(), prompt
