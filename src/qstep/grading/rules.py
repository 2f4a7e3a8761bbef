"""The families of rules this room adds to math-verify, each of which a benchmark can leave out."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal["visible", "marks", "passing", "spelling", "words", "units", "exact"]
"""Hidden reasoning is no answer; the last mark states the answer; a number in passing is none; numbers have
one spelling; words are compared as words; units are converted; small numbers are not all equal, and what
cannot be computed is not tried."""

Rules = frozenset[Rule]

ALL: Rules = frozenset(get_args(Rule))
