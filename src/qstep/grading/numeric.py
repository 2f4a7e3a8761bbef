"""Exact numbers read from text, with bounds no input can make us exceed.

The reader is a recursive descent over digits, `+ - \\cdot / ^ !`, `\\frac`, brackets and mixed numbers,
with repeating decimals and number words beside it. A value is a `Fraction` while its numerator and
denominator stay below `_MAX_BITS`; beyond that, powers and products stay in factored form (`9^{9^9}` is {3:
774840978}) and everything else is `TooLarge`. Nothing is ever evaluated that could take more than a few
milliseconds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_BITS = 1 << 15
_MAX_DIGITS = 4000
_MAX_FACTORIAL = 2500
_MAX_TOKENS = 200
_MAX_DEPTH = 40
_SMALL_PRIME_LIMIT = 1000
_MAX_FACTORED_BITS = 256


class TooLarge(Exception):
    """The text denotes a number beyond the bounds of exact comparison."""


@dataclass(frozen=True)
class Huge:
    """sign * product of prime ** exponent, where the product itself is too large to write out."""

    sign: int
    exponents: tuple[tuple[int, int], ...]


Number = Fraction | Huge

_PLAIN = re.compile(r"([+-]?)\s*(?:¤\s*)?(\d*)(?:\.(\d*))?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+|(?:'\d{3})+|(?:_\d{3})+)(?:\.\d+)?(?![\d,])")
_EUROPEAN = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?|[+-]?\d{1,3}(?:\.\d{3}){2,}")
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))[eE]([+-]?\d{1,5})")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)(?:\\overline\s*\{(\d+)\}|\\bar\s*\{(\d+)\}|\\dot\s*\{(\d)\})")
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\\frac|\\cdot|[-+/^!(){}\[\]])|x(?=\s*10\s*\^))")
_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8}


def plain_decimal(text: str) -> str | None:
    """The canonical digits of an integer or decimal of any length (`-007.50` is `-7.5`), else None."""
    text = ungroup(text)
    match = _PLAIN.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    whole, part = match[2].lstrip("0") or "0", (match[3] or "").rstrip("0")
    digits = f"{whole}.{part}" if part else whole
    return f"-{digits}" if match[1] == "-" and digits != "0" else digits


def ungroup(text: str) -> str:
    """`text` without separators between groups of thousands."""
    if _GROUPED.fullmatch(text):
        return re.sub(r"[,' _]", "", text)
    if _EUROPEAN.fullmatch(text) and ("," in text or text.count(".") > 1):
        return text.replace(".", "").replace(",", ".")
    return text


def read_number(text: str) -> Number | None:
    """The exact value of a normalised numeric text, or None when it is not one.

    Raises TooLarge where the value exists but lies beyond the bounds.
    """
    text = ungroup(text.strip())
    if len(text) > _MAX_DIGITS:
        if plain_decimal(text) is not None:
            raise TooLarge("a number of more than 4000 digits")
        return None
    if match := _SCIENTIFIC.fullmatch(text):
        return _times(Fraction(match[1]), _power(Fraction(10), Fraction(int(match[2]))))
    if match := _REPEATING.fullmatch(text):
        return _repeating(match)
    if text[:1].isalpha():
        return _words(text.lower())
    tokens = _tokens(text)
    if not tokens:
        return None
    reader = _Reader(tokens)
    try:
        value = reader.sum(0)
    except (_NotANumber, ZeroDivisionError):
        return None
    return value if reader.done() else None


def _repeating(match: re.Match[str]) -> Fraction:
    sign, whole, fixed, cycle = match[1], match[2] or "0", match[3], match[4] or match[5] or match[6]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value


def _words(text: str) -> Fraction | None:
    """`twenty-one`, `three hundred and five`, `two thirds`, `one half`."""
    words = [w for w in re.split(r"[\s-]+", text) if w != "and"]
    if not words or len(words) > 12:
        return None
    under = 1
    if (part := words[-1].removesuffix("s") if words[-1] != "halves" else "half") in _PARTS:
        under, words = _PARTS[part], words[:-1]
        words = ["one"] if words in ([], ["a"], ["one"]) else words
    total = group = 0
    for word in words:
        if word in _WORDS:
            group += _WORDS[word]
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in SCALES:
            total, group = total + (group or 1) * SCALES[word], 0
        else:
            return None
    return Fraction(total + group, under)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return []
        tokens.append(match[1] or match[2] or r"\cdot")
        at = match.end()
        if len(tokens) > _MAX_TOKENS:
            raise TooLarge(f"a calculation of more than {_MAX_TOKENS} terms")
    return tokens


class _NotANumber(Exception):
    pass


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def done(self) -> bool:
        return self.at == len(self.tokens)

    def sum(self, depth: int) -> Number:
        if depth > _MAX_DEPTH:
            raise TooLarge(f"a calculation nested more than {_MAX_DEPTH} deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.product(depth)
            value = _plus(value, _times(Fraction(-1), term) if sign == "-" else term)
        return value

    def product(self, depth: int) -> Number:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        value = self.factor(depth)
        while (token := self.peek()) in (r"\cdot", "/", "(", r"\frac") or token[:1].isdigit():
            if token in (r"\cdot", "/"):
                self.take()
                factor = self.signed_factor(depth)
                value = _times(value, factor if token == r"\cdot" else _power(factor, Fraction(-1)))
            else:
                value = self.next_to(value, depth)
        return _times(Fraction(sign), value)

    def next_to(self, value: Number, depth: int) -> Number:
        """What two numbers side by side mean: `3 1/2` and `3\\frac{1}{2}` are mixed, `2(3)` is a product."""
        before = self.tokens[self.at - 1]
        if self.peek() == "(":
            return _times(value, self.factor(depth))
        whole = before.isdigit() and isinstance(value, Fraction) and value.denominator == 1
        if not whole or (self.at - 2 >= 0 and self.tokens[self.at - 2] not in ("-", "+", "(", "{")):
            raise _NotANumber
        if self.peek() != r"\frac":
            if self.tokens[self.at + 1 : self.at + 2] != ["/"] or not self.peek().isdigit():
                raise _NotANumber
            over, _, under = self.take(), self.take(), self.take()
            if not under.isdigit():
                raise _NotANumber
            return _plus(value, Fraction(int(over), int(under)))
        return _plus(value, self.factor(depth))

    def signed_factor(self, depth: int) -> Number:
        if self.peek() == "-":
            self.take()
            return _times(Fraction(-1), self.factor(depth))
        return self.factor(depth)

    def factor(self, depth: int) -> Number:
        base = self.atom(depth)
        while self.peek() == "!":
            self.take()
            base = _factorial(base)
        if self.peek() == "^":
            self.take()
            sign = -1 if self.peek() == "-" else 1
            if sign < 0:
                self.take()
            if depth > _MAX_DEPTH:
                raise TooLarge(f"a calculation nested more than {_MAX_DEPTH} deep")
            return _power(base, _times(Fraction(sign), self.factor(depth + 1)))
        return base

    def atom(self, depth: int) -> Number:
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            return Fraction(token.rstrip(".") if token != "." else "0")
        if token == r"\frac":
            over = self.atom(depth + 1)
            return _times(over, _power(self.atom(depth + 1), Fraction(-1)))
        if token in ("(", "{"):
            value = self.sum(depth + 1)
            if self.take() != {"(": ")", "{": "}"}[token]:
                raise _NotANumber
            return value
        raise _NotANumber


def _plus(a: Number, b: Number) -> Number:
    if isinstance(a, Huge) or isinstance(b, Huge):
        raise TooLarge("a sum with a term too large to write out")
    return _checked(a + b)


def _times(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _checked(a * b)
    if a == 0 or b == 0:
        return Fraction(0)
    (sign_a, factors_a), (sign_b, factors_b) = _factored(a), _factored(b)
    merged = {p: factors_a.get(p, 0) + factors_b.get(p, 0) for p in factors_a.keys() | factors_b.keys()}
    return _from_factors(sign_a * sign_b, merged)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Huge):
        raise TooLarge("an exponent too large to write out")
    if exponent.denominator != 1:
        raise _NotANumber
    n = exponent.numerator
    if n.bit_length() > 64:
        raise TooLarge("an exponent of more than 64 bits")
    if isinstance(base, Fraction):
        if base in (0, 1):
            return base**n
        if abs(n) * _bits(base) <= _MAX_BITS:
            return base**n
    sign, factors = _factored(base)
    return _from_factors(sign if n % 2 else 1, {p: e * n for p, e in factors.items()})


def _factorial(value: Number) -> Fraction:
    if isinstance(value, Huge) or value > _MAX_FACTORIAL:
        raise TooLarge("a factorial too large to write out")
    if value.denominator != 1 or value < 0:
        raise _NotANumber
    return Fraction(math.factorial(value.numerator))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _checked(value: Fraction) -> Fraction:
    if _bits(value) > _MAX_BITS:
        raise TooLarge(f"a number of more than {_MAX_BITS} bits")
    return value


def _factored(value: Number) -> tuple[int, dict[int, int]]:
    if isinstance(value, Huge):
        return value.sign, dict(value.exponents)
    factors = _prime_factors(abs(value.numerator))
    for prime, exponent in _prime_factors(value.denominator).items():
        factors[prime] = -exponent
    return (-1 if value < 0 else 1), factors


def _prime_factors(n: int) -> dict[int, int]:
    if n.bit_length() > _MAX_FACTORED_BITS:
        raise TooLarge("a power of a number that is itself too large")
    factors: dict[int, int] = {}
    for divisor in range(2, _SMALL_PRIME_LIMIT):
        while n % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            n //= divisor
    if n >= _SMALL_PRIME_LIMIT**2:
        raise TooLarge("a power of a number with large prime factors")
    return factors | ({n: 1} if n > 1 else {})


def _from_factors(sign: int, factors: dict[int, int]) -> Number:
    factors = {p: e for p, e in factors.items() if e}
    if sum(abs(e) * p.bit_length() for p, e in factors.items()) > _MAX_BITS:
        return Huge(sign, tuple(sorted(factors.items())))
    value = Fraction(sign)
    for prime, exponent in factors.items():
        value *= Fraction(prime) ** exponent
    return value
