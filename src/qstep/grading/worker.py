"""The process in which math-verify runs: the only importer of math-verify.

Started by `qstep.grading.pool` as a program of its own, it imports math-verify once, then forks a child
that does the algebra. It computes nothing itself, so it can always kill the child: at the deadline, or when
the program that started it goes away. A new child costs a fork, not an import. Requests and replies are
lines of JSON.

Only math-verify's LaTeX grammar reads the texts, never its plain-expression reader, which hands them to
Python.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, I, MatrixBase, Rational, Symbol, nan, oo, zoo
from sympy.concrete.expr_with_limits import ExprWithLimits

from qstep.grading.comparison import FLIPPED, Relation, Unreadable, same
from qstep.grading.numeric import TooLarge

_MEMORY_LIMIT = 1 << 30
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_CHILD_CPU_SECONDS = 600
_CHILD_REQUESTS = 500
_DIGITS = 40
_RELATIVE = Rational(1, 10**12)
_ABSOLUTE = Rational(1, 10**60)
# Its removal of units would turn 5t and 4h into 5 and 4; units are taken off before.
_NORMALISED = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last", equations=False
)
_LATEX = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALISED)]
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")
_POINTS = [
    [Rational(sign * numerator, 1009) for numerator in numerators]
    for sign, numerators in [
        (1, (1543, 577, 2311, 839, 1787, 359, 1201, 2749)),
        (1, (419, 2089, 733, 1949, 271, 1361, 2531, 607)),
        (-1, (967, 1459, 503, 2203, 1151, 311, 1873, 653)),
    ]
]
# Parsing these fills the caches of the LaTeX grammar, which every forked child then has.
_WARM_UP = [
    (r"2\sqrt{3}", r"\sqrt[3]{12}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("y=2x+3", r"2x-y+\frac{3}{4}=0"),
    (r"6-5i+\pi", r"-\frac{1}{x}+|x|"),
    (r"e^{2x}", r"\ln(x)+\log_2 8"),
    (r"\frac{\sin x}{\cos^2 2x}", r"\frac{\pi}{6}\cdot x/y"),
    ("n(n+1)(n-2)!", r"x^{1/2}\sqrt{x+1}"),
    (r"\int_0^1 xdx", r"\sum_{k=1}^n k"),
]

Point = tuple[Any, Any]
"""The real and imaginary part of a value."""


class MathVerify:
    """Equality by math-verify, with numbers as the judge where expressions have numeric values.

    math-verify rounds to six decimals and accepts equations it cannot solve; two expressions that differ in
    value at a sample point are different whatever it says.
    """

    def equal(self, gold: str, answer: str) -> bool:
        left, right = _read(gold, "gold answer"), _read(answer, "answer")
        if isinstance(left, Expr) and isinstance(right, Expr):
            if left.has(nan, zoo) or right.has(nan, zoo):
                return False
            agreed = []
            for x, y in _sampled(left, right):
                agreed.append(x is not None and y is not None and _close(x, y))
                # One side real and the other not says only that the point is outside a branch or domain.
                if x and y and not agreed[-1] and (x[1] == 0) == (y[1] == 0):
                    return False
            if agreed and all(agreed):
                return True
        return verify([left], [right], timeout_seconds=None, raise_on_error=True)

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether left - right of one is a constant multiple of the other's, in the same direction."""
        left = _read(f"({gold[0]})-({gold[2]})", "gold answer")
        right = _read(f"({answer[0]})-({answer[2]})", "answer")
        if not isinstance(left, Expr) or not isinstance(right, Expr) or left.free_symbols != right.free_symbols:
            return False
        real = [(x[0], y[0]) for x, y in _sampled(left, right) if x and y and x[1] == y[1] == 0 and y[0] != 0]
        ratios = [x / y for x, y in real]
        if len(ratios) < 2 or ratios[0] == 0 or not all(_close((r, 0), (ratios[0], 0)) for r in ratios):
            return False
        return answer[1] == (gold[1] if ratios[0] > 0 else FLIPPED.get(gold[1], gold[1]))


