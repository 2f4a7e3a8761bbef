"""Finding the final answer in a model's response.

The last final answer counts. A box, a `####` line, an `<answer>` tag and a sentence like "the answer is
..." state one; without any of them the response may be a bare answer, or its last sentences may conclude
with one ("so she pays $36 in total."). What stands inside `<think>` alone is no answer, nor is a retracted
one, nor a number in passing ("Step 1", "see page 2"). Every scan is linear in the length of the response.
"""

from __future__ import annotations

import re

_BLANKS = re.compile(r"\s{2,}")
_HIDDEN = ("think", "thinking", "reasoning", "scratchpad")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=[{\d\\-])")
_HASHES = re.compile(r"^[ \t]*####[ \t]+(\S.*)$|####[ \t]*(-?[$\\\d].*)$", re.M)
_TAG = re.compile(r"<answer>", re.I)
_TAG_END = re.compile(r"</answer>", re.I)
_IS = (
    r"(?:\s+(?:is|are|was|were|would\s+be|will\s+be|should\s+be|must\s+be|equals)(?![a-z])(?:\s*:)?|"
    r"\s*(?:[:=\uff1a]|\*\*\s*:))"
)
_PHRASE = re.compile(
    rf"""(?ix)
    \banswer\b (?:\s+(?:to|for|of)\b[^.:;\n]{{0,80}}?)? (?:\s+(?:option|choice))? [ \t]*[*_]{{0,2}} {_IS}
    | \b(?:resultado|respuesta|ergebnis|antwort|résultat|réponse|risultato|risposta|resposta)
      \s+(?:(?:final|correcta|finale)\s+)?(?:es|ist|est|è|é)(?!\w)
    | \b(?:resultado|respuesta|ergebnis|antwort|résultat|réponse|risultato|risposta|resposta|ответ)\s*:
    | 答案\s*(?:是|为|為|[:\uff1a]) | 答えは | 답은
    """
)
_CORRECTION = re.compile(
    r"(?i)\b(?:no|wait|actually|sorry|correction|rather|i\s+mean|scratch\s+that|make\s+that)\b[,:;.!\s-]{0,5}"
    r"(?:(?:it|that|this|the\s+answer)(?:\s+is|'s|\s+should\s+be)|it's)\s+(?=[-$\\(\d*])"
)
_RETRACTION = re.compile(
    r"(?i)[\s.$*)\\\]]{0,8}(?:(?:but\s+)?(?:wait|no|hmm|actually|oops|sorry)\b[^.\n]{0,60}?)?\b"
    r"(?:(?:that|this|it)(?:\s+is|'s|\s+was)\s+(?:wrong|incorrect|not\s+(?:right|correct))|i\s+made\s+a\s+mistake"
    r"|scratch\s+that)"
)
_NOT = re.compile(r"(?i)not\s")
_BUT = re.compile(
    r"(?i)(?:[,;.—]|\bbut\b|\brather\b|\binstead\b)\s*(?:(?:but|rather|instead)\s+)?"
    r"(?:(?:it|that)(?:\s+is|'s)\s+|is\s+|the\s+answer\s+is\s+)?(?=[-$\\(\d*])"
)
_SENTENCE_END = re.compile(r"(?<!\b[ap]\.m)(?<!\bRs)[.!?](?=\s|$|\*|<)|。|\n|</", re.I)
_ASIDE = re.compile(
    r"(?i)[,;]?\s+(?:because|since|which|so|therefore|as\s+we|where\s+we|when\s+we|if\s+we|i\s+hope|rather\s+than"
    r"|instead\s+of)\b|,\s*not\b"
)
_FILLER = re.compile(
    r"(?i)(?:so|thus|therefore|hence|then|simply|just|clearly|indeed|option|choice|equal\s+to)\b[,:]?\s*"
)
_DISPLAYS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"))
_FENCE = re.compile(r"```[a-zA-Z]*\n?|`")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*|__([^_\n]{1,200})__")
_BARE_LIMIT = 6000
_BARE_WORDS = 3
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_TALK = re.compile(r"(?i)\b(?:i|we|you|it|this|that|let|please|sorry)\b")
_REFERENCE = re.compile(
    r"(?i)\b(?:steps?|pages?|parts?|questions?|problems?|figures?|equations?|eq|sections?|chapters?|examples?|exercises?"
    r"|cases?|lines?|items?|notes?|tables?|theorems?|lemmas?|attempts?|options?|try)[.\s]*[#(]?\s*$"
)
_REFUSAL = re.compile(
    r"(?i)\b(?:cannot|can't|can\s+not|could\s+not|couldn't|unable|don't\s+know|do\s+not\s+know|not\s+sure|unsure"
    r"|let\s+me|let's|is\s+not|isn't|need\s+to)\b"
)
_CONCLUSION = re.compile(
    r"(?i)=|\b(?:is|are|was|were|be|so|thus|therefore|hence|totals?|equals?|gives?|gets?|makes?|costs?|earns?|spends?"
    r"|pays?|has|have|had|needs?|es|ist|est|son|sind|sont|è|result|there|takes?|left|means?|saves?|remains?|leaves?"
    r"|requires?|receives?)\b"
)
_VALUE = re.compile(
    r"(?<![\w.,^_{])-?(?:\\?[$€£¥₹]\s?)?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?(?:[eE][-+]?\d+)?(?:\s?\\?%|°)?(?!\w)"
)
_MATHEMATICAL = re.compile(r"\d|\\[a-zA-Z]+|[²³½¼¾√π∞]|^\(?[A-Za-z]\)?$")
_NUMBER_WORD = re.compile(
    r"(?i)(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    r"|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)\b"
)
_SENTENCE_WORDS = 6
_TAIL = 4000
_LOOK_BACK = 20


