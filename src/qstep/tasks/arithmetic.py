"""Finds false equations in a text, such as `<<16-3=12>>`, or `5 * $1,200 = $600` in a sentence.

Only equations that are certainly false count. An equation has a calculation (numbers, + - * / and brackets) on the
left, which is evaluated exactly, and one number on the right. That number may be rounded or truncated, so it is false
only if it is off by at least one unit of its last digit.

Everything else is ignored: variables, percentages, exponents, roots, factorials and unknown signs, dates, mixed
numbers, `= 3 million`, `3 / 1/4`. The same holds if words before the calculation may belong to it ("half of 10 + 3 =
8"), if a unit or a clock explains the difference ("30 + 30 = 1 hour", "11 + 4 = 3 o'clock"), and in a sentence that
asks, supposes, denies, or names a base.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_MARK = re.compile(r"<<([^<>]*)>>")
_MARKED = re.compile(r"=\s*\$?\s*<<[^<>]*>>")  # the mark repeats the equation
_SPELLINGS = (
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"[\u00d7\u22c5\u00b7]"), "*"),
    (re.compile(r"\u00f7"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"(?<![\d.])0x(?=[\da-f])"), "hexadecimal "),
    (re.compile(r"(?<=[\d\s)])x(?=\s*[$(\d.])"), "*"),
    (re.compile(r"\\\$"), "$"),
)
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_LEFT = re.compile(r"[\d.,$\s+\-*/()]+$")
_RIGHT = re.compile(rf"\s*(?P<minus>-?)\s*\$?\s*(?P<minus2>-?)(?P<number>{_NUMBER})(?P<after>.?\s*\S*)", re.DOTALL)
_BLANK = re.compile(r"[^\S\n]|\$")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_RAISED = r"\u00b2\u00b3\u00b9\u00bc-\u00be\u1d2c-\u1d6a\u2070-\u209e\u2150-\u215f"
"""Raised and lowered characters, and fractions of one character, for a class of a pattern."""
_RELATIONS = r"<=>\u2234\u2235\u2248\u2260\u2264\u2265\u2a7d\u2a7e\u2190-\u21ff\u27f0-\u27ff"
_SYMBOL = rf"(?![{_RELATIONS}])[~\u00ac\u00b1\u2044\u2200-\u22ff\u2308-\u230b\u2a00-\u2aff]"
"""A mathematical sign that is no relation and no arrow, such as a root or a sum."""
_OTHER_SIGN = rf"[^\w\s.,:;!?$&|\\)\]}}\"'`\u2019\u201d\u2026{_RELATIONS}]"
"""What may be an operator if there are numbers on both sides of it, such as a bullet in `3 \u2022 4`."""
# Matches if the right side of "=" has more than the number.
_GOES_ON = re.compile(
    r"\$\s*[-+*/^=(\d]|[.,:]?\d|[*/^%\u00b0a-z!]|_[\da-z{]"
    r"|\s*(?:[-+*/^%(:\\]|\d|x\s*\d|=|percent|cent|hundred|thousand|million|billion|trillion|dozen|rem|mod"
    r"|squared|cubed|factorial|choose|plus|minus|multiplied|divided|times\s+\d|(?-i:[KMB])\b"
    rf"|[{_RAISED}]|{_SYMBOL}|{_OTHER_SIGN}+\s*\d)",
    re.IGNORECASE,
)
# Matches at the end of what is before a calculation if that belongs to it: "1:30 + 2 = 3", "5% (1 + 1) = 0.1",
# "x_2 + 1 = 3", "\u221a(9 + 16) = 5", "f'(2) + 1 = 5".
_BEGINS_EARLIER = re.compile(
    rf"(?:[:%^_}}\]|!{_RAISED}]|{_SYMBOL}|[\w)\]}}]['\u2019\u2032-\u2034]+|[\d)\]}}][-+*/(\s]*{_OTHER_SIGN}+)\Z"
)
_MIXED = re.compile(r"\d\s+and\s*$")  # "12 x 1 and 1/4 = 15"
_POINTS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}\.\d{3}(?![\d.,])")  # 1.000 may be a thousand
_SENTENCE = re.compile(r"[.!?](?=\s|$)|\n")
_OPEN = re.compile(  # a sentence in which an equation claims nothing, or is in other numerals
    r"\?$|\b(?:suppose|assum\w+|imagine|if|unless|would|were true|not|instead|wrong|incorrect|false|mistake\w*|base"
    r"|binary|octal|hexadecimal|mod|modulo|modular)\b|n't\b",
    re.IGNORECASE,
)
_BEFORE = re.compile(  # words that may stand directly before a calculation without being a part of it
    r"(?:"
    r"a|additional|also|altogether|am|and|are|ate|be|because|been|bought|brought|burn|burns|buy|buys|caught|charge|charges|collect|collected"
    r"|cost|costs|does|each|earn|earned|earns|eat|eats|equals|for|gave|get|gets|give|gives|got|grow|grows|had|has"
    r"|have|he|her|him|hold|holds|i|is|it|leaves|left|made|make|makes|means|need|needs|now|only|paid|pay|pays|pick|picked|picks"
    r"|received|runs|save|saved|saves|saw|scored|sees|she|slept|so|sold|spend|spends|spent|take|takes|that|then|therefore|they"
    r"|thus|together|took|total|us|use|used|uses|was|we|weighs|were|which|will|worked|wrote|you"
    r")",
    re.IGNORECASE,
)
_TOTAL = re.compile(r"\ba total of\Z", re.IGNORECASE)
_UNIT = re.compile(
    r"\s*(?:h|hrs?|hours?|mins?|minutes?|s|secs?|seconds?|days?|weeks?|months?|years?|o'clock|[ap]\.?m|dollars?|cents?"
    r"|quarters?|dimes?|nickels?|pence|euros?|[mk]?g|(?:kilo)?grams?|[cmk]?m|(?:centi|milli|kilo)?(?:meters?|metres?)|m?l"
    r"|(?:milli)?(?:liters?|litres?)|in|inch(?:es)?|ft|foot|feet|yds?|yards?|miles?|mi|lbs?|pounds?|oz|ounces?|tons?|cups?"
    r"|pints?|quarts?|gallons?|degrees|dozens?|pairs?|scores?)(?![a-z])(?P<more>\s+(?:and\s+)?\d)?",
    re.IGNORECASE,
)
_FACTORS = (2, 3, 4, 5, 7, 8, 12, 16, 20, 24, 25, 30, 36, 52, 60, 100, 365, 1000, 1760, 2000, 3600, 5280)
_CLOCK = 12
_FLOAT_ERROR = Fraction(1, 10**9)  # "0.06*60=3.5999999999999996"
_LONGEST = 200
"""The maximum length of an evaluated calculation, in characters."""


def has_false_equation(text: str) -> bool:
    """Whether the text has an equation that is certainly false."""
    inside = _MARK.findall(text)
    return any(_has_false(part) for part in (*inside, _MARK.sub("", _MARKED.sub("", text))))


def _has_false(text: str) -> bool:
    if "=" not in text:
        return False
    for pattern, sign in _SPELLINGS:
        text = pattern.sub(sign, text)
    start = 0
    for end in (*(match.end() for match in _SENTENCE.finditer(text)), len(text)):
        sentence, start = text[start:end], end
        equations = () if _OPEN.search(sentence) else re.finditer("=", sentence)
        if any(_is_false(sentence[: match.start()], sentence[match.end() :]) for match in equations):
            return True
    return False


def _is_false(before: str, after: str) -> bool:
    right = _RIGHT.match(after[:_LONGEST])
    left = _LEFT.search(before[-_LONGEST:])
    if right is None or left is None or (left.start() == 0 and len(before) > _LONGEST):
        return False
    if _GOES_ON.match(after, right.end("number")):
        return False
    words, calculation = before[-_LONGEST:][: left.start()], left[0]
    glued = words[-1:].isalnum() and not calculation[0].isspace()
    if _MIXED.search(words) or _BEGINS_EARLIER.search(words) or glued:
        return False
    if words[-1:].isalpha() and not _TOTAL.search(words) and not _BEFORE.fullmatch(re.split(r"[\W_]+", words)[-1]):
        return False
    try:
        value = _worked_out(calculation)
    except (ValueError, ZeroDivisionError):
        return False
    digits = right["number"].replace(",", "")
    stated = Fraction(digits) * (-1 if right["minus"] or right["minus2"] else 1)
    unit = Fraction(1, 10 ** len(digits.partition(".")[2]))
    if _POINTS.search(calculation) and _POINTS.fullmatch(right["number"]):
        return False
    in_money = "$" in right[0] and "$" not in calculation
    return abs(value - stated) >= max(unit, abs(value) * _FLOAT_ERROR) and not _explained(
        value, stated, after[right.end("number") :], in_money
    )


def _explained(value: Fraction, stated: Fraction, after: str, in_money: bool) -> bool:
    """Whether a unit after the stated number explains the difference: another unit, a clock, or a sign in words."""
    unit = _UNIT.match(after)
    if unit is None and not in_money:
        return False
    if unit is not None and (unit["more"] or value == -stated or (value - stated) % _CLOCK == 0):
        return True
    return any(value in (stated * factor, stated / factor) for factor in _FACTORS)


def _worked_out(calculation: str) -> Fraction:
    """The exact value of a calculation of at most `_LONGEST` characters.

    `ast.parse` builds a tree without running anything, and only numbers, + - * / and brackets are accepted in it.
    Raises ValueError if the text is not exactly one calculation, and ZeroDivisionError as Python does.
    """
    text = _GROUPED.sub(lambda number: number[0].replace(",", ""), _BLANK.sub(" ", calculation).strip())
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is not a calculation") from None
    if not isinstance(tree, ast.BinOp):
        raise ValueError(f"{text!r} has no operation")
    return _value(tree, text)


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(ast.get_source_segment(text, node) or "")  # the digits as written, not a float
        case ast.BinOp(left=ast.BinOp(op=ast.Div()), op=ast.Div()):
            raise ValueError("3 / 1/4 may mean a fraction")
        case ast.BinOp(left, op, right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left, text), _value(right, text))
    raise ValueError(f"{text!r} is more than numbers and + - * /")
