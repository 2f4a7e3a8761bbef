"""The names of ways to choose one of the responses to a problem. A scorer's own name means its best response."""

from __future__ import annotations

UNSCORED = ("mean", "majority", "pass")
"""The ways that need no scorer: one response, a vote, and a perfect choice."""

_WEIGHTED = "_weighted"


def weighted(name: str) -> str:
    """The vote that is weighted by the scores of a scorer, or of one of its aggregations."""
    return name + _WEIGHTED


def voter(way: str) -> str | None:
    """The scorer whose scores weight this vote, or None for another way to choose."""
    return way.removesuffix(_WEIGHTED) if way.endswith(_WEIGHTED) else None


def aggregated(scorer: str, how: str) -> str:
    """The best response by an aggregation of a scorer's Qs."""
    return f"{scorer}/{how}"
