"""The splitter `split:paragraph`, for reasoning traces: it cuts at paragraphs, and joins short ones."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qstep.data.blocks import BLANK, BLANK_LINES, blocks, outside
from qstep.data.parts import CLOSING, OPENING
from qstep.grading.thinking import MARK

_PARAGRAPH_END = re.compile(rf"(?P<closing>{'|'.join(map(re.escape, CLOSING))})\s*|{BLANK_LINES.pattern}")
_TURN = re.compile(
    rf"""{BLANK}*[*_]{{0,2}}(?:(?:but|hmm+|oh|no|ok|okay|so|and),?\ )?
    (?:wait|hold\ on|hmm+|alternatively|actually|on\ second\ thought|another\ (?:way|approach|method|idea)
    |let\ me\ (?:double[-\ ]?check|check|verify|try|re\w+)|let's\ (?:double[-\ ]?check|check|verify|try))\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words with which a reasoning trace turns to a check or to another approach."""
_LEAST_PARAGRAPH = 80

_VISIBLE = re.compile(r"\S")


def after_paragraphs(text: str) -> Iterator[int]:
    """The ends of all paragraphs that end a step."""
    whole = blocks(text)
    first = _start(text, 0)
    for match in _PARAGRAPH_END.finditer(text):
        if outside(whole, match.start()) and _ends_paragraph(text, first, match):
            yield match.end()
            first = _start(text, match.end())


def _start(text: str, position: int) -> int:
    found = _VISIBLE.search(text, position)
    return found.start() if found else len(text)


def _ends_paragraph(text: str, first: int, match: re.Match[str]) -> bool:
    """Whether a step that begins at `first` ends before a match of `_PARAGRAPH_END`."""
    end = match.end("closing") if match["closing"] else match.start()
    tail = text[max(first, end - _LEAST_PARAGRAPH) : end].rstrip()
    if text.startswith(CLOSING, match.end()) or tail.endswith(OPENING):
        return False
    long = end - first >= _LEAST_PARAGRAPH
    if match["closing"]:
        return long or bool(MARK.sub("", tail).strip())
    return _TURN.match(text, match.end()) is not None or (long and not tail.endswith((":", "\uff1a")))
