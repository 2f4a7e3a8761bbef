"""The part of a response that states its final answer.

The last box, `####` line, `<answer>` tag or sentence "the answer is ..." states it. If there is none, or if words
surround the number, math-verify's own patterns search the end of the response. Text inside `<think>` is not an
answer. Each scan takes time linear in the length of the response.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from qstep.grading.rules import Rules


class Statement(NamedTuple):
    """A stated answer. `text` is the answer, or prose in which math-verify must find it."""

    text: str
    is_value: bool


_TAIL = 4000
_LOOK_BACK = 20
_HIDDEN = ("think", "thinking", "reasoning", "scratchpad")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_BETWEEN_BOXES = re.compile(r"[\s$.\\()\[\]]*(?:,|;|and|or)[\s$.\\()\[\]]*")
_MARKED = re.compile(r"####[ \t]*(\S[^\n]*)|<answer>\s*(\S.*?)(?:</answer>|\Z)", re.I | re.S)
_WORDED = re.compile(r"(?i)\banswer\b[^.:=\n]{0,60}?(?:\bis\b:?|[:=])[\s*]*")
_DISPLAY = re.compile(r"(?:\$\$|\\\[|\\\()(.*?)(?:\$\$|\\\]|\\\))", re.S)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_MATHEMATICAL = re.compile(r"\d|\\[a-zA-Z]")
_STOP = re.compile(r"(?<!\\)[.,;:]{1,9}$")
_CHOICE = re.compile(r"\(?[A-J]\)?")
_LATEX = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_FUNCTION = r"(?!(?:and|or|pi|sin|cos|tan|cot|sec|csc|ln|log|sqrt|mod|frac)(?![a-zA-Z]))"
# Cyrillic, Hebrew, Arabic, scripts of India and Thai; Chinese, Japanese and Korean. (Greek letters are mathematics.)
_SPACELESS = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_OTHER_SCRIPTS = rf"[\u0400-\u052f\u0590-\u06ff\u0900-\u0e7f]{{3,}}|{_SPACELESS}"
_WIDE = {"\u3002": ".", "\u0964": ".", "\uff1a": ": "}
_BESIDE_A_NUMBER = re.compile(rf"(?<={_SPACELESS})(?=[-+]?\d)|(?<=\d)(?={_SPACELESS})")
_PROSE = re.compile(
    rf"(?<![a-zA-Z]){_FUNCTION}(?:[a-zA-Z]{{3,}}|(?i:is|it|to|of|we|so|at|by|he)(?![a-zA-Z]))|{_OTHER_SCRIPTS}"
)
_COUNTED = re.compile(rf"[-+$\d,.]+(?:\s*°|\s*{_FUNCTION}[a-zA-Z]{{2,}}|\s+[a-zA-Z](?![\w^+*/=(-]))")
_NAMED = re.compile(r"(?i)^\\text\{[^{}]*\b(?:answer|is|equals)\b[\s:=]*\}")
_MINUS_CURRENCY = re.compile(r"-\s?\\?[$€£¥₹]\s?(?=[\d.])")
# Numbers that are not answers, but that math-verify would use: "See page 2", "Step 1", "not 8".
_PASSING = re.compile(
    r"(?i)\b(?:(?:steps?|pages?|parts?|questions?|problems?|figures?|equations?|sections?|chapters?|examples?|lines?"
    r"|tables?)[ \t]+[#(]?|not[ \t]+\$?)\d+(?:\.\d+)?(?![\w.,]?\d)"
)


def statement(response: str, rules: Rules) -> Statement | None:
    """The part of `response` that states the final answer; None if there is nothing to read."""
    text = _visible(response) if "visible" in rules else response
    if "marks" in rules:
        where, value, in_box = max((-1, _bare(text), False), _boxes(text), _marked(text), _worded(text))
        value = _unwrapped(value)
        if value and (in_box or not (_COUNTED.match(value) or (prose(value) and _MATHEMATICAL.search(value)))):
            return Statement(value, True)
        if where >= 0:
            text = f"The final answer is: {value}"
    text = text[-_TAIL:]
    if "spelling" in rules:
        text = _BESIDE_A_NUMBER.sub(" ", _MINUS_CURRENCY.sub("-", text))
    if "passing" in rules:
        text = _PASSING.sub(" ", text)
    return Statement(text, False) if text.strip() else None


def prose(value: str) -> list[str]:
    """The words in `value` outside LaTeX. Two letters count as a word only if they are not variables."""
    return _PROSE.findall(_LATEX.sub(" ", value))


def _visible(text: str) -> str:
    """`text` without hidden reasoning and invisible letters, in ASCII digits and signs.

    Hidden reasoning may be closed, never closed, or opened in the prompt. Digits of every script become 0 to 9, and
    wide signs become ASCII.
    """
    for name in _HIDDEN:
        text = text.rpartition(f"</{name}>")[2] if f"</{name}>" in text else text
        text = text.partition(f"<{name}>")[0]
    return text if text.isascii() else "".join(map(_legible, text))


def _legible(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if letter in _WIDE:
        return _WIDE[letter]
    return "" if category == "Cf" else chr(ord(letter) - 0xFEE0) if "\uff01" <= letter <= "\uff5e" else letter


_Mark = tuple[int, str, bool]
"""The position where a statement ends (-1 if there is none), the answer, and whether it is in a box."""


def _boxes(text: str) -> _Mark:
    """The last box with content, and earlier boxes that "and", "or" or a comma joins to it."""
    contents: list[str] = []
    where, after = -1, len(text)
    for box in reversed([*_BOX.finditer(text)][-_LOOK_BACK:]):
        close = _closing_brace(text, box.end(), after)
        inner = text[box.end() : close] if close >= 0 else text[box.end() : after].partition("\n")[0]
        if contents and (close < 0 or not _BETWEEN_BOXES.fullmatch(text[close + 1 : after])):
            break
        if inner.strip():
            contents.insert(0, _NAMED.sub("", inner.strip()))
            where = max(where, close, box.end())
        after = box.start()
    return where, ", ".join(contents), True


def _closing_brace(text: str, start: int, end: int) -> int:
    """The index of the `}` for the brace that opened before `start`, or -1. Escaped braces do not count."""
    level = 1
    for brace in _BRACE.finditer(text, start, end):
        level += (brace[0] == "{") - (brace[0] == "}")
        if level == 0:
            return brace.start()
    return -1


def _marked(text: str) -> _Mark:
    last = max(_MARKED.finditer(text), key=re.Match.end, default=None)
    return (last.end(), (last[1] or last[2])[:_TAIL], False) if last else (-1, "", False)


def _worded(text: str) -> _Mark:
    """The last "the answer is ..." with only a value in the rest of its sentence."""
    for phrase in reversed([*_WORDED.finditer(text)][-_LOOK_BACK:]):
        rest = text[phrase.end() : phrase.end() + _TAIL]
        display = _DISPLAY.match(rest)
        value = _unwrapped(display[1] if display else _SENTENCE_END.split(rest, maxsplit=1)[0])
        if _CHOICE.fullmatch(value) or (_MATHEMATICAL.search(value) and not prose(value)):
            return phrase.end(), value, False
        if _MATHEMATICAL.search(value):
            break
    return -1, "", False


def _bare(text: str) -> str:
    """The response, if it is only an answer; otherwise an empty string."""
    value = _unwrapped(text)
    wordy = len(prose(value)) > (0 if _MATHEMATICAL.search(value) else 3)
    return "" if wordy or len(value) > _TAIL or "\n" in value else value


def _unwrapped(value: str) -> str:
    """`value` without Markdown, delimiters of mathematics, and a final full stop."""
    value = _STOP.sub("", value.strip().strip("*_`").strip()).rstrip("*_`")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(value) > len(opening) and value.startswith(opening) and value.endswith(closing):
            return value[len(opening) : -len(closing)].strip().rstrip(".")
    return value
