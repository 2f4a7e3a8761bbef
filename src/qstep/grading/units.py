"""Units of measure: taking them off an answer and converting between those of one dimension."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """`factor` times the base unit of `dimension`; a counted noun is its own dimension."""

    dimension: str
    factor: Fraction


def _table() -> dict[str, Unit]:
    sizes: dict[str, dict[str, str]] = {
        "length": {
            "mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100",
            "m meter metre": "1", "dm decimeter decimetre": "1/10", "km kilometer kilometre": "1000",
            "in inch inche": "254/10000", "ft foot feet": "3048/10000", "yd yard": "9144/10000",
            "mi mile": "1609344/1000",
        },
        "mass": {
            "mg milligram": "1/1000", "g gram": "1", "kg kilogram": "1000",
            "oz ounce": "28349523125/1000000000", "lb pound": "45359237/100000", "t ton tonne": "1000000",
        },
        "time": {
            "ms millisecond": "1/1000", "s sec second": "1", "min minute": "60", "h hr hour": "3600",
            "day": "86400", "week": "604800", "month": "2629746", "year yr": "31556952",
        },
        "volume": {"ml milliliter millilitre": "1/1000", "l liter litre": "1"},
        "dollars": {"dollar usd ¤": "1", "cent ¢": "1/100"},
        "euros": {"euro eur €": "1"},
        "pounds sterling": {"£ gbp": "1"},
        "rupees": {"rupee rs inr ₹": "1"},
        "yen": {"yen jpy ¥": "1"},
        "angle": {"° degree deg": "1"},
        "percent": {"% percent": "1"},
        "speed": {
            "mph mi/h": "44704/100000", "km/h kmh kmph kph": "1000/3600", "m/s": "1",
        },
    }  # fmt: skip
    return {
        alias: Unit(dimension, Fraction(factor))
        for dimension, units in sizes.items()
        for aliases, factor in units.items()
        for alias in aliases.split()
    }


_UNITS = _table()
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_NOT_A_NOUN = frozenset(
    [
        "or", "and", "not", "but", "than", "if", "more", "less", "when", "where", "for", "to", "from",
        "is", "are", "was", "at", "least", "most", "no", "none", "either", "neither", "only", "about",
        "except", "mod", "base", "i", "pi", "e", "a", "the", "nan", "factorial", "choose", "sqrt",
        "sin", "cos", "tan", "log", "ln",
    ]
)  # fmt: skip
_NOUN = r"(?:[A-Za-zµ]+|[°%¤€£¥₹¢])(?:\s?\^\{?[23]\}?)?"
_LABEL = rf"{_NOUN}(?:(?:\s?/\s?|\s){_NOUN}){{0,4}}"
_TRAILING = re.compile(rf"(?P<body>.*?[\d)}}!])(?P<gap>\s*)(?P<unit>{_LABEL})\.?")
_SYMBOL_BODY = re.compile(rf"(?P<body>.*\\(?:pi|infty)(?![a-zA-Z]))(?P<gap>\s+)(?P<unit>{_LABEL})\.?")
_LEADING = re.compile(r"(?P<sign>[+-]?)\s*(?P<unit>[¤€£¥₹%]|(?:USD|Rs\.?|EUR)(?=[\s\d]))\s*(?P<body>[-\d.(\\].*)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_ABOUT = re.compile(
    r"\s*(?:\\approx|=|(?:approximately|about|roughly|exactly|around|nearly|a total of)(?![a-zA-Z]))\s*", re.I
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A normalised answer as (what is measured, its unit): `5 cm` is ("5", cm), `¤18` is ("18", dollars)."""
    if match := _ABOUT.match(text):
        text = text[match.end() :]
    leading = _LEADING.fullmatch(text)
    if leading is not None:
        body, _ = split_unit(leading["body"])
        return leading["sign"] + body, _unit(leading["unit"].rstrip("."))
    if len(text) > 400:
        return text, None
    match = _TRAILING.fullmatch(text) or _SYMBOL_BODY.fullmatch(text)
    if match is None:
        return text, None
    label = match["unit"]
    if not match["gap"] and len(label) == 1 and label.isalpha():
        return text, None  # `2k` is a product, `2 m` is a length
    unit = _unit(label)
    if unit is not None and unit.dimension == "angle" and _TRIGONOMETRY.search(text):
        return text, None  # `\\sin 30°` measures no angle
    return (text, None) if unit is None else (match["body"].strip(), unit)


def _unit(label: str) -> Unit | None:
    """The unit that words name, or None when they are no unit."""
    words = label.lower().replace("{", "").replace("}", "").replace("^ ", "^").split()
    if any(word in _NOT_A_NOUN for word in words):
        return None
    power = 1
    if len(words) > 1 and words[0] in _POWERS:
        power, words = _POWERS[words[0]], words[1:]
    elif len(words) > 1 and words[-1] in ("squared", "cubed"):
        power, words = {"squared": 2, "cubed": 3}[words[-1]], words[:-1]
    name = " ".join(words).replace(" / ", "/")
    if (exponent := re.fullmatch(r"(.*\S)\s*\^([23])", name)) is not None:
        name, power = exponent[1], int(exponent[2])
    name = name.replace("miles per hour", "mph").replace("kilometers per hour", "km/h")
    name = name.replace("meters per second", "m/s")
    if len(name) == 1 and name.isalpha() and name not in _UNITS:
        return None
    known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    if known is None:
        return Unit(f"of {name.removesuffix('s')}", Fraction(1))
    return Unit(f"{known.dimension}^{power}" if power > 1 else known.dimension, known.factor**power)