def extract_answer(text: str) -> str | None:
    """The final answer that `text`, a response or a bare answer, states: as written there, or None."""
    text = _visible(text)
    stated = _stated(text)
    if stated is None:
        stated = _bare(text) or _concluded(text[-_TAIL:])
    return stated or None


def _visible(text: str) -> str:
    """`text` without hidden reasoning: closed, never closed, or opened before the response began."""
    for name in _HIDDEN:
        text = text.rpartition(f"</{name}>")[2] if f"</{name}>" in text else text
        text = text.partition(f"<{name}>")[0]
    # Runs of blanks go first: no pattern below meets one long enough to search it twice.
    return _BLANKS.sub(lambda run: "\n\n" if "\n" in run[0] else " ", text.replace("\ufeff", "")).strip()


def _stated(text: str) -> str | None:
    """The last answer that is marked as one; "" when the last one is retracted."""
    marked = max(filter(None, (_last_box(text), _last_hashes(text), _last_tag(text))), default=None)
    worded = None
    for pattern in (_PHRASE, _CORRECTION):
        for match in list(pattern.finditer(text))[-_LOOK_BACK:]:
            if (marked and match.start() < marked[0]) or (worded and match.start() < worded[0]):
                continue
            value = _worded_value(text[match.end() : match.end() + _TAIL])
            mathematical = _MATHEMATICAL.search(value) or _NUMBER_WORD.match(value)
            if mathematical or (value and not marked and len(value.split()) <= _SENTENCE_WORDS):
                worded = match.start(), value
    last = worded or marked
    return last[1] if last else None


def _last_box(text: str) -> tuple[int, str] | None:
    """Where the last box with any content closes, and the content.

    A box the response ends in the middle of reaches to the end of its line.
    """
    end = len(text)
    for box in reversed([match.end() for match in _BOX.finditer(text)][-_LOOK_BACK:]):
        close = box
        if text[box] == "{":
            close = _closing_brace(text, box, end)
            content = text[box + 1 : close] if close >= 0 else text[box + 1 : end].split("\n", 1)[0]
        else:
            content = re.split(r"[\s$.,;]", text[box:end], maxsplit=1)[0]
        if content := content.strip(" \n\t$"):
            if close >= 0 and _RETRACTION.match(text, close + 1):
                return close, ""
            return max(close, box), _unnamed(content)
        end = box
    return None


