"""right, wrong or ungradable: the verdict on an answer, and the classes of equivalent answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from qstep.grading.comparison import NeedsAlgebra, NoAlgebra, same
from qstep.grading.extraction import extract_answer
from qstep.grading.hazards import hazard
from qstep.grading.notation import depth, key, normalise
from qstep.grading.numeric import TooLarge
from qstep.grading.pool import pool
from qstep.types import Verdict

_MAX_RESPONSE = 500_000
_MAX_ANSWER = 20_000
_MAX_DEPTH = 60


@dataclass(frozen=True)
class Grade:
    """A verdict, why it was given, and the final answer found in the response (None when there was none).

    `reward` is the number behind the verdict, where that is not 1 for right and 0 for wrong.
    """

    verdict: Verdict
    reason: str
    answer: str | None
    reward: float | None = None


_Outcome = tuple[Verdict, str]


def grade(gold: str, answer: str, *, deadline_s: float = 3.0) -> Grade:
    """Grades one response, or bare answer, against the gold answer.

    Letters, words, exact numbers, units and structures are compared in this process; what needs algebra goes
    to math-verify in a process that is killed at the deadline. May be called from any thread.

    Args:
        gold: the reference answer, such as `42` or `\\frac{1}{2}`; a box or `####` around it is taken off.
        answer: what the model wrote.
        deadline_s: seconds of algebra after which the answer is ungradable; waiting does not count.

    Raises:
        ValueError: the deadline is not positive.
        RuntimeError: the grading worker cannot start.
    """
    if not deadline_s > 0:
        raise ValueError(f"deadline_s must be positive, not {deadline_s}")
    if len(answer) > _MAX_RESPONSE or len(gold) > _MAX_RESPONSE:
        return Grade("ungradable", f"longer than {_MAX_RESPONSE} characters", None)
    gold = _gold(gold)
    if not gold:
        return Grade("ungradable", "the gold answer is empty", None)
    found = extract_answer(answer)
    if found is None:
        return Grade("wrong", "no final answer found", None)
    return Grade(*_verdict(gold, found, deadline_s), found)


def grade_many(pairs: Iterable[tuple[str, str]], *, deadline_s: float = 3.0, workers: int | None = None) -> list[Grade]:
    """`grade` of each (gold, answer), in order, several at a time.

    Args:
        pairs: (gold, answer) as for `grade`.
        deadline_s: seconds of algebra for each answer; time in the queue does not count.
        workers: how many grading processes may work at once; the number of cores when None.
    """
    count = workers if workers is not None else pool().size
    if count < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    pool().grow(count)
    with ThreadPoolExecutor(count, thread_name_prefix="grade") as threads:
        return list(threads.map(lambda pair: grade(*pair, deadline_s=deadline_s), pairs))


def equivalent(a: str, b: str, *, deadline_s: float = 3.0) -> bool:
    """Whether two extracted answers are the same answer; False when that cannot be told."""
    return _verdict(a, b, deadline_s)[0] == "right"


def group_equivalent(answers: Sequence[str | None], *, deadline_s: float = 3.0) -> list[int | None]:
    """The class of each extracted answer, numbered by first appearance; None where there is no answer.

    An answer joins the first class whose first member it equals.
    """
    classes: list[int | None] = []
    by_key: dict[str, int] = {}
    representatives: list[str] = []
    for answer in answers:
        if answer is None or not answer.strip():
            classes.append(None)
            continue
        name = key(normalise(answer)) if len(answer) <= _MAX_ANSWER else answer
        if name not in by_key:
            same_as = partial(equivalent, answer, deadline_s=deadline_s)
            match = next((i for i, other in enumerate(representatives) if same_as(other)), None)
            if match is None:
                match = len(representatives)
                representatives.append(answer)
            by_key[name] = match
        classes.append(by_key[name])
    return classes


def _gold(gold: str) -> str:
    marked = any(mark in gold for mark in (r"\boxed", r"\fbox", "####"))
    return ((extract_answer(gold) if marked else gold) or "").strip()


def _verdict(gold: str, answer: str, deadline_s: float) -> _Outcome:
    """The verdict on an extracted answer: what is cheap here, the rest by the workers."""
    if gold.strip() == answer.strip():
        return "right", "identical text"
    if max(len(gold), len(answer)) > _MAX_ANSWER:
        return "ungradable", f"an answer of more than {_MAX_ANSWER} characters"
    gold, answer = normalise(gold), normalise(answer)
    if not gold:
        return "ungradable", "the gold answer is empty"
    if not answer:
        return "wrong", "the answer is empty"
    if max(depth(gold), depth(answer)) > _MAX_DEPTH:
        return "ungradable", f"brackets nested more than {_MAX_DEPTH} deep"
    try:
        return ("right", "the same") if same(gold, answer, NoAlgebra()) else ("wrong", "different")
    except TooLarge as error:
        return "ungradable", str(error)
    except NeedsAlgebra:
        pass
    for side, text in (("gold answer", gold), ("answer", answer)):
        if why := hazard(text):
            return "ungradable", f"the {side} has {why}"
    reply = pool().judge(gold, answer, deadline_s)
    if "equal" in reply:
        return ("right", "equal by algebra") if reply["equal"] else ("wrong", "not equal by algebra")
    if reply.get("unreadable") == "answer":
        return "wrong", "the answer is not readable as mathematics"
    return "ungradable", reply.get("failed") or "the gold answer is not readable as mathematics"