def _read(text: str, role: str) -> Any:
    text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    found = parse(
        rf"\boxed{{{text}}}",
        extraction_config=_LATEX,
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    if len(found) != 1 or not isinstance(found[0], Basic | MatrixBase):
        raise Unreadable(role, text)
    if isinstance(found[0], Expr) and not found[0].has(ExprWithLimits):
        return found[0].subs({symbol: I for symbol in found[0].free_symbols if symbol.name == "i"})
    return found[0]


def _sampled(left: Expr, right: Expr) -> Iterator[tuple[Point | None, Point | None]]:
    """Values of both sides at the sample points, None where one is not a finite number."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if len(symbols) > len(_POINTS[0]):
        return
    for numbers in _POINTS if symbols else _POINTS[:1]:
        point = dict(zip(symbols, numbers, strict=False))
        yield _value(left, point), _value(right, point)


def _value(expression: Expr, point: dict[Symbol, Rational]) -> Point | None:
    value = expression.evalf(_DIGITS, subs=point)
    if not isinstance(value, Expr) or not value.is_number or value.has(nan, zoo, oo):
        return None
    real, imaginary = value.as_real_imag()
    return (real, imaginary) if real.is_Number and imaginary.is_Number else None


def _close(a: Point, b: Point) -> bool:
    scale = max(abs(part) for part in (*a, *b))
    return all(abs(x - y) <= max(_RELATIVE * scale, _ABSOLUTE) for x, y in zip(a, b, strict=True))


def _judge(gold: str, answer: str) -> dict[str, Any]:
    """{"equal": bool}, or {"unreadable": which side}, or {"failed": why there is no verdict}."""
    try:
        if same(gold, answer, MathVerify()):
            return {"equal": True}
    except Unreadable as error:
        return {"unreadable": error.role}
    except TooLarge as error:
        return {"failed": str(error)}
    except MemoryError:
        return {"failed": "out of memory"}
    except RecursionError:
        return {"failed": "nested too deeply"}
    except Exception as error:  # a computer algebra system raises anything on arbitrary text
        return {"failed": f"math-verify failed with {type(error).__name__}"}
    # math-verify swallows MemoryError, so a False reached near the limit proves nothing.
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT > _MEMORY_LIMIT // 4:
        return {"failed": "out of memory"}
    return {"equal": False}


class _Child:
    """The forked process that computes, in bounded memory."""

    def __init__(self) -> None:
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        self.asked = 0
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.requests)
            os.close(self.replies)
            try:
                _compute(requests, replies)
            finally:
                os._exit(0)
        os.close(requests)
        os.close(replies)

    def ask(self, line: bytes, deadline_s: float, owner: int) -> dict[str, Any] | None:
        """The reply, or the reason why there is none; None when the owner went away meanwhile."""
        self.asked += 1
        os.write(self.requests, line)
        waiting = select.poll()
        waiting.register(self.replies, select.POLLIN)
        waiting.register(owner, select.POLLIN)
        ready = [fd for fd, _ in waiting.poll(deadline_s * 1000)]
        if not ready:
            return {"failed": f"no verdict within {deadline_s:g} s"}
        if self.replies not in ready:
            return None
        reply = os.read(self.replies, 4096)
        return json.loads(reply) if reply else {"failed": "the grading process died, most likely out of memory"}

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)


def _compute(requests: int, replies: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_CPU_SECONDS, _CHILD_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            os.write(replies, json.dumps(_judge(request["gold"], request["answer"])).encode())


def main() -> None:
    """Answers one request a line from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for gold, answer in _WARM_UP:
        _judge(gold, answer)
    os.write(replies, b'{"ready": true}\n')
    child: _Child | None = None
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            child = child or _Child()
            reply = child.ask(line, json.loads(line)["deadline_s"], requests)
            if reply is not None:
                os.write(replies, json.dumps(reply).encode() + b"\n")
            if reply is None or "failed" in reply or child.asked == _CHILD_REQUESTS:
                child.kill()
                child = None
    if child is not None:
        child.kill()
