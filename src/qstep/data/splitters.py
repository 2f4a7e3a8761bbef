r"""Named splitters: ways to split a response into steps other than at a literal separator.

A `step_separator` is the string between steps, or `split:` and the name of a splitter:

    line         after every line break (\n, \r\n or \r)
    blank_line   after every run of empty or blank lines outside displayed mathematics and code
    paragraph    at blank lines outside displayed mathematics and code, if the step so far has at least 80 characters
                 and does not end in a colon; always before "Wait", "Alternatively" and the like, and after the mark
                 that closes the thinking. A mark alone is no step
    numbered     before every heading `Step 1:` at the start of a line, also `Step 1.`, `**Step 1**`, `### Step 1` and
                 `第一步`. Before the first heading, or without any, before every item of a list whose numbers count up
                 from 1
    sentence     after every sentence, and after line breaks outside displayed mathematics and code
    turn         nowhere: the steps of a response of several turns are the assistant's turns (`qstep.data.messages`)
    thinking:s   as splitter s cuts the thinking of a response. What is outside of it has no steps
    answer:s     as splitter s cuts what follows the thinking
    m:f          as the user's function `f(text) -> list[str]` in module `m` does

A splitter of this package does not split one of its own steps again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from qstep.data.blocks import BLANK, BLANK_LINES, BREAK, blocks, outside
from qstep.data.paragraphs import after_paragraphs
from qstep.data.parts import base_of, part_of
from qstep.data.user_code import USER_CODE, code_version, load_code

_PREFIX = "split:"

_LINE = re.compile(BREAK)

_STEP = re.compile(rf"step{BLANK}|\u7b2c", re.IGNORECASE)
_CHINESE_STEP = r"\u7b2c[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341\u767e\d]{1,4}\u6b65"
_HEADING = re.compile(
    rf"""(?:\A|(?<=[\r\n])) {BLANK}*
    (?:[-+*>\u2022]{BLANK}+)?                                # - Step 1:
    (?P<marked> \#{{1,6}}{BLANK}* | \\[a-z]+\*?\{{ )?        # ### Step 1, \textbf{{Step 1}}
    [*_]{{0,3}} step{BLANK}+
    (?:\d+|[ivx]+|[a-z]|one|two|three|four|five|six|seven|eight|nine|ten)\b {BLANK}*
    (?:\([^()\r\n]*\))? {BLANK}*
    (?(marked)|(?:[*_:\uff1a)]|\.(?!\d)|[-\u2013\u2014](?=\s)|(?=[\r\n]|\Z)))
    | (?:\A|(?<=[\r\n\u3002\uff01\uff1f\uff1b])) {BLANK}* (?:\#{{1,6}}{BLANK}*)? [*_]{{0,3}} {_CHINESE_STEP}""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERED_LINE = re.compile(rf"(?:\A|(?<=[\r\n]))({BLANK}*)(?:\*\*)?(\d{{1,3}})[.)](?:\*\*)?{BLANK}+\S")

_FULL_DISPLAY = re.compile(r"[.!?]\s*(?:\\\]|\$\$|\\end\{\w+\*?\})\Z")
_DISPLAY = re.compile(rf"{BLANK}*(?:\\\[|\$\$|\\begin\{{)")

_MARK = re.compile(
    rf"""(?<![.!?\u2026])[.!?\u2026]++ (?P<closing>["'\u201d\u2019\u00bb)\]}}*_$]*+) (?={BLANK})
      | [\u3002\uff01\uff1f\r\n] (?:
        (?<=[\u3002\uff01\uff1f]) [\u3002\uff01\uff1f]* ["'\u300d\u300f\u201d\u2019\uff09]*
      | (?<=\r) \n?
      | (?<=\n)
    )""",
    re.VERBOSE,
)
"""Marks that may end a sentence. Full-width marks need no space after them."""

_TITLE = re.compile(r"(?:Mr|Mrs|Ms|Mx|Dr|Prof|St|Mt|Gen|Capt|Lt|Sgt|Col|Rev|Hon|Sen|Gov|Rep)\.")
_ABBREVIATION = re.compile(r"(?:e\.g|i\.e|eg|ie|cf|vs|viz|approx|resp|w\.r\.t|s\.t|a\.k\.a|incl)\.", re.IGNORECASE)
_BEFORE_NUMBERS = re.compile(
    r"(?:no|nos|fig|figs|eq|eqs|sec|ch|p|pp|vol|ft|in|lb|lbs|oz|yd|mi|min|hr|hrs)\.", re.IGNORECASE
)
_DOTTED = re.compile(r"(?:[A-Z]\.){2,}")
_INITIAL = re.compile(r"[A-Z]\.")
_ITEM = re.compile(
    rf"""{BLANK}*(?:[-+>\u2022]{BLANK}+)?[*_(\#]*{BLANK}*
    (?:\d{{1,3}}|[a-zA-Z]|[ivxIVX]{{1,4}}|(?i:step|case|part|problem|question|example){BLANK}+\w{{1,8}})\.""",
    re.VERBOSE,
)
"""The beginning of a numbered line."""
_LONGEST_ITEM = 40

_VISIBLE = re.compile(r"[\S\r\n]")
_EQUATION = re.compile(rf"{BLANK}*[^\W\d_]{BLANK}*[=<>\u2264\u2265]")
_OPERATOR = re.compile(rf"{BLANK}*[-,;:)\]}}%=+*/^<>|&\u00d7\u00f7\u00b7\u2248](?:\s|\Z)")


def is_named(separator: str) -> bool:
    """Whether a `step_separator` names a splitter instead of the string between steps."""
    return separator.startswith(_PREFIX)


def refuse_bare_name(separator: str) -> None:
    """Raises ValueError for the name of a splitter without `split:`, which would be looked for in the text."""
    if separator in _SPLITTERS:
        raise ValueError(f"{separator!r} is the name of a splitter. Give {_PREFIX}{separator}")


def is_users_splitter(separator: str) -> bool:
    """Whether a `step_separator` names a user's function."""
    base = base_of(separator)
    return is_named(base) and part_of(base) is None and USER_CODE.fullmatch(base[len(_PREFIX) :]) is not None


def use_splitter(separator: str) -> None:
    """Checks the name of a splitter, and loads the user's function if it names one.

    A user's function runs only in a process where this was called with its name. It is called with the user's
    `step_separator`, and never with one from a file of rows or a checkpoint.

    Raises ValueError for an unknown name, or a function that cannot be loaded.
    """
    name = base_of(separator)[len(_PREFIX) :]
    if is_users_splitter(separator):
        function = load_code(name, "splitter")
        if not callable(function):
            raise ValueError(f"splitter {name!r} is {function!r}; it must be a function")
        _users[base_of(separator)] = function
    elif name not in _SPLITTERS:
        raise ValueError(
            f"splitter {name!r} of step_separator {separator!r} is unknown; choose one of {', '.join(_SPLITTERS)}, or "
            "your own function as module:function"
        )


def splitter_version(separator: str) -> str:
    """A `step_separator`, with a digest of the file of a user's function, which together determine the steps."""
    if not is_users_splitter(separator):
        return separator
    name = base_of(separator)[len(_PREFIX) :]
    return separator.removesuffix(name) + code_version(name, "splitter")


def joint_of(separator: str) -> str:
    """The string to put between steps so that they are split at the same places again.

    Raises ValueError for a user's function, for which it is unknown, and for steps of a part of the response.
    """
    if not is_named(separator):
        return separator
    if part_of(separator):
        raise ValueError(f"steps of {separator!r} cannot be joined again, because they are a part of the response")
    if is_users_splitter(separator):
        raise ValueError(
            f"steps of {separator!r}, your own function, cannot be joined again, because their separator is unknown"
        )
    use_splitter(separator)
    return _SPLITTERS[separator[len(_PREFIX) :]][1]


def cuts(text: str, separator: str) -> list[int]:
    """The ends of the parts into which a named splitter splits `text`, in order. Some parts may be blank.

    `thinking:` or `answer:` in the name has no effect here: `text` is that part (`qstep.data.steps`).

    Raises:
        ValueError: the splitter is unknown, or is a user's function that was not loaded with `use_splitter`, or its
            parts do not join to the text.
    """
    if is_users_splitter(separator):
        found = _users_cuts(text, separator)
    else:
        use_splitter(separator)
        found = [
            position for position in _SPLITTERS[base_of(separator)[len(_PREFIX) :]][0](text) if 0 < position < len(text)
        ]
    return [*found, len(text)]


_users: dict[str, Callable[[str], Any]] = {}


def _users_cuts(text: str, separator: str) -> list[int]:
    if base_of(separator) not in _users:
        raise ValueError(
            f"{separator!r} is your own function, and it is not loaded. Give --step_separator {separator} (in Python, "
            "call qstep.data.use_splitter)"
        )
    parts = _users[base_of(separator)](text)
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(
            f"{separator!r} returned {parts!r}; it must return a list of strings, the parts of its argument"
        )
    if (joined := "".join(parts)) != text:
        pairs = enumerate(zip(joined, text, strict=False))
        at = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(joined), len(text)))
        raise ValueError(
            f"the parts that {separator!r} returned do not join to its argument: from character {at} they read "
            f"{joined[at : at + 40]!r} instead of {text[at : at + 40]!r}. Return every character unchanged, including "
            "white space"
        )
    ends: list[int] = []
    for part in parts[:-1]:
        ends.append((ends[-1] if ends else 0) + len(part))
    return ends