def _unnamed(content: str) -> str:
    """`\\text{The answer is } 8` without its words."""
    named = _PHRASE.search(content)
    return content[named.end() :].lstrip(" \t:}").rstrip() if named else content


def _closing_brace(text: str, start: int, end: int) -> int:
    """Index of the `}` that closes the `{` at `start`, or -1; escaped braces do not count."""
    level = 0
    for brace in re.finditer(r"\\.|[{}]", text[start:end], re.S):
        level += (brace[0] == "{") - (brace[0] == "}")
        if level == 0:
            return start + brace.start()
    return -1


def _last_hashes(text: str) -> tuple[int, str] | None:
    found = [(m.end(), _unnamed((m[1] or m[2]).strip())) for m in _HASHES.finditer(text)]
    return found[-1] if found else None


def _last_tag(text: str) -> tuple[int, str] | None:
    starts = [match.end() for match in _TAG.finditer(text)]
    if not starts:
        return None
    closing = _TAG_END.search(text, starts[-1])
    content = _unnamed(text[starts[-1] : closing.start() if closing else len(text)].strip())
    return (closing.end() if closing else len(text), content) if content else None


def _worded_value(rest: str) -> str:
    """The value that follows "the answer is", up to the end of its sentence; "" when there is none."""
    rest = rest.lstrip(" \t\n*:_")
    if _NOT.match(rest):
        instead = _BUT.search(_clip_sentence(rest))
        if instead is None:
            return ""
        rest = rest[instead.end() :]
    for opening, closing in _DISPLAYS:
        if rest.startswith(opening) and closing in rest[2:]:
            return rest[2:].partition(closing)[0].strip()
    sentence = _clip_sentence(rest)
    if _BOX.search(sentence):
        return ""
    aside = _ASIDE.search(sentence)
    value = (sentence[: aside.start()] if aside else sentence).strip(" \t*_\"'`")
    filler = _FILLER.match(value)
    return value[filler.end() :] if filler else value


def _clip_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def _bare(text: str) -> str | None:
    """The whole text, when it is an answer and nothing else."""
    text = _FENCE.sub("", text).strip()
    bold = _BOLD.fullmatch(text)
    text = (bold[1] or bold[2]).strip() if bold else text
    if not 0 < len(text) <= _BARE_LIMIT or ("\n" in text and r"\begin" not in text):
        return None
    words = len(_WORDS.findall(text))
    if _BOX.search(text) or _FILLER.match(text):
        return None
    if words > _BARE_WORDS or (" " in text and _TALK.search(text)) or not any(map(str.isalnum, text)):
        return None
    return text.rstrip(".") or None


def _concluded(text: str) -> str | None:
    """The value that one of the last three sentences concludes with."""
    sentences = [s.strip() for s in _SENTENCE_END.split(text) if any(map(str.isalnum, s))]
    for sentence in reversed(sentences[-3:]):
        if _REFUSAL.search(sentence):
            return None
        if _CONCLUSION.search(sentence) or _BOLD.search(sentence):
            value = _last_value(sentence)
            if value is not None:
                return value
    return None


def _last_value(sentence: str) -> str | None:
    bolds = [m[1] or m[2] for m in _BOLD.finditer(sentence)]
    if bolds and _MATHEMATICAL.search(bolds[-1]):
        return bolds[-1].strip()
    _, equals, right = sentence.rpartition("=")
    if equals and (formula := re.match(r"\s*(\S[^$]*?)\s*(?:\$\$?|\\\)|\\\])", right)):
        return formula[1].removesuffix("\\").strip()
    inline = re.search(r"\$([^$\d\s][^$]*|\d[^$]*[^$\s])\$[^$]*$|\\\(((?:(?!\\\().)*)\\\)[^$]*$", sentence)
    if inline and not equals:
        return (inline[1] or inline[2]).strip()
    values = [m for m in _VALUE.finditer(right) if not _REFERENCE.search(right[max(0, m.start() - 30) : m.start()])]
    if not values:
        return None
    return (values[0] if equals else values[-1])[0].strip()
