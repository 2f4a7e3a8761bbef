"""The verdict on an answer (right, wrong or ungradable), and whether two answers are equivalent."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from qstep.grading.extraction import prose, statement, undelimited
from qstep.grading.pool import pool
from qstep.grading.rules import ALL, Rules
from qstep.grading.spelling import ascending, interval, known_side, measured, plain, respelled, uncounted, words
from qstep.types import Verdict

_MAX_RESPONSE = 500_000
_MAX_ALGEBRA = 2_000
_MAX_DEPTH = 30
_CHOICE = re.compile(r"(?:option|choice)?\s*\(?([A-J])(?:\)|[).:]\s.*)?", re.I | re.S)
_LETTERED = re.compile(
    r"\\(?:text\w*|math(?:rm|bf))\s*\{\s*(\([A-J]\)|[A-J][).:]|[A-J](?=\s*\}))\s*(?:\}\s*(.*)|(.*)\})", re.S
)
_INTERVAL = re.compile(r"(?:\\left)?\s*[\[(].*,.*[\])]$")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_UNKNOWN = re.compile(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z(])")
_OPERATION = re.compile(r"[-+*/]|\\(?:cdot|times|frac)")
_BASE = re.compile(r"\(?([0-9A-F]+)\)?_\{?(?:\\text\{)?(\w+)\}{0,2}")
# What takes too long to compute: towers of powers, factorials of factorials or of large numbers, too many digits.
_HOPELESS = re.compile(
    r"(?:[\d)}]\s*(?:\^|\*\*)\s*[{(]*\s*){3}\d|!\s*\)?\s*!|(?:\d{4}|\^[^()!]{1,40}\))\s*\)?\s*!|\d{1001}|\\(?:sum|prod|binom)[^=]*=?.{0,40}\d{5}"
    r"|(?:\^|\*\*)\s*[{(]*\d+\s*(?:\^|\*\*)\s*[{(]*\d{2}"
)


@dataclass(frozen=True)
class Grade:
    """A verdict, its reason, and the final answer that was found in the response (None if there was none).

    `reward` is the reward of the response if it is not simply 1 for right and 0 for wrong.
    """

    verdict: Verdict
    reason: str
    answer: str | None
    reward: float | None = None


def grade(gold: str, answer: str, *, deadline_s: float = 3.0) -> Grade:
    """Grades one response, or bare answer, against the gold answer.

    Numbers in digits and words are compared in this process. Other answers go to math-verify in a process that is
    killed at the deadline. It can be called from any thread.

    The first answer for math-verify waits some seconds until such a process has started. `warm_up` starts the
    processes beforehand.

    Args:
        gold: the reference answer, such as `42` or `\\frac{1}{2}`. A box or `####` around it is removed.
        answer: the response of the model, or its final answer.
        deadline_s: seconds of algebra after which the answer is ungradable. Time in the queue does not count.

    Raises:
        ValueError: the deadline is not positive.
        TypeError: the gold or the answer is not a string.
        RuntimeError: the grading process cannot start.
    """
    return grade_by(ALL, gold, answer, deadline_s)


def grade_many(pairs: Iterable[tuple[str, str]], *, deadline_s: float = 3.0, workers: int | None = None) -> list[Grade]:
    """Grades several pairs (gold, answer) in parallel, and returns the grades in their order.

    Args:
        pairs: (gold, answer) as for `grade`.
        deadline_s: seconds of algebra for each answer; time in the queue does not count.
        workers: maximum number of grading processes at once. None means the number of cores that this process may
            use, but at most 32.
    """
    count = workers if workers is not None else pool().size
    if count < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    pool().grow(count)
    with ThreadPoolExecutor(count, thread_name_prefix="grade") as threads:
        return list(threads.map(lambda pair: grade(*pair, deadline_s=deadline_s), pairs))


def warm_up(workers: int | None = None) -> None:
    """Starts the grading processes, so that the first `grade` does not wait for one.

    Args:
        workers: the number of processes. None means as many as `grade_many` uses.

    Raises:
        RuntimeError: a process cannot start.
    """
    pool().start(pool().size if workers is None else workers)


def equivalent(a: str, b: str, *, deadline_s: float = 3.0) -> bool:
    """Whether two extracted answers are equivalent; False if that cannot be decided.

    An equation with one known side counts as that side: `3 + 12 = 15` and `x = 15` are 15.
    """
    _check_strings(a=a, b=b)
    a, b = known_side(a), known_side(b)
    if "=" in a and "=" not in b:  # math-verify reads the last side of an equation only in the second one
        a, b = b, a
    return _compared(ALL, a, b, True, deadline_s).verdict == "right"


def extract_answer(text: str) -> str | None:
    """The final answer in `text`, a response or a bare answer; None if there is none."""
    _check_strings(text=text)
    found = statement(text[-_MAX_RESPONSE:], ALL)
    if found is None:
        return None
    if found.is_value:
        return found.text
    return _asked(ALL, None, found.text, False, 3.0).answer


def grade_by(rules: Rules, gold: str, answer: str, deadline_s: float) -> Grade:
    """`grade` with only some families of rules, for measuring the effect of each."""
    _check_strings(gold=gold, answer=answer)
    if not deadline_s > 0:
        raise ValueError(f"deadline_s is {deadline_s}; it must be positive")
    if len(answer) > _MAX_RESPONSE or len(gold) > _MAX_RESPONSE:
        return Grade("ungradable", f"longer than {_MAX_RESPONSE} characters", None)
    own_text = gold.strip()
    if any(mark in gold for mark in (r"\boxed", r"\fbox", "####")):
        marked = statement(gold, ALL)
        gold = marked.text if marked else ""
    gold = undelimited(gold.strip())
    if not gold:
        return Grade("ungradable", "the gold answer is empty", None)
    if answer.strip() == own_text:
        return Grade("right", "identical text", gold)
    found = statement(answer, rules, in_words="words" in rules and _is_name(gold))
    if found is None:
        return Grade("wrong", "no final answer found", None)
    return _compared(rules, gold, found.text, found.is_value, deadline_s)


def _check_strings(**values: Any) -> None:
    """Raises TypeError, which names the argument, for values that are not strings: 42 and 42.0 would differ."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, but it must be a string, such as '42'")


