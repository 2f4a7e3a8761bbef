"""The part of a response that states its final answer.

The last box, `####` line, `<answer>` tag or sentence "the answer is ..." states it. If there is none, or if words
surround the number, math-verify's own patterns search the end of the response. An answer in words is searched for only
if the gold answer is in words. Text inside `<think>` is not an answer. Each scan takes time linear in the length of the
response.
"""

from __future__ import annotations

import re
import string
import unicodedata
from typing import NamedTuple

from qstep.grading.rules import Rules
from qstep.grading.spelling import measured, words
from qstep.grading.thinking import outside


class Statement(NamedTuple):
    """A stated answer. `text` is the answer, or prose in which math-verify must find it."""

    text: str
    is_value: bool


_TAIL = 4000
_NAME_WORDS = 4
_LOOK_BACK = 20
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_AND = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{\s*(?:and|or|,)\s*\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|(?<!\\)[,;]")
_NEXT = re.compile(r"\\q?quad(?![a-zA-Z])|\\[,;:!]|(?<![a-zA-Z\\])(?:\\[a-z]+|[a-zA-Z])(?:_(?:\w|\{\w+\}))?\s*=")
_AROUND_BOXES = "$.&\\()[]" + string.whitespace
_MARKED = re.compile(r"(?<!#)####(?!#)[ \t]*(\S[^\n]*)|<answer>((?:(?!</?answer>).)*)(?:</answer>|\Z)", re.I | re.S)
_HASHES = re.compile(r"(?<!#)####(?!#)|<answer>", re.I)
_WORDED = re.compile(r"(?i)\banswer\b[^.:=\n]{0,60}?(?:\bis\b:?|[:=])[\s*]*")
_CHOSEN = re.compile(r"(?i:\b(?:option|choice)\b[^.:=\n]{0,40}?(?:\bis\b:?|:)[\s*]*)(\([A-J]\)|[A-HJ]\)?)(?!\w)")
# "Option B is correct.", "B is the correct answer.", ", which is choice (B)." and the same in Chinese.
_AFFIRMED = re.compile(
    r"(?m)(?:^|[.!;] |\b(?i:so|thus|hence|therefore),? )[ *]{0,4}(?:(?i:(?:the )?(?:option|choice|answer)) )?"
    r"\**(?P<named>\([A-J]\)|[A-HJ]\)?)\** is \**(?:correct|(?:the )?(?:correct|right) (?:answer|option|choice|one))\**"
    r"(?=[.!]\**(?:\s|\Z)|\s{0,9}(?:\n|\Z))"
    r"|, which (?:is|matches|corresponds to) \**(?:option|choice|answer) (?P<which>\([A-J]\)|[A-HJ])\**\.?\**\s{0,9}\Z"
    r"|(?<![\u4e0d\u8bef])(?:\u7b54\u6848(?:\u5e94\u8be5|\u5e94|\u5c31)?|\u6b63\u786e\u7684?\u9009\u9879)\s{0,3}(?:[\u662f\u4e3a\u9009]|:)[\s:*]{0,5}"
    r"(?P<answer>\([A-J]\)|[A-J])(?:\u9009\u9879|\u9879)?\**(?=[.;]|\s{0,9}(?:\n|\Z))"
    r"|(?:\u6545|\u56e0\u6b64|\u6240\u4ee5|\u5e94)\u9009(?:\u62e9|\u9879)?[\s:*]{0,5}"
    r"(?P<chosen>\([A-J]\)|[A-J])\**(?=[.;]|\s{0,9}(?:\n|\Z))"
)
_NUMBERED = re.compile(r"\d{1,2}(?:\.\d{1,2})*[.):]\s+[A-Z][a-z]")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_NO_NAME = re.compile(r"(?i)(?:not|unknown|unclear|in|that|as|to)\b")
_END_TOKENS = re.compile(r"(?:\s|</s>|<\|[^|<>\s]{1,40}\|>|<(?:eos|end_of_turn)>){1,20}\Z")
_ARRAY = re.compile(r"(?:\$\$?|\\\(|\\\[)\s*\\begin\{(\w+)\}[^$]*\\end\{\1\}\s*(?:\$\$?|\\\)|\\\])")
_DISPLAY = re.compile(r"(?:\$\$|\\\[|\\\()(.*?)(?:\$\$|\\\]|\\\))", re.S)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_MATHEMATICAL = re.compile(r"\d|\\[a-zA-Z]")
_INCOMPLETE = re.compile(r"(?<![a-zA-Z])(?:and|or)$|[-+*/=<>^_(\[{,]$|\\(?:frac|sqrt|times|cdot|pm)$")
_STOP = re.compile(r"(?<!\\)[.,;:]{1,9}$")
_CHOICE = re.compile(
    r"(\([A-J]\)|[A-J]\)?)(?:(?:,\s|\s(?:because|since|as)\s)[a-z]{2,}.*|(?::|\s[-\u2013])\s[a-zA-Z]{2,}.*|(?<=\))\s[a-z]{2,}.*)?",
    re.S,
)
_STRAY = re.compile(r"(?<!\\)\\{1,4}$")
_SQUARE = re.compile(
    r"\s{0,9}(?:\\q?quad\s{0,9})?(?:\$\s{0,9}\\(?:black)?square\s{0,9}\$\Z|\\(?:black)?square(?=\s{0,9}\$?\Z))"
)
_IN_QUOTES = re.compile(r"""(["'])([^"'\n]+)\1""")
_LATEX = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_FUNCTION = r"(?!(?:and|or|pi|sin|cos|tan|cot|sec|csc|ln|log|sqrt|mod|frac)(?![a-zA-Z]))"
# Cyrillic, Hebrew, Arabic, scripts of India and Thai; Chinese, Japanese and Korean. (Greek letters are mathematics.)
_SPACELESS = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_OTHER_SCRIPTS = rf"[\u0400-\u052f\u0590-\u06ff\u0900-\u0e7f]{{3,}}|{_SPACELESS}"
_WIDE = {
    **{"\u3002": ".", "\u0964": ".", "\uff1a": ": ", "\u2018": "'", "\u2019": "'"},
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f", '"'),
}
_QUOTED = re.compile(r"""(?<![\w})'"])(["'])(\(?[A-J]\)?|[-+$\d.,/]*\d[\d.,/%]*)\1""")
_BESIDE_A_NUMBER = re.compile(rf"(?<={_SPACELESS})(?=[-+]?\d)|(?<=\d)(?={_SPACELESS})")
_PROSE = re.compile(
    rf"(?<![a-zA-Z]){_FUNCTION}(?:[a-zA-Z]{{3,}}|(?i:is|it|to|of|we|so|at|by|he)(?![a-zA-Z]))|{_OTHER_SCRIPTS}"
)
_COUNTED = re.compile(rf"[-+$\d,.]+(?:\s*°|\s*{_FUNCTION}[a-zA-Z]{{2,}}|\s+[a-zA-Z](?![\w^+*/=(-]))")
_MEASURE = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?\s*[a-zA-Z]+")
_NAMED = re.compile(r"(?i)^\\text\{[^{}]*\b(?:answer|is|equals)\b[\s:=]*\}")
_MINUS_CURRENCY = re.compile(r"-\s?\\?[$€£¥₹]\s?(?=[\d.])")
# Numbers that are not answers, but that math-verify would use: "See page 2", "Step 1", "not 8".
_PASSING = re.compile(
    r"(?i)\b(?:(?:steps?|pages?|parts?|questions?|problems?|figures?|equations?|sections?|chapters?|examples?|lines?"
    r"|tables?)[ \t]+[#(]?|not[ \t]+\$?)\d+(?:\.\d+)?(?![\w.,]?\d)"
)


def statement(response: str, rules: Rules, *, in_words: bool = False) -> Statement | None:
    """The part of `response` that states the final answer; None if there is nothing to read.

    `in_words` says that a name or a choice may be the answer, as the gold answer is one.
    """
    text = _END_TOKENS.sub("", _visible(response)) if "visible" in rules else response
    if "spelling" in rules:
        text = _QUOTED.sub(r"\2", text)
    if "marks" in rules:
        where, value, in_box = max((-1, _bare(text), False), _boxes(text), _marked(text), _worded(text, in_words))
        if where < 0 and not value:
            value = _name(text, in_words)
        value = _unwrapped(value)
        in_sentence = _COUNTED.match(value) or (prose(value) and _MATHEMATICAL.search(value))
        if value and (in_box or _is_measured(value) or not in_sentence):
            return Statement(value, True)
        if where >= 0:
            text = f"The final answer is: {value}"
    text = text[-_TAIL:]
    if "spelling" in rules:
        text = _BESIDE_A_NUMBER.sub(" ", _MINUS_CURRENCY.sub("-", text))
    if "passing" in rules:
        text = _PASSING.sub(" ", text)
    return Statement(text, False) if text.strip() else None


def states_answer(response: str) -> bool:
    """Whether a box, a `####` line, an `<answer>` tag or "the answer is ..." states the answer, and completes it."""
    text = _END_TOKENS.sub("", _visible(response))
    where, value, _ = max(_boxes(text), _marked(text), _worded(text))
    is_last = text.rstrip().endswith(value.rstrip())
    return where >= 0 and not (is_last and _INCOMPLETE.search(value.rstrip()))


def readings(response: str) -> list[str]:
    """The ways to read the stated answer of a response as text: to its end, or its line, with or without a full stop.

    The answer begins after the last mark that `statement` knows. Without a mark it is the response, or its last line.
    """
    text = _END_TOKENS.sub("", _visible(response)).strip()
    where, boxed, _ = _boxes(text)
    start = max((mark.end() for pattern in (_HASHES, _WORDED) for mark in pattern.finditer(text)), default=-1)
    if where > start:
        found = [boxed]
    elif start >= 0:
        rest = text[start:].removesuffix("</answer>").strip()
        found = [rest, rest.partition("\n")[0]]
    else:
        found = [text, text.rpartition("\n")[2]]
    spelled = [reading for value in found for reading in (value, value.removesuffix("."), _unwrapped(value))]
    return [*dict.fromkeys(reading.strip() for reading in spelled if reading.strip())]


def prose(value: str) -> list[str]:
    """The words in `value` outside LaTeX. Two letters count as a word only if they are not variables."""
    return _PROSE.findall(_LATEX.sub(" ", value))


def _is_measured(value: str) -> bool:
    """Whether a value is a number with a known unit, and no more. math-verify would drop the unit."""
    return _MEASURE.fullmatch(value) is not None and measured(value) is not None


def _visible(text: str) -> str:
    """`text` without hidden reasoning and invisible letters, in ASCII digits and signs.

    Hidden reasoning may be closed, never closed, or opened in the prompt. Digits of every script become 0 to 9, and
    wide signs become ASCII.
    """
    text = outside(text)
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
    """The last box with content, and earlier boxes that belong to the same answer."""
    contents: list[str] = []
    where, after = -1, len(text)
    for box in reversed([*_BOX.finditer(text)][-_LOOK_BACK:]):
        close = _closing_brace(text, box.end(), after)
        inner = text[box.end() : close] if close >= 0 else text[box.end() : after].partition("\n")[0]
        if contents and (close < 0 or not _joins(text[close + 1 : after])):
            break
        if inner.strip():
            contents.insert(0, _STRAY.sub("", _NAMED.sub("", inner.strip())))
            where = max(where, close, box.end())
        after = box.start()
    return where, ", ".join(dict.fromkeys(contents)), True


def _joins(between: str) -> bool:
    """Whether two boxes with this text between them are one answer: "and", "or", a comma; in a line also `x =`."""
    rest = _AND.sub(" ", between)
    if rest == between and "\n" in between:
        return False
    rest = _NEXT.sub(" ", rest)
    return rest != between and not rest.strip(_AROUND_BOXES)


def _closing_brace(text: str, start: int, end: int) -> int:
    """The index of the `}` for the brace that opened before `start`, or -1. Escaped braces do not count."""
    level = 1
    for brace in _BRACE.finditer(text, start, end):
        level += (brace[0] == "{") - (brace[0] == "}")
        if level == 0:
            return brace.start()
    return -1


def _marked(text: str) -> _Mark:
    """The last `####` line or `<answer>` tag with content.

    Words after `####`, also with a number before them, are a heading if text or a box can be the answer.
    """
    for mark in reversed([*_MARKED.finditer(text)][-_LOOK_BACK:]):
        value = (mark[1] or mark[2]).strip()[:_TAIL]
        if not value or (mark[1] and _NUMBERED.match(value) and text[mark.end() :].strip()):
            continue
        if mark[2] or _COUNTED.match(value) or not prose(value):
            return mark.end(), value, False
        if not text[mark.end() :].strip():
            return (mark.end() if _MATHEMATICAL.search(value) else 0), value, False
    return -1, "", False


def _worded(text: str, in_words: bool = False) -> _Mark:
    """The last "the answer is ..." with only a value in the rest of its sentence, or the last "the option is B".

    `in_words` adds "B is correct" and the like, if they agree on one letter.
    """
    choices = [(choice.end(), choice[1], False) for choice in _CHOSEN.finditer(text)]
    affirmed = [(m.end(), m[m.lastgroup or 0], False) for m in _AFFIRMED.finditer(text)] if in_words else []
    one = len({letter.strip("()") for _, letter, _ in affirmed}) == 1
    return max([*choices[-1:], *affirmed[-1:] * one, _phrased(text)])


def _phrased(text: str) -> _Mark:
    for phrase in reversed([*_WORDED.finditer(text)][-_LOOK_BACK:]):
        rest = text[phrase.end() : phrase.end() + _TAIL]
        display = _DISPLAY.match(rest)
        value = _unwrapped(display[1] if display else _SENTENCE_END.split(rest, maxsplit=1)[0])
        if choice := _CHOICE.fullmatch(value):
            return phrase.end(), choice[1], False
        if _MATHEMATICAL.search(value) and (_is_measured(value) or not prose(value)):
            return phrase.end(), value, False
        if _MATHEMATICAL.search(value):
            break
    return -1, "", False


def _bare(text: str) -> str:
    """The response, if it is only an answer; otherwise an empty string."""
    value = _unwrapped(text)
    wordy = len(prose(value)) > (0 if _MATHEMATICAL.search(value) else 3)
    wordy = wordy or _WORDED.search(value) is not None
    return "" if wordy or len(value) > _TAIL or ("\n" in value and not _ARRAY.fullmatch(text.strip())) else value


def _name(text: str, in_words: bool) -> str:
    """The last answer in words, after "the answer is" or in bold; "" if there is none. A number in words always counts.

    Words are the answer only where no digits could be it, unless `in_words`.
    """
    text = text[-_TAIL:]
    if not in_words and _MATHEMATICAL.search(text):
        return ""
    stated = [_SENTENCE_END.split(text[phrase.end() :], maxsplit=1)[0] for phrase in _WORDED.finditer(text)]
    for value in (*stated[-_LOOK_BACK:][::-1], *_BOLD.findall(text)[-_LOOK_BACK:][::-1]):
        found = words(_unwrapped(value))
        if 0 < len(found) <= _NAME_WORDS and not _NO_NAME.match(value) and (in_words or found[0].isdigit()):
            return _unwrapped(value)
    return ""


def _unwrapped(value: str) -> str:
    """`value` without end signs, Markdown, quotation marks, delimiters of mathematics, and a final full stop."""
    value = _STOP.sub("", _unsigned(value).strip("*_`").strip()).rstrip("*_`")
    if quoted := _IN_QUOTES.fullmatch(value):
        value = _STOP.sub("", quoted[2])
    return undelimited(_STRAY.sub("", value))


def _unsigned(value: str) -> str:
    """`value` without the emoji and the signs of a proof's end that follow it. A value of only these is kept."""
    value = value.strip()
    end = len(value)
    while end and (value[end - 1].isspace() or _is_sign(value[end - 1])):
        end -= 1
    return _SQUARE.sub("", value[:end]) or value


def _is_sign(letter: str) -> bool:
    """Whether a letter is an emoji, a part of one, or the end of a proof. A sign with other spellings is a unit."""
    if unicodedata.category(letter) == "So":
        return letter != "\u00b0" and unicodedata.normalize("NFKC", letter) == letter
    return letter in "\u220e\ufe0f\u200d" or "\U0001f3fb" <= letter <= "\U0001f3ff"


def undelimited(value: str) -> str:
    """`value` without the dollar signs or brackets of LaTeX that enclose all of it."""
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inner = value[len(opening) : -len(closing)]
        if inner and value.startswith(opening) and value.endswith(closing) and opening not in inner:
            return _STRAY.sub("", inner.strip().rstrip("."))
    return value
