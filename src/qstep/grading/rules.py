"""The families of rules that qstep adds to math-verify. A benchmark can leave out each of them."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal["visible", "marks", "passing", "spelling", "words", "units", "exact"]
"""A family of rules.

visible   hidden reasoning is not an answer
marks     the last mark states the answer
passing   a number in passing ("page 2") is not an answer
spelling  numbers have one spelling
words     words are compared as words
units     units are converted
exact     small numbers are not all equal, and answers too large to compute are not tried
"""

Rules = frozenset[Rule]

ALL: Rules = frozenset(get_args(Rule))
