"""Equations in a text whose arithmetic does not hold: `<<16-3=12>>`, or `5 * $1,200 = $600` in plain words.

Only what is certainly false counts. An equation is a calculation of numbers (+ - * / and brackets, worked out exactly)
and, right of `=`, one number; that number may be rounded or cut off, so it is false only if it is a whole unit of its
last digit away. Whatever is not read to the end (variables, units, percentages, exponents, dates, mixed numbers,
`= 3 million`, `3 / 1/4`) is left alone.
"""

from __future__ import annotations

import re
from fractions import Fraction

_MARK = re.compile(r"<<([^<>]*)>>")
_MARKED = re.compile(r"=\s*\$?\s*<<[^<>]*>>")  # the mark says what is meant
_SPELLINGS = (
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"[\u00d7\u22c5\u00b7]"), "*"),
    (re.compile(r"\u00f7"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"(?<=[\d\s)])x(?=\s*[$(\d.])"), "*"),
    (re.compile(r"\\\$"), "$"),
)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_LEFT = re.compile(r"[\d.,$\s+\-*/()]+$")
_RIGHT = re.compile(rf"\s*(?P<minus>-?)\s*\$?\s*(?P<minus2>-?)(?P<number>{_NUMBER})(?P<after>.?\s*\S*)", re.DOTALL)
_TOKEN = re.compile(rf"\s*(?:\$?\s*(?P<number>{_NUMBER})|(?P<sign>[-+*/()]))")
# What makes the number right of "=" not the whole of its side.
_GOES_ON = re.compile(
    r"[.,:]?\d|[*/^%\u00b0a-z]|\s*(?:[-+*/^%(:\\]|\d|x\s*\d|=|percent|cent|hundred|thousand|million|billion|dozen|rem|mod)",
    re.IGNORECASE,
)
_MIXED = re.compile(r"\d\s+and\s*$")  # "12 x 1 and 1/4 = 15"
_FLOAT_ERROR = Fraction(1, 10**9)  # "0.06*60=3.5999999999999996"
_LONGEST = 200
"""Characters of a calculation that is worked out."""


def has_false_equation(text: str) -> bool:
    """Whether some equation in the text certainly does not hold."""
    inside = _MARK.findall(text)
    return any(_has_false(part) for part in (*inside, _MARK.sub("", _MARKED.sub("", text))))


def _has_false(text: str) -> bool:
    if "=" not in text:
        return False
    for pattern, sign in _SPELLINGS:
        text = pattern.sub(sign, text)
    return any(_is_false(text[: match.start()], text[match.end() :]) for match in re.finditer("=", text))


def _is_false(before: str, after: str) -> bool:
    right = _RIGHT.match(after[:_LONGEST])
    left = _LEFT.search(before[-_LONGEST:])
    if right is None or left is None or (left.start() == 0 and len(before) > _LONGEST):
        return False
    if _GOES_ON.match(right["after"]):
        return False
    # The calculation may begin before what was read of it: "1:30 + 2 = 3", "5% * 2 = 10", "x^2 + 1 = 3", "3y2 + 2 = 5".
    words, calculation = before[-_LONGEST:][: left.start()], left[0]
    glued = words[-1:].isalnum() and not calculation[0].isspace()
    if _MIXED.search(words) or words.endswith(tuple(":%^_}]|")) or glued:
        return False
    try:
        value = _Calculation(calculation).value()
    except (ValueError, ZeroDivisionError):
        return False
    digits = right["number"].replace(",", "")
    stated = Fraction(digits) * (-1 if right["minus"] or right["minus2"] else 1)
    unit = Fraction(1, 10 ** len(digits.partition(".")[2]))
    return abs(value - stated) >= max(unit, abs(value) * _FLOAT_ERROR)


class _Calculation:
    """Works out `sum` = `product` {+- `product`}, `product` = `factor` {*/ `factor`}, `factor` = number | ( `sum` )."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"{text!r} is not a calculation")
            self.tokens.append((match["number"] or match["sign"]).replace(",", ""))
            at = match.end()
        self.at = 0

    def value(self) -> Fraction:
        """Raises ValueError for what is not one whole calculation, ZeroDivisionError as Python does."""
        if not any(token in "+-*/" for token in self.tokens):
            raise ValueError("nothing is calculated")
        total = self._sum()
        if self.at < len(self.tokens):
            raise ValueError("something is left over")
        return total

    def _next(self, choices: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in choices:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def _sum(self) -> Fraction:
        total = self._product()
        while sign := self._next("+-"):
            total = total + self._product() if sign == "+" else total - self._product()
        return total

    def _product(self) -> Fraction:
        total = self._factor()
        divided = False
        while sign := self._next("*/"):
            if divided and sign == "/":
                raise ValueError("3 / 1/4 may mean a fraction")
            divided |= sign == "/"
            total = total * self._factor() if sign == "*" else total / self._factor()
        return total

    def _factor(self) -> Fraction:
        if self._next("("):
            inner = self._sum()
            if not self._next(")"):
                raise ValueError("a bracket is open")
            return inner
        if self.at == len(self.tokens) or self.tokens[self.at] in "+-*/()":
            raise ValueError("a number is missing")
        self.at += 1
        return Fraction(self.tokens[self.at - 1])