def _after(pattern: re.Pattern[str]) -> Callable[[str], Iterator[int]]:
    return lambda text: (match.end() for match in pattern.finditer(text))


def _before_headings(text: str) -> Iterator[int]:
    found = [match.start() for match in _HEADING.finditer(text)] if _STEP.search(text) else []
    return chain(_before_items(text[: found[0]] if found else text), found)


def _before_items(text: str) -> Iterator[int]:
    """The items of lists whose numbers count up from 1, if indented as the first numbered line or less."""
    items = [*_NUMBERED_LINE.finditer(text)]
    indentation, expected = (items[0][1] if items else ""), 1
    lists: list[list[int]] = [[]]
    for item in items:
        if not indentation.startswith(item[1]):
            continue
        if item[2] == "1":
            lists.append([item.start()])
            expected = 2
        elif expected == 1:
            break
        elif item[2] == str(expected):
            lists[-1].append(item.start())
            expected += 1
    return (start for starts in lists if len(starts) > 1 for start in starts)


def _after_blank_lines(text: str) -> Iterator[int]:
    whole = blocks(text)
    return (match.end() for match in BLANK_LINES.finditer(text) if outside(whole, match.start()))


def _after_sentences(text: str) -> Iterator[int]:
    whole = blocks(text)
    ends = {end for start, end in whole if _FULL_DISPLAY.search(text, start, end) and text[end : end + 1].isupper()}
    inside = iter(whole)
    first, last = next(inside, (len(text), len(text)))
    line, cut = 0, 0
    for match in _MARK.finditer(text):
        start, end = match.span()
        while last <= end and last < len(text):
            first, last = next(inside, (len(text), len(text)))
        if first < end < last:
            continue
        if text[start] in "\r\n":
            if not _introduces_display(text, line, start, end):
                ends.add(end)
            line = cut = end
        elif match["closing"] is None or _ends_sentence(text, max(line, cut), start, match.start("closing"), end):
            ends.add(end)
            cut = end
    return iter(sorted(ends))


