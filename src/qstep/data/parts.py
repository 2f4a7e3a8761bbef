"""The two parts of a response that thinks: its thinking, and its answer. Splitters are named for a part of it.

`split:thinking:line` cuts only the thinking, `split:answer:line` only what follows it, and `split:line` everything.
"""

from __future__ import annotations

import re
from typing import Literal, cast

from qstep.data.messages import final_text
from qstep.grading.thinking import MARKS, answer_span, never_ends, opened_by
from qstep.types import Row

Part = Literal["thinking", "answer"]

OPENING, CLOSING = zip(*MARKS, strict=True)
_OPENING = re.compile("|".join(map(re.escape, OPENING)))
_HEADER = re.compile(r"(?:<\|end\|>)?(?:<\|start\|>)?assistant\Z")
"""The header before gpt-oss' closing mark. Decoded tokens may have only its word."""
_LONGEST_HEADER = len("<|end|><|start|>assistant")
_FINAL = "<|channel|>final<|message|>"
_NAMED = re.compile(r"split:(thinking|answer):(?!thinking:|answer:)(.+)", re.DOTALL)


def part_of(separator: str) -> Part | None:
    """The part of a response that a `step_separator` cuts, or None if it cuts all of it."""
    found = _NAMED.fullmatch(separator)
    return cast(Part, found[1]) if found else None


def base_of(separator: str) -> str:
    """A `step_separator` without the part that it cuts."""
    found = _NAMED.fullmatch(separator)
    return f"split:{found[2]}" if found else separator


def of_part(part: Part, separator: str) -> str:
    """The `step_separator` that cuts a part. A line break becomes `split:line`.

    Raises ValueError for other strings, and for a name that already has a part.
    """
    name = "split:line" if separator == "\n" else separator
    if not name.startswith("split:") or part_of(name):
        raise ValueError(
            f"steps of the {part} need the name of a splitter without a part, such as split:line, not {separator!r}"
        )
    return f"split:{part}:{name.removeprefix('split:')}"


def part_span(text: str, part: Part, *, opened: str | bool = False) -> tuple[int, int]:
    """Where a part of a response begins and ends. It is empty if the response does not have the part.

    The thinking ends at the last mark that closes it (`qstep.grading.thinking.answer_span`), or at gpt-oss' header
    before that mark. If it is not closed, it lasts to the end of a response that opens it or whose prompt has `opened`
    it, by this mark if it is known. A response without any mark has no thinking, and all of it is the answer.
    """
    start, end = answer_span(text, opened if isinstance(opened, str) else None)
    if not start and opened:
        end = 0
    if part == "answer":
        return start, end
    opening = _OPENING.search(text)
    if not start:
        return (opening.end() if opening and not text[end : opening.start()].strip() else end), len(text)
    mark = next(mark for mark in CLOSING if text.endswith(mark, 0, start))
    last = start - len(mark)
    if mark == _FINAL and (header := _HEADER.search(text, max(0, last - _LONGEST_HEADER), last)):
        last = header.start()
    return opening.end() if opening and opening.end() <= last else 0, last


def thinking_end(text: str, separator: str) -> int | None:
    """Where the thinking ends, if `separator` cuts only the thinking and the response closes it; else None.

    The last step is then not the end of the response: the answer follows.
    """
    if part_of(separator) != "thinking":
        return None
    end = part_span(text, "thinking", opened=True)[1]
    return end if end < len(text) else None


def ends_with_step(row: Row, separator: str) -> bool:
    """Whether a response ends with its last step. It does not if only its thinking is cut into steps, and closed."""
    text = row.get("completion")
    return not isinstance(text, str) or thinking_end(text, separator) is None


def has_ended(row: Row) -> bool:
    """Whether a response ended by itself. Without a `finish_reason`, thinking that is never closed was cut off."""
    if "finish_reason" in row or "completion" not in row:
        return row.get("finish_reason", "stop") == "stop"
    return not never_ends(text_before(row), final_text(row["completion"]))


def text_before(row: Row) -> str:
    """The text that a response continues, as far as it may have opened the thinking: its mark, or the prompt's end."""
    prompt = row.get("prompt", "")
    return row.get("thinking_opened") or (prompt if isinstance(prompt, str) else prompt[-1]["content"])


def thinking_opened_for(row: Row) -> str | None:
    """The mark by which a row's prompt or the chat template opened thinking that its response begins in; or None."""
    return opened_by(text_before(row))
