"""When two answers are the same: the structure is compared here, plain numbers exactly, the rest by algebra.

`same` takes two normalised answers apart (lists, tuples, sets, intervals, unions, matrices, assignments,
relations, units) until what is left are numbers, words, or expressions. Only the expressions need algebra,
which is an argument: `NoAlgebra` answers what is cheap and certain and raises `NeedsAlgebra` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

from qstep.grading.notation import closes_at, is_prose, key, split_top
from qstep.grading.numeric import SCALES, Number, TooLarge, plain_decimal, read_number
from qstep.grading.units import Unit, split_unit

_MAX_ITEMS = 50

Relation = tuple[str, str, str]
"""Left side, operator, right side."""


class Algebra(Protocol):
    """What a computer algebra system must answer."""

    def equal(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal."""

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether (left, operator, right) hold for the same values of their variables."""


class NeedsAlgebra(Exception):
    """The answers differ in a way that only algebra can judge."""


class NoAlgebra:
    """Stands in where no algebra system may run."""

    def equal(self, gold: str, answer: str) -> bool:
        raise NeedsAlgebra

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        raise NeedsAlgebra


class Unreadable(Exception):
    """One of the two sides, `role`, is not mathematics that can be read."""

    def __init__(self, role: str, text: str) -> None:
        super().__init__(f"the {role} is not readable as mathematics: {text[:80]}")
        self.role = role


_COMMA = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|,\s*and(?![a-zA-Z])")
_OR = re.compile(r",|(?<![a-zA-Z\\])or(?![a-zA-Z])|\\lor(?![a-zA-Z])|\\text\{or\}")
_CUP = re.compile(r"\\cup(?![a-zA-Z])")
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|in|equiv|notin|subset|subseteq|to)(?![a-zA-Z])|[=<>]")
_MATRIX = re.compile(r"\\begin\s*\{([pbBvV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\s*\{\1\}", re.S)
_ANY_MATRIX = re.compile(r"\\(?:begin|end)\s*\{")
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-J])\s*\)?|([A-J])\s*[).:]\s+.*|\(([A-J])\)\s*.+",
    re.S | re.I,
)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?\.?\s*(?:m\.?)?", re.I)
_RATIO = re.compile(r"\s*:\s*|\s+to\s+")
_BASE = re.compile(r"(\(?)([0-9A-F]+)(\)?)_\{?\s*(\d{1,2}|[a-z]+)\s*\}?")
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)")
_EMPTY = re.compile(
    r"\\emptyset|\\\{\s*\\\}|(?:the )?empty set|(?:there (?:is|are) )?no (?:real )?solutions?",
    re.I,
)
_REALS = re.compile(r"\\mathbb\s*\{R\}|\\mathbb\s*R|(?:all )?real numbers|all reals|R", re.I)
_LABEL = re.compile(
    r"(?:\\?[a-zA-Z]+\s*)(?:_(?:\{[^{}]*\}|\w))?'*(?:\s*\([a-zA-Z0-9, ]*\))?"
    r"|m?\s*\\angle\s*[A-Z]+|\|?[A-Z]{2,4}\|?|[A-Za-z][A-Za-z ,'-]*"
)
_SYMBOL = re.compile(r"(\\?[a-zA-Z]+)(?:_(?:\{[^{}]*\}|\w))?")
_ARTICLES = re.compile(r"\b(?:the|a|an)\b|[^\w\s+-]")
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def same(gold: str, answer: str, algebra: Algebra) -> bool:
    """Whether two normalised answers are the same answer.

    Raises TooLarge when a number exceeds the bounds, Unreadable when algebra cannot parse a side, and
    whatever `algebra` raises.
    """
    if key(gold) == key(answer):
        return bool(key(gold))
    for rule in (_plain, _measured, _choice, _clock, _base, _empty, _matrices, _relations, _structures):
        verdict = rule(gold, answer, algebra)
        if verdict is not None:
            return verdict
    if is_prose(gold) or is_prose(answer):
        return _words(gold) == _words(answer)
    return algebra.equal(gold, answer)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower()).split()


def _plain(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Integers and decimals of any length, compared as digits."""
    a, b = plain_decimal(gold), plain_decimal(answer)
    return a == b if a is not None and b is not None else None


