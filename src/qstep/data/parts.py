"""The two parts of a response that thinks: its thinking, and its answer. Splitters are named for a part of it.

`split:thinking:line` cuts only the thinking, `split:answer:line` only what follows it, and `split:line` everything.
"""

from __future__ import annotations

import re
from typing import Literal, cast

from qstep.grading.thinking import MARKS, opened_by
from qstep.types import Row

Part = Literal["thinking", "answer"]

OPENING, CLOSING = zip(*MARKS, strict=True)
MARK = re.compile("|".join(map(re.escape, (*OPENING, *CLOSING))))
_OPENING, _CLOSING = (re.compile("|".join(map(re.escape, marks))) for marks in (OPENING, CLOSING))
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


def part_span(text: str, part: Part, *, opened: bool = False) -> tuple[int, int]:
    """Where a part of a response begins and ends. It is empty if the response does not have the part.

    The thinking ends at the last closing mark. Without one, it lasts to the end of a response that opens it or whose
    prompt has `opened` it. A response without any mark has no thinking, and all of it is the answer.
    """
    closings = [*_CLOSING.finditer(text)]
    opening = _OPENING.search(text)
    if not closings:
        begins = 0 if opened else opening.start() if opening else len(text)
        if part == "answer":
            return 0, begins
        return (opening.end() if opening and not text[begins : opening.start()].strip() else begins), len(text)
    last = closings[-1]
    if part == "answer":
        again = _OPENING.search(text, last.end())
        return last.end(), again.start() if again else len(text)
    return opening.end() if opening and opening.end() <= last.start() else 0, last.start()


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


def text_before(row: Row) -> str:
    """The text that a response continues, as far as it may have opened the thinking: its mark, or the prompt's end."""
    prompt = row.get("prompt", "")
    return row.get("thinking_opened") or (prompt if isinstance(prompt, str) else prompt[-1]["content"])


def thinking_is_open(row: Row) -> bool:
    """Whether a row's response begins inside thinking that its prompt or the chat template opened."""
    return opened_by(text_before(row)) is not None