def _ends_sentence(text: str, line: int, start: int, stop: int, end: int) -> bool:
    """Whether the mark `text[start:stop]` ends a sentence. With closing brackets and quotes, it reaches to `end`.

    `line` is the beginning of its line, or of its sentence in the line.
    """
    found = _VISIBLE.search(text, end)
    if found is None or found[0] in "\r\n":
        return False
    first = found[0]
    if _OPERATOR.match(text, end) or (first.islower() and not _EQUATION.match(text, end)):
        return False
    mark = text[start:stop]
    if mark == "!" and first in "\\(" and text[start - 1 : start].isdigit():
        return False  # a factorial
    if mark != ".":
        return mark.strip("!?") == "" or not first.isdigit()  # 1, 2, ... 10
    if start - line < _LONGEST_ITEM and _ITEM.fullmatch(text, line, stop):
        return False
    words = text[max(line, stop - _LONGEST_ITEM) : stop].split()
    word = words[-1].lstrip("*_#([{$\"'\u201c\u2018")
    if any(kind.fullmatch(word) for kind in (_TITLE, _ABBREVIATION, _DOTTED)):
        return False
    if first.isdigit() and _BEFORE_NUMBERS.fullmatch(word):
        return False
    if not _INITIAL.fullmatch(word):
        return True
    after_name = len(words) > 1 and any(kind.fullmatch(words[-2]) for kind in (_TITLE, _INITIAL))
    return not after_name and _INITIAL.match(text, found.start()) is None


def _introduces_display(text: str, line: int, start: int, end: int) -> bool:
    """Whether a line without a mark at its end continues with displayed mathematics."""
    before = text[line:start].rstrip()
    return bool(before) and before[-1] not in ".!?\u3002\uff01\uff1f" and _DISPLAY.match(text, end) is not None


_SPLITTERS: dict[str, tuple[Callable[[str], Iterator[int]], str]] = {
    "line": (_after(_LINE), "\n"),
    "blank_line": (_after_blank_lines, "\n\n"),
    "paragraph": (after_paragraphs, "\n\n"),
    "numbered": (_before_headings, "\n"),
    "sentence": (_after_sentences, " "),
    "turn": (lambda text: iter(()), "\n\n"),
}
"""For each splitter, its function and the string to put between its steps."""
