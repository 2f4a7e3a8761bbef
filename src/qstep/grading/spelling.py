"""One spelling for answers that math-verify misreads or cannot read, and units that it would drop."""

# ruff: noqa: RUF001  (this file is about characters that look alike)

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "⁄": "/", "∕": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ",
     "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "°": r"^\circ ", "∅": r"\emptyset ", "±": r"\pm "}
)  # fmt: skip
_Into = str | Callable[[re.Match[str]], str]
_RESPELLED: list[tuple[str, _Into]] = [
    (r"\\(?:mathrm|operatorname)\{([ei])\}", r"\1"),
    (r"(?<=\d)\\text\{([ei])\}|\\text\{([ei])\}(?=\s*\^)", lambda m: m[1] or m[2]),
    (r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\*\*\s*(?:\(([^()]*)\)|(\d{2,}|[a-zA-Z]))", lambda m: f"^{{{m[1] or m[2]}}}"),
    (r"\*\*\s*(?=\d)", "^"),
    (r"^\s*[a-zA-Z]\s*\\in\s*(?=[\[(])", ""),
    (r"√\s*(\d+|[a-zA-Z]|\([^()]*\))", r"\\sqrt{\1}"),
    (r"\\!\s*|^\s*(?:\\approx|≈|~)\s*", ""),
    (r"(?<!\\)\\[,;: ]", " "),
    (r"\{,\}(?=\d)", ","),
    (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\w.,])(\d{1,3})((?:[ '_]+\d{3})+)(?![\d,])", lambda m: m[1] + re.sub(r"\D", "", m[2])),
    (r"^([-+]?\d{1,3}(?:\.\d{3}){2,})$", lambda m: m[1].replace(".", "")),
    (r"^([-+]?0),(\d+)$", r"\1.\2"),
    (r"(?<![\w.])([-+]?\d+(?:\.\d*)?)[eE]([-+]?\d{1,5})(?!\w)", r"\1\\cdot 10^{\2}"),
    (r"(?<![\w.^}/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\\frac{\2}{\3})"),
    (r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}", lambda m: _repeating(m)),
    (r"\\langle(.*?)\\rangle", r"(\1)"),
]
_REPLACEMENTS = [(re.compile(pattern), into) for pattern, into in _RESPELLED]
_PLAIN = re.compile(r"([-+]?)\s?(?:\\?[$€£¥₹]\s?)?(\d+|\d{1,3}(?:,\d{3})+|(?=\.\d))(?:\.(\d*))?", re.A)
_TEXT = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf|tt)|mbox)\s*\{([^{}]*)\}")
_COUNTED = re.compile(
    r"((?:\\?\$)?[-\d,.]+)\s+(?!(?:or|and|to|than|not|mod|dozen|hundred|thousand|million|billion)(?!\w))[a-zA-Z&]{2,}"
    r"(?:\s+(?!(?:or|and|to|than|not|more|less|mod)(?!\w))[a-zA-Z&]+){0,3}(?:\s?\^\{?[23]\}?)?"
)
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_NAME = re.compile(r"[a-zA-Z]|\\(?:text\w*|math(?:rm|bf|it|sf|tt)|mbox)\s*\{[^{}]*\}")
_KNOWN = re.compile(
    r"(?=.*\d)[-+*/^().,%$\d\s{}]*(?:\\(?:[dt]?frac|sqrt|cdot|times|div|pi|left|right|[$%])[-+*/^().,%$\d\s{}]*)*"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z ,.'()-]*")
_NO_WORDS = re.compile(r"\b(?:the|an?|and|option|choice)\b|[^\w\s]", re.I)
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBERS = {name: i for i, name in enumerate(_DIGITS + _TEENS)} | {name: 10 * i for i, name in enumerate(_TENS, 2)}
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[- ]({'|'.join(_DIGITS[1:])})\b")
_UNITS = {
    alias: (dimension, Fraction(size))
    for dimension, units in {
        "length": "mm millimeter 1/1000, cm centimeter 1/100, m meter 1, km kilometer 1000, in inch 127/5000,"
        " ft foot feet 381/1250, yd yard 1143/1250, mi mile 201168/125",
        "mass": "mg milligram 1/1000, g gram 1, kg kilogram 1000",
        "time": "s sec second 1, min minute 60, h hr hour 3600, day 86400, week 604800",
        "volume": "ml milliliter 1/1000, l liter 1",
        "money": "$ dollar 1, cent 1/100",
    }.items()
    for *aliases, size in map(str.split, units.split(","))
    for alias in aliases
}
_AT_MOST = re.compile(r"\\leq?(?:slant)?(?![a-zA-Z])")
_AT_LEAST = re.compile(r"\\geq?(?:slant)?(?![a-zA-Z])")
_RELATION = re.compile(r"[<>]=?")
_BETWEEN = re.compile(r"([^<]+)(<=?)[a-zA-Z](<=?)([^<]+)")
_MEASURED = re.compile(r"(.*?[\d}])\s*([a-zA-Z]+?)(?:(?<=h)es|(?<=[a-zA-Z]{2})s)?\s*(\^\{?[23]\}?)?\.?")


def respelled(value: str) -> str:
    """`value` in a spelling that math-verify reads: Unicode, separators, mixed and repeating numbers are rewritten."""
    value = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", value)
    if not value.isascii():
        value = unicodedata.normalize("NFKC", "".join(map(_vulgar_fraction, value)).translate(_SYMBOLS))
    for pattern, into in _REPLACEMENTS:
        value = pattern.sub(into, value)
    return value.strip()


def _vulgar_fraction(char: str) -> str:
    decomposition = unicodedata.decomposition(char)
    if not decomposition.startswith("<fraction>"):
        return char
    over, _, under = "".join(chr(int(c, 16)) for c in decomposition.split()[1:]).partition("⁄")
    return rf"\frac{{{over}}}{{{under}}}" if under else char


def _repeating(number: re.Match[str]) -> str:
    """`0.1\\overline{6}` as (16 - 1)/90."""
    fixed, cycle = number[1] + number[2], number[3]
    return rf"\frac{{{fixed}{cycle}-{fixed or '0'}}}{{{'9' * len(cycle)}{'0' * len(number[2])}}}"


def plain(value: str) -> str | None:
    """The canonical digits of an integer or decimal of any length (`-$1,007.50` is `-1007.5`), or None."""
    match = _PLAIN.fullmatch(value)
    if match is None:
        return None
    integer, part = match[2].replace(",", "").lstrip("0") or "0", (match[3] or "").rstrip("0")
    digits = f"{integer}.{part}" if part else integer
    return f"-{digits}" if match[1] == "-" and digits != "0" else digits


def uncounted(value: str) -> str:
    """`value` without the words after its number: `762 M&Ms` becomes 762, and `5 or more` stays."""
    match = _COUNTED.fullmatch(_TEXT.sub(r" \1 ", value).strip())
    return match[1] if match else value


def known_side(value: str) -> str:
    """The value that an equation states: 15 of `3 + 12 = 15`, `x = 15`, `x = 3 + 12 = 15` and `15 = x`.

    Anything else is returned unchanged, such as `x + 3 = 18`, `y = 2x` or `x = 1, y = 2`.
    """
    sides = [side.strip() for side in _EQUALS.split(value)]
    if len(sides) > 1 and _NAME.fullmatch(sides[0]):
        sides = sides[1:]
    elif len(sides) > 1 and _NAME.fullmatch(sides[-1]):
        sides = sides[:-1]
    return sides[-1] if all(map(_KNOWN.fullmatch, sides)) else value


def words(value: str) -> list[str]:
    """The words of an answer in words: `\\text{an Ellipse}` is ["ellipse"], `two` is ["2"]. Otherwise []."""
    value = _TEXT.sub(r" \1 ", value).strip()
    if not _WORDS.fullmatch(value):
        return []
    value = _COMPOUND.sub(lambda m: str(_NUMBERS[m[1]] + _NUMBERS[m[2]]), value.lower())
    return [str(_NUMBERS.get(word, word)) for word in _NO_WORDS.sub(" ", value).split()]


def ascending(value: str) -> str | None:
    """A chain of inequalities with the smallest term first, without blanks; None for other values.

    `f(1) > f(2)` becomes `f(2)<f(1)`.
    """
    chain = _AT_LEAST.sub(">=", _AT_MOST.sub("<=", value)).replace(" ", "")
    relations = _RELATION.findall(chain)
    if not relations or len({relation[0] for relation in relations}) > 1:
        return None
    if relations[0][0] == "<":
        return chain
    terms = _RELATION.split(chain)[::-1]
    ends = [relation.replace(">", "<") for relation in relations[::-1]]
    return "".join(f"{term}{end}" for term, end in zip(terms, [*ends, ""], strict=True))


def interval(value: str) -> str:
    """`-2 \\le x < 7` as `[-2,7)`. Other values stay."""
    match = _BETWEEN.fullmatch(ascending(value) or "")
    if match is None:
        return value
    low, opened, closed, high = match.groups()
    return f"{'[' if opened == '<=' else '('}{low},{high}{']' if closed == '<=' else ')'}"


def measured(value: str) -> tuple[str, tuple[str, int], Fraction] | None:
    """The value, dimension and unit size of an answer with a known unit, or None."""
    value = _TEXT.sub(r" \1 ", value).strip()
    match = re.fullmatch(r"\\?(?=\$)()(\$)()(.*)", value) or _MEASURED.fullmatch(value)
    if match is None or (unit := _UNITS.get(match[2].lower())) is None:
        return None
    power = int(match[3].strip("^{}")) if match[3] else 1
    return match[match.lastindex or 1] if match[2] == "$" else match[1], (unit[0], power), unit[1] ** power
