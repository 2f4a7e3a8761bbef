"""Refusing, before any algebra, what is certain to exceed every reasonable time and memory."""

from __future__ import annotations

import re

from qstep.grading.notation import depth

_MAX_LENGTH = 2000
_MAX_DEPTH = 30
_MAX_DIGITS = 1000
_MAX_ENTRIES = 150
_MAX_EXPONENT = 1000
_MAX_EXPONENTS = 60

_DIGITS = re.compile(r"\d+")
_TOWER = re.compile(r"\^\s*[{(]?[^{}()^]*?(\d+)\s*\^\s*[{(]?\s*-?(\d+)")
_STORIES = re.compile(r"(?:\d\s*\^\s*[{(]?\s*){3}")
_EXPONENT = re.compile(r"\^\s*[{(]?\s*[-+]?\s*(\d+)")
_FACTORIAL = re.compile(r"(\S)\s*!(\s*!)?")
_LARGE_OPERATOR = re.compile(r"\\(?:sum|prod|int|bigcup|bigcap|lim|binom|dbinom|tbinom)(?![a-zA-Z])")
_LARGE_BOUND = re.compile(r"\d{4,}")


def hazard(text: str) -> str | None:
    """Why a normalised answer is not handed to algebra, or None when it may be."""
    if len(text) > _MAX_LENGTH:
        return f"an expression of more than {_MAX_LENGTH} characters"
    if depth(text) > _MAX_DEPTH:
        return f"brackets nested more than {_MAX_DEPTH} deep"
    if text.count("&") + text.count(r"\\") > _MAX_ENTRIES:
        return f"a matrix of more than {_MAX_ENTRIES} entries"
    if any(len(match[0]) > _MAX_DIGITS for match in _DIGITS.finditer(text)):
        return f"a number of more than {_MAX_DIGITS} digits"
    if text.count("^") > _MAX_EXPONENTS:
        return f"more than {_MAX_EXPONENTS} exponents"
    if _STORIES.search(text):
        return "a tower of powers"
    for tower in _TOWER.finditer(text):
        if len(tower[1]) * int(tower[2][:3]) > 6:
            return "a large power in an exponent"
    if any(len(match[1]) > 5 or int(match[1]) > _MAX_EXPONENT for match in _EXPONENT.finditer(text)):
        return f"an exponent above {_MAX_EXPONENT}"
    for match in _FACTORIAL.finditer(text):
        before = re.search(r"\d*$", text[: match.start(1) + 1])
        if match[2] or match[1] in ")}!" or (before and len(before[0]) > 3):
            return "a factorial that may be too large to write out"
    if _LARGE_OPERATOR.search(text) and _LARGE_BOUND.search(text):
        return "a sum, product, integral or binomial with a large bound"
    return None