def _measured(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Numbers and expressions with or without units; a missing unit is forgiven, a different one is not."""
    (body_a, unit_a), (body_b, unit_b) = _quantity(gold), _quantity(answer)
    a, b = read_number(body_a), read_number(body_b)
    if a is not None and b is not None:
        return _equal_quantities(a, unit_a, b, unit_b)
    for text, number in ((gold, b), (answer, a)):
        match = _DECIMAL_COMMA.fullmatch(text)
        if match and number is not None and (match[1].lstrip("+-") == "0" or isinstance(number, Fraction)):
            return read_number(f"{match[1]}.{match[2]}") == number
    if unit_a is None and unit_b is None:
        return None
    if unit_a is not None and unit_b is not None:
        if unit_a.dimension != unit_b.dimension:
            return False
        if unit_a.factor != unit_b.factor:
            body_a, body_b = (_scaled(body, u.factor) for body, u in ((body_a, unit_a), (body_b, unit_b)))
    return same(body_a, body_b, algebra)


def _scaled(body: str, factor: Fraction) -> str:
    return rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}\cdot ({body})"


def _quantity(text: str) -> tuple[str, Unit | None]:
    text = re.sub(r"\s*\([A-Za-z -]+\)$", "", text)  # `8 (eight)`
    body, unit = split_unit(text)
    head, _, scale = text.rpartition(" ")
    if head and scale.lower() in SCALES and plain_decimal(head) is not None:
        return rf"{head}\cdot {SCALES[scale.lower()]}", None
    if unit is not None and (words := unit.dimension.removeprefix("of ").split())[0] in SCALES:
        rest = " ".join(words[1:])
        return rf"{body}\cdot {SCALES[words[0]]}", split_unit(f"1 {rest}")[1] if rest else None
    if unit is None and text[:1].isalpha():
        number, _, noun = text.rpartition(" ")
        if number and read_number(text) is None and read_number(number) is not None:
            return number, split_unit(f"1 {noun}")[1]
    return body, unit


def _equal_quantities(a: Number, unit_a: Unit | None, b: Number, unit_b: Unit | None) -> bool:
    percent_a, percent_b = (u is not None and u.dimension == "percent" for u in (unit_a, unit_b))
    if percent_a != percent_b and (unit_a is None or unit_b is None):
        part, whole = (a, b) if percent_a else (b, a)
        return part == whole or (isinstance(part, Fraction) and part / 100 == whole)
    if unit_a is not None and unit_b is not None:
        if unit_a.dimension != unit_b.dimension:
            return False
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a * unit_a.factor == b * unit_b.factor
        return a == b and unit_a.factor == unit_b.factor
    return a == b


def _choice(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """A lettered choice: `C`, `(C)`, `c`, `C) 8`, `option C`."""
    if re.fullmatch(r"\(?[A-J]\)?", gold) is None:
        return None
    match = _CHOICE.fullmatch(answer)
    return gold.strip("()") == next(filter(None, match.groups())).upper() if match else None


def _clock(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Times of day and ratios."""
    a, b = _TIME.fullmatch(gold), _TIME.fullmatch(answer)
    if a and b:
        half_a, half_b = (a[4] or "").lower(), (b[4] or "").lower()
        return a.groups()[:3] == b.groups()[:3] and (not half_a or not half_b or half_a == half_b)
    parts_a, parts_b = (split_top(text, _RATIO)[0] for text in (gold, answer))
    if sorted([len(parts_a), len(parts_b)]) == [1, 2]:  # a ratio against a fraction
        values = [read_number(part) for part in parts_a + parts_b]
        if all(isinstance(value, Fraction) for value in values):
            return read_number("/".join(f"({part})" for part in parts_a)) == read_number(
                "/".join(f"({part})" for part in parts_b)
            )
    if (len(parts_a) == 1 and len(parts_b) == 1) or is_prose(gold) or is_prose(answer):
        return None
    return len(parts_a) == len(parts_b) and all(same(x, y, algebra) for x, y in zip(parts_a, parts_b, strict=True))


def _base(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Numerals of a stated base: the same digits, and the same base where both state one."""
    a, b = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if a is None and b is None:
        return None
    digits_a, digits_b = (m[2] if m else text for m, text in ((a, gold), (b, answer)))
    return digits_a == digits_b and (a is None or b is None or read_number(a[4]) == read_number(b[4]))


def _empty(gold: str, answer: str, algebra: Algebra) -> bool | None:
    a, b = _EMPTY.fullmatch(gold), _EMPTY.fullmatch(answer)
    if a is None and b is None:
        return None
    return a is not None and b is not None


def _matrices(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Matrices entry by entry; a single row or column is also the tuple of its entries."""
    a, b = _matrix(gold), _matrix(answer)
    if a is None and b is None:
        if _ANY_MATRIX.search(gold) and _ANY_MATRIX.search(answer):
            return None
        return False if _ANY_MATRIX.search(gold) or _ANY_MATRIX.search(answer) else None
    if a is not None and b is not None:
        if [len(row) for row in a] != [len(row) for row in b]:
            return False
        return _in_order([x for row in a for x in row], [x for row in b for x in row], algebra)
    matrix, other = (a, answer) if a is not None else (b, gold)
    assert matrix is not None
    entries = [row[0] for row in matrix] if all(len(row) == 1 for row in matrix) else matrix[0]
    brackets = _bracketed(other)
    if brackets is None or len(entries) != sum(map(len, matrix)):
        return False
    items = brackets[1]
    return _in_order(entries, items, algebra) if a is not None else _in_order(items, entries, algebra)


def _matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match is not None:
        rows = [row for row in match[2].split(r"\\") if row.strip()]
        return [[entry.strip() for entry in row.split("&")] for row in rows]
    outer = _bracketed(text)
    if outer is None or outer[0] not in ("[]", "()"):
        return None
    if len(outer[1]) == 1:
        return _matrix(outer[1][0])
    rows_in = [_bracketed(item) for item in outer[1]]
    return [row[1] for row in rows_in if row] if all(row and row[0] == "[]" for row in rows_in) else None


def _bracketed(text: str) -> tuple[str, list[str]] | None:
    """`(1,2]` as ("(]", ["1", "2"]), `\\{1,2\\}` as ("{}", ...); None unless one pair encloses everything."""
    opener = 1 if text.startswith(r"\{") else 0
    if not text or text[opener] not in "([{" or closes_at(text, opener) != len(text) - 1:
        return None
    inner = text[opener + 1 : -1].removesuffix("\\") if opener else text[1:-1]
    return text[opener] + text[-1], split_top(inner.strip(), _COMMA)[0]


def _in_order(gold: list[str], answer: list[str], algebra: Algebra) -> bool:
    return len(gold) == len(answer) and all(same(x, y, algebra) for x, y in zip(gold, answer, strict=True))


def _any_order(gold: list[str], answer: list[str], equal: Callable[[str, str], bool]) -> bool:
    """Whether the items match one to one; the literally equal ones are paired first."""
    if len(gold) != len(answer):
        return False
    if len(gold) > _MAX_ITEMS:
        raise TooLarge(f"a collection of more than {_MAX_ITEMS} items")
    left, keys = list(answer), [key(item) for item in answer]
    unmatched = []
    for item in gold:
        if key(item) in keys:
            at = keys.index(key(item))
            del left[at], keys[at]
        else:
            unmatched.append(item)
    for item in unmatched:
        twin = next((other for other in left if equal(item, other)), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _relations(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Equations, named values, memberships and inequalities."""
    assigned = _assignments(gold), _assignments(answer)
    if assigned != (None, None):
        verdict = _compare_assignments(gold, answer, *assigned, algebra)
        if verdict is not None:
            return verdict
    (a, ops_a), (b, ops_b) = split_top(gold, _RELATION), split_top(answer, _RELATION)
    if not ops_a and not ops_b:
        return None
    region_a, region_b = _region(gold), _region(answer)
    if region_a and region_b:
        if region_a[0] and region_b[0] and region_a[0] != region_b[0]:
            return False
        return same(region_a[1], region_b[1], algebra)
    if region_a or region_b:
        named, other = (region_a, answer) if region_a else (region_b, gold)
        assert named is not None
        if not (ops_b if region_a else ops_a):
            return same(named[1], other, algebra) if region_a else same(other, named[1], algebra)
    ops_a, ops_b = (["=" if op == r"\approx" else op for op in ops] for ops in (ops_a, ops_b))
    if set(ops_a) <= {"="} and set(ops_b) <= {"="}:
        return _equations(a, b, algebra)
    if len(ops_a) != 1 or len(ops_b) != 1:
        return False
    return algebra.same_relation((a[0], ops_a[0], a[1]), (b[0], ops_b[0], b[1]))


def _equations(a: list[str], b: list[str], algebra: Algebra) -> bool:
    values_a, values_b = _values(a), _values(b)
    if len(b) == 1:
        return bool(values_a) and all(same(value, b[0], algebra) for value in values_a)
    if len(a) == 1:
        return bool(values_b) and all(same(a[0], value, algebra) for value in values_b)
    labels_a, labels_b = ([key(side) for side in sides[:1] if _is_name(side)] for sides in (a, b))
    if labels_a and labels_b:
        if labels_a == labels_b or any(is_prose(side) or "(" in side for side in (a[0], b[0])):
            return same(a[-1], b[-1], algebra)
        if not (_free_letters(a[-1]) or _free_letters(b[-1])):
            return False
    if len(a) != 2 or len(b) != 2:
        return False
    return algebra.same_relation((a[0], "=", a[1]), (b[0], "=", b[1]))


def _free_letters(text: str) -> bool:
    return re.search(r"(?<![a-zA-Z\\])[a-zA-Z]", text) is not None


def _values(sides: list[str]) -> list[str]:
    """The sides of a chain of equations that state a value rather than name it."""
    if len(sides) == 1:
        return sides
    return [side for side in sides if not _is_name(side)] or sides[-1:]


def _is_name(side: str) -> bool:
    """`x`, `f(x)`, `Area`, `x + y`: what is asked for. `3x + 4y + 14` is not a name."""
    if _LABEL.fullmatch(side.strip()):
        return not re.fullmatch(r"\\(?:pi|infty)|[ei]|-?\\infty", side.strip())
    without_powers = re.sub(r"[\^_](?:\{[^{}]*\}|\w)", "", side)
    return _free_letters(without_powers) and re.search(r"\d", without_powers) is None


Assignments = list[tuple[str, str]]


def _assignments(text: str) -> Assignments | None:
    """`x=1, y=2` as [("x", "1"), ("y", "2")]; None when it is not a list of two or more assignments."""
    brackets = _bracketed(text)
    items = brackets[1] if brackets else split_top(text, _COMMA)[0]
    items = [item for item in items if item]
    pairs = []
    for item in items:
        sides, ops = split_top(item, _RELATION)
        if ops != ["="] or not _SYMBOL.fullmatch(sides[0]):
            return None
        pairs.append((key(sides[0]), sides[1]))
    return pairs if len(pairs) > 1 else None


def _compare_assignments(
    gold: str, answer: str, a: Assignments | None, b: Assignments | None, algebra: Algebra
) -> bool | None:
    if a and b:
        by_name = len({name for name, _ in a}) == len(a)
        if by_name and {name for name, _ in a} == {name for name, _ in b} and len(a) == len(b):
            other = dict(b)
            return all(same(value, other[name], algebra) for name, value in a)
        return {name for name, _ in a} == {name for name, _ in b} and _any_order(
            [v for _, v in a], [v for _, v in b], lambda x, y: same(x, y, algebra)
        )
    pairs, text = (a, answer) if a else (b, gold)
    assert pairs is not None
    if split_top(text, _RELATION)[1]:
        return False
    values = [value for _, value in sorted(pairs)]
    letters = {name.partition("_")[0] for name, _ in pairs}
    joined = ",".join([v for _, v in pairs] if len(letters) == 1 else values)
    tupled = joined if len(letters) == 1 else f"({joined})"
    return same(tupled, text, algebra) if a else same(text, tupled, algebra)


def _region(text: str) -> tuple[str, str] | None:
    """A membership or one-variable inequality as (variable, its set): `1<x\\le 2` is ("x", "(1,2]")."""
    pieces, separators = split_top(text, _OR)
    if separators and len(pieces) <= _MAX_ITEMS:
        regions = [_region(piece) for piece in pieces]
        if any(region is None for region in regions):
            return None
        found = [region for region in regions if region is not None]
        names = {name for name, _ in found}
        return (names.pop(), r"\cup ".join(r for _, r in found)) if len(names) == 1 else None
    sides, ops = split_top(text, _RELATION)
    if len(sides) == 2 and ops == [r"\in"] and _SYMBOL.fullmatch(sides[0]):
        return key(sides[0]), sides[1]
    if not ops or any(op not in FLIPPED and op != r"\ne" for op in ops):
        return None
    if len(sides) == 2:
        left, op, right = sides[0], ops[0], sides[1]
        if _SYMBOL.fullmatch(right) and not _SYMBOL.fullmatch(left):
            left, op, right = right, FLIPPED.get(op, op), left
        if not _SYMBOL.fullmatch(left) or left.startswith(r"\pi") or _free_letters(right) or not right:
            return None
        if op == r"\ne":
            return key(left), rf"(-\infty,{right})\cup ({right},\infty)"
        closed = op in (r"\le", r"\ge")
        if op in ("<", r"\le"):
            return key(left), rf"(-\infty,{right}{']' if closed else ')'}"
        return key(left), rf"{'[' if closed else '('}{right},\infty)"
    if len(sides) == 3 and _SYMBOL.fullmatch(sides[1]) and r"\ne" not in ops:
        low, high = sides[0], sides[2]
        up = [op in ("<", r"\le") for op in ops]
        if up[0] != up[1] or _free_letters(low) or _free_letters(high):
            return None
        if not up[0]:
            low, high, ops = high, low, [FLIPPED[op] for op in reversed(ops)]
        opened, closed_ = ("[" if ops[0] == r"\le" else "("), ("]" if ops[1] == r"\le" else ")")
        return key(sides[1]), f"{opened}{low},{high}{closed_}"
    return None


def _structures(gold: str, answer: str, algebra: Algebra) -> bool | None:
    """Unions, sets, tuples, intervals and lists."""
    gold, answer = _standard_sets(gold), _standard_sets(answer)
    if key(gold) == key(answer):
        return True

    def equal(x: str, y: str) -> bool:
        return same(x, y, algebra)

    pieces_a, cups_a = split_top(gold, _CUP)
    pieces_b, cups_b = split_top(answer, _CUP)
    if cups_a or cups_b:
        return _any_order(pieces_a, pieces_b, equal)
    a, b = _collection(gold), _collection(answer)
    if a is None or b is None:
        if a is None and b is None:
            return None
        kind, items = a or b or ("", [])
        if kind in ("()", "[]") and len(items) == 1:
            return None if kind == "()" else False
        return False if kind != "{}" or len(items) != 1 else _in_order(*_pair(a, b, gold, answer), algebra)
    (kind_a, items_a), (kind_b, items_b) = a, b
    if kind_a in ("()", "[]") and kind_b == kind_a and len(items_a) == 1 and len(items_b) == 1:
        return None if kind_a == "()" else same(items_a[0], items_b[0], algebra)
    if kind_a in ("", "{}") and kind_b in ("", "{}"):
        if "{}" in (kind_a, kind_b):
            items_a, items_b = _distinct(items_a), _distinct(items_b)
        return _any_order(items_a, items_b, equal)
    if "{}" in (kind_a, kind_b):
        return False
    if "" not in (kind_a, kind_b) and kind_a != kind_b and max(len(items_a), len(items_b)) <= 2:
        return False
    return _in_order(items_a, items_b, algebra)


def _pair(
    a: tuple[str, list[str]] | None, b: tuple[str, list[str]] | None, gold: str, answer: str
) -> tuple[list[str], list[str]]:
    return (a[1] if a else [gold]), (b[1] if b else [answer])


def _distinct(items: list[str]) -> list[str]:
    return list({key(item): item for item in items}.values())


def _standard_sets(text: str) -> str:
    if _REALS.fullmatch(text):
        return r"(-\infty,\infty)"
    if match := re.fullmatch(r"([\[\]])([^\[\]()]*)([\[\]])", text):
        opened = {"]": "(", "[": "["}[match[1]]
        closed = {"[": ")", "]": "]"}[match[3]]
        text = f"{opened}{match[2]}{closed}"
    text = text.replace(r"+\infty", r"\infty")
    text = re.sub(r"\\infty\s*\]", r"\\infty)", text)
    return re.sub(r"\[\s*-\s*\\infty", r"(-\\infty", text)


def _collection(text: str) -> tuple[str, list[str]] | None:
    """(its brackets or "" for a bare list, its items), plus-minus written out; None for a single thing."""
    brackets = _bracketed(text)
    if brackets is None:
        kind, items = "", split_top(text, _COMMA)[0]
    else:
        kind, items = brackets
    items = [side for item in items if item for side in _both_signs(item)]
    return (kind, items) if len(items) > 1 or kind in ("{}", "()", "[]") else None


def _both_signs(item: str) -> list[str]:
    if item.count(r"\pm") != 1:
        return [item]
    head, _, tail = item.partition(r"\pm")
    return [
        f"{head.strip()}+{tail.strip()}" if head.strip() else tail.strip(),
        f"{head.strip()}-{tail.strip()}",
    ]