def _compared(rules: Rules, gold: str, text: str, is_value: bool, deadline_s: float) -> Grade:
    """The verdict on a final answer, or on prose with one. Cheap comparisons happen here, others in the workers."""
    if is_value and gold == text:
        return Grade("right", "identical text", text)
    a, b = gold, text
    same = _same_digits(a, b) if is_value else None
    if same is None and len(gold) + (len(text) if is_value else 0) > _MAX_ALGEBRA:
        return Grade("ungradable", f"answers of more than {_MAX_ALGEBRA} characters", text if is_value else None)
    if same is None and "spelling" in rules:
        a, b = respelled(gold), respelled(text) if is_value else text
        a, b = (interval(a) if _INTERVAL.match(b) else a), (interval(b) if _INTERVAL.match(a) else b)
    if same is None and is_value and "units" in rules:
        a, b, same = _converted(a, b)
    if same is None and is_value and "words" in rules:
        if lettered := _LETTERED.fullmatch(b):  # a box with the letter of a choice and its text: \textbf{(C)}\ 12
            b = lettered[1].strip("().:") if _is_letter(a) else lettered[2] or lettered[3] or b
        a, b = uncounted(a), uncounted(b)
        same = _same_words(a, b)
    if same is None and is_value:
        same = _same_digits(a, b)
    if same is not None:
        return Grade("right" if same else "wrong", "the same" if same else "different", text)
    if "exact" in rules and (_hopeless(a) or (is_value and _hopeless(b))):
        return Grade("ungradable", "too large to compute", text if is_value else None)
    found = _asked(rules, a, b, is_value, deadline_s)
    stated = text if is_value else found.answer
    if found.verdict == "right" and "=" not in (stated or "") and _relates_unknowns(a):
        return Grade("wrong", "the gold answer is an equation", stated)
    return Grade(found.verdict, found.reason, stated)


def _asked(rules: Rules, gold: str | None, text: str, is_value: bool, deadline_s: float) -> Grade:
    """The verdict of math-verify."""
    request = {"gold": gold, "text": text, "is_value": is_value, "exact": "exact" in rules}
    reply: dict[str, Any] = pool().judge(request, deadline_s)
    if "failed" in reply:
        return Grade("ungradable", reply["failed"], None)
    if reply["answer"] is None:
        return Grade("wrong", "no final answer found", None)
    verdict: Verdict = "right" if reply["equal"] else "wrong"
    return Grade(verdict, f"{'equal' if reply['equal'] else 'not equal'} by math-verify", reply["answer"])


def _same_digits(gold: str, answer: str) -> bool | None:
    a, b = plain(gold), plain(answer)
    if a is None or b is None:
        return None
    # Decimals may be rounded, so math-verify judges them.
    return a == b if a == b or "." not in a + b else None


def _same_words(gold: str, answer: str) -> bool | None:
    """Compares words in any case and order, choices by letter, numbers in words, and numerals with a stated base."""
    if _is_letter(gold):
        choice = _CHOICE.fullmatch(answer)
        return choice[1].upper() == gold.strip("()") if choice else None
    based = [_BASE.fullmatch(value) for value in (gold, answer)]
    if based[0] and based[1]:
        return based[0][1] == based[1][1] and _base(based[0]) == _base(based[1])
    if (chain := ascending(gold)) and chain == ascending(answer):
        return True
    a, b = words(gold), words(answer)
    if len(b) == 1 and b[0].isdigit():
        return _same_digits(gold, b[0])
    return sorted(a) == sorted(b) if b and prose(" ".join(a)) else None


def _base(numeral: re.Match[str]) -> str:
    """The base of a numeral in digits: `204_{\\text{five}}` has the base 5."""
    return "".join(words(numeral[2])) or numeral[2]


def _is_name(gold: str) -> bool:
    """Whether the gold answer is in words, or a choice."""
    return bool(prose(" ".join(words(gold)))) or _is_letter(gold)


def _is_letter(gold: str) -> bool:
    """Whether the gold answer is the letter of a choice."""
    return re.fullmatch(r"\(?[A-J]\)?", gold) is not None


def _relates_unknowns(value: str) -> bool:
    """Whether `value` is an equation between several unknowns, such as `x + z = 1`. It is not its right side."""
    left, _, right = value.partition("=")
    names = set(_UNKNOWN.findall(_COMMAND.sub(" ", left)))
    return bool(right) and "=" not in right and "|" not in left and len(names) > 1 and bool(_OPERATION.search(left))


def _converted(gold: str, answer: str) -> tuple[str, str, bool | None]:
    """Both sides in one unit, if both have a unit. The verdict is False if they measure different things."""
    a, b = measured(gold), measured(answer)
    if a is None or b is None or a[1:] == b[1:]:
        return gold, answer, None
    factor = b[2] / a[2]
    return a[0], rf"\frac{{{factor.numerator}}}{{{factor.denominator}}}\cdot ({b[0]})", None if a[1] == b[1] else False


def _hopeless(text: str) -> bool:
    """Whether algebra would surely take too much time or memory."""
    levels = accumulate((char in "([{") - (char in ")]}") for char in text)
    return max(levels, default=0) > _MAX_DEPTH or _HOPELESS.search(text) is not None
