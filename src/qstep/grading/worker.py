"""The process in which math-verify runs. No other module imports math-verify.

`qstep.grading.pool` starts it as a separate program. It imports math-verify once, then forks a child that does the
algebra. It computes nothing itself, so it can kill the child at the deadline, or when the program that started it
ends. A new child costs a fork and no import. Requests and replies are lines of JSON.

math-verify's LaTeX grammar evaluates nothing. Its reader of plain expressions passes digits, `+-*/^().` and blanks to
Python. These can be slow or large, but have no side effects. In case either passes more, the child may not open a
file for writing, start a program or reach the network.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import convert_to_pct
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, MatrixBase, Number, nan, zoo

_MEMORY_LIMIT = 1 << 30
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_CHILD_CPU_SECONDS = 600
_CHILD_REQUESTS = 500
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EFFECTS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.kill", "os.link", "os.symlink", "os.chmod", "shutil.", "subprocess.", "socket.", "ctypes.", "pty.",
)  # fmt: skip
_DIGITS = 40
# math-verify rounds to six decimals, so it takes all small numbers as equal.
_ROUNDING = 2e-6
_NOISE = 1e-30
# Reading these fills the caches of the LaTeX grammar for every forked child.
_WARM_UP = [
    (r"2\sqrt{3}", r"\boxed{\sqrt[3]{12}}"),
    ("x^2+2x+1", r"\boxed{(x+1)^2}"),
    ("y=2x+3", r"$2x-y+\frac{3}{4}=0$"),
    (r"6-5i+\pi", r"$-\frac{1}{x}+|x|$"),
    (r"e^{2x}", r"$\ln(x)+\log_2 8$"),
    (r"\frac{\sin x}{\cos^2 2x}", r"$\frac{\pi}{6}\cdot x/y$"),
    ("(1,2]", r"$x \le 2$"),
    ("18", "The answer is 3 + 4 = 7, so 18.5 in all."),
]


def _judge(gold: str | None, text: str, is_value: bool, exact: bool) -> dict[str, Any]:
    """{"equal": bool, "answer": the answer found}, or {"failed": the reason for no verdict}."""
    try:
        found = _boxed(text) if is_value else parse(text, parsing_timeout=None)
        answer = _as_text(found)
        if gold is None or not found:
            return {"equal": False, "answer": answer}
        expected = _boxed(gold)
        if not _is_read(expected) and expected[-1:] != found[-1:]:
            return {"failed": "the gold answer is not readable as mathematics"}
        distance = _distance(expected[0], found[0]) if exact else None
        if distance == 0 or (
            (distance is None or distance <= _ROUNDING) and verify(expected, found, timeout_seconds=None)
        ):
            return {"equal": True, "answer": answer}
    except MemoryError:
        return {"failed": "out of memory"}
    except RecursionError:
        return {"failed": "nested too deeply"}
    except Exception as error:  # on arbitrary text, a computer algebra system can raise any error
        return {"failed": f"math-verify failed with {type(error).__name__}"}
    # math-verify catches MemoryError, so False near the limit proves nothing.
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT > _MEMORY_LIMIT // 4:
        return {"failed": "out of memory"}
    return {"equal": False, "answer": answer}


@lru_cache(maxsize=256)
def _boxed(value: str) -> list[Any]:
    """The value that math-verify reads in a bare answer, and the text that it read."""
    return parse(rf"\boxed{{{value}}}", [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None)


def _is_read(found: list[Any]) -> bool:
    return bool(found) and isinstance(found[0], Basic | MatrixBase)


def _as_text(found: list[Any]) -> str | None:
    """The answer found, as text that `_boxed` can read. math-verify's own text lacks the percent sign."""
    if not found:
        return None
    text = str(found[-1]).rstrip("* ")
    if _is_read(found) and text.replace(".", "", 1).isdecimal() and found[0] == convert_to_pct(Number(text)):
        return rf"{text}\%"
    return text


def _distance(gold: Any, answer: Any) -> float | None:
    """The distance relative to the larger number: infinite if one is undefined, None if one is not a number."""
    if not isinstance(gold, Expr) or not isinstance(answer, Expr) or gold.free_symbols or answer.free_symbols:
        return None
    a, b = (gold, answer) if gold.is_Integer and answer.is_Integer else (gold.evalf(_DIGITS), answer.evalf(_DIGITS))
    if a.has(nan, zoo) or b.has(nan, zoo):
        return math.inf
    if not (a.is_Number and b.is_Number and a.is_finite and b.is_finite):
        return None
    return float(abs(a - b) / max(abs(a), abs(b))) if abs(a - b) > _NOISE * max(abs(a), abs(b)) else 0.0


class _Child:
    """The forked process that computes in bounded memory."""

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
        """The reply, or the reason for none; None if the owner ended meanwhile."""
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
        reply = b""
        while not reply.endswith(b"\n") and (part := os.read(self.replies, 65536)):
            reply += part
        return (
            json.loads(reply)
            if reply.endswith(b"\n")
            else {"failed": "the grading process died, most likely out of memory"}
        )

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)


def refuse_effects(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook of the child. Raises PermissionError for actions that algebra never needs."""
    writes = event == "open" and bool(arguments[2] & _WRITING)
    if writes or event.startswith(_EFFECTS):
        raise PermissionError(f"{event} is not allowed while grading")


def _compute(requests: int, replies: int) -> None:
    if sys.platform != "darwin":  # macOS refuses this limit; memory is also checked after each answer
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_CPU_SECONDS, _CHILD_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(refuse_effects)
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            reply = _judge(request["gold"], request["text"], request["is_value"], request["exact"])
            os.write(replies, json.dumps(reply).encode() + b"\n")


def main() -> None:
    """Answers one request a line from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for gold, text in _WARM_UP:
        _judge(gold, text, False, True)
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
