"""One spelling for the many ways people and models write the same mathematics.

`normalise` maps Unicode, LaTeX and plain-text variants onto one small dialect of LaTeX; `key` is the string
by which two normalised answers are the same to the letter; `split_top` cuts a normalised answer at
separators that no bracket encloses. Everything here is linear in the length of its input and evaluates
nothing.
"""

# ruff: noqa: RUF001  (characters that look like others are what this file is about)

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = {ord(c): t for c, t in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True)}
_SUBSCRIPT = {ord(c): t for c, t in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁄": "/", "∕": "/", "÷": "/", "×": r"\cdot ",
        "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "√": r"\sqrt ", "∞": r"\infty ", "π": r"\pi ",
        "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "ℝ": r"\mathbb{R}", "∅": r"\emptyset ", "±": r"\pm ", "⟨": r"\langle ", "⟩": r"\rangle ", "º": "°",
        "’": "'", "‘": "'", "“": '"', "”": '"', "，": ",", "。": ".",
    }
)  # fmt: skip

_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?|boldsymbol|bm"
    r"|underline|boxed|fbox)\s*\{([^{}]*)\}"
)
_SIZE = re.compile(
    r"\\(?:left|right|middle|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|limits|tiny|small|large|Large)(?![a-zA-Z])"
)
_REPLACEMENTS = [
    (re.compile(pattern), into)
    for pattern, into in [
        (r"\\!\s*", ""),
        (r"\{,\}(?=\d)", ","),
        (r"\\(?:[,;: ]|quad\b|qquad\b|thinspace\b|enspace\b)|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\lbrack(?![a-zA-Z])", "["),
        (r"\\rbrack(?![a-zA-Z])", "]"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\[lr]?vert(?![a-zA-Z])", "|"),
        (r"\\leq(?:slant)?(?![a-zA-Z])|<=", r"\\le "),
        (r"\\geq(?:slant)?(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:sim|simeq|doteq)(?![a-zA-Z])", r"\\approx "),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:times|ast)(?![a-zA-Z])", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\\infin(?:ity)?(?![a-zA-Z])|(?<![a-zA-Z\\])(?:infinity|oo)(?![a-zA-Z])", r"\\infty "),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])", "°"),
        (r"\\%", "%"),
        (r"\\_", "_"),
        (
            r"(?<![a-zA-Z\\])(sqrt|pi|sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan|theta)(?![a-zA-Z])",
            r"\\\1 ",
        ),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*([0-9]+(?:\.[0-9]+)?|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{([^{}]*)\}\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"([_^])\{\s*([0-9a-zA-Z])\s*\}", r"\1\2"),
    ]
]
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_DISPLAY = re.compile(r"\\[()\[\]]")
_SPACE_BETWEEN = re.compile(r"(?<![0-9a-zA-Z])\s+|\s+(?![0-9a-zA-Z])")
_OPEN, _CLOSE = "([{", ")]}"


def normalise(text: str) -> str:
    """`text` in the one dialect the rest of this room reads; prose keeps its case."""
    text = " ".join(text.split())
    if _NUMBER.fullmatch(text):
        return text
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPTS.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPT) + "}", text)
    if not text.isascii():
        text = "".join(map(_vulgar_fraction, text)).translate(_UNICODE)
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = _currency(text)
    text = text.replace(r"\\", "\0")  # row ends, which look like the start of a command
    text = _DISPLAY.sub(" ", text)
    text = _SIZE.sub(" ", text)
    for _ in range(3):  # \text{\textbf{C}}
        text, replaced = _STYLE.subn(r" \1 ", text)
        if not replaced:
            break
    for pattern, into in _REPLACEMENTS:
        text = pattern.sub(into, text)
    text = " ".join(text.replace("\0", r"\\").split())
    return _strip_ends(text)


def _vulgar_fraction(char: str) -> str:
    decomposition = unicodedata.decomposition(char)
    if not decomposition.startswith("<fraction>"):
        return char
    over, _, under = "".join(chr(int(c, 16)) for c in decomposition.split()[1:]).partition("⁄")
    return rf"\frac{{{over}}}{{{under}}}" if under else char


def _currency(text: str) -> str:
    """Dollar signs that mean money become `¤`; those that delimit mathematics go."""
    text = text.replace(r"\$", "¤")
    if text.count("$") % 2:
        text = re.sub(r"\$(?=\s*[-\d.])", "¤", text, count=1)
    return text.replace("$", " ")


def _strip_ends(text: str) -> str:
    while True:
        before = text
        text = text.strip(" \t\n\"'`").rstrip(".,;:!" if not text[-2:-1].isalnum() else ".,;:")
        if text.startswith("{") and text.endswith("}") and closes_at(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def key(normalised: str) -> str:
    """The letters that matter: spaces stay only where they separate digits or words."""
    squeezed = _SPACE_BETWEEN.sub("", normalised)
    return squeezed.lower() if is_prose(normalised) else squeezed


_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[A-Za-zÀ-ÿ]{4,}|[぀-ヿ一-鿿]")


def is_prose(normalised: str) -> bool:
    """Whether words of four letters or more stand there, so that letters are not variables."""
    return _WORD.search(_COMMAND.sub(" ", normalised)) is not None


def closes_at(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start` (kinds may differ, as in `[1,2)`), or -1."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] in _OPEN:
            depth += 1
        elif text[i] in _CLOSE:
            depth -= 1
            if depth == 0:
                return i
    return -1


def depth(text: str) -> int:
    """How deep brackets nest in `text`."""
    now = deepest = 0
    for char in text:
        if char in _OPEN:
            now += 1
            deepest = max(deepest, now)
        elif char in _CLOSE:
            now -= 1
    return deepest


def split_top(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """`text` cut at each match of `separator` outside every bracket: (pieces, separators)."""
    level, levels = 0, []
    for char in text:
        if char in _CLOSE:
            level -= 1
        levels.append(level)
        if char in _OPEN:
            level += 1
    pieces, found, start = [], [], 0
    for match in separator.finditer(text):
        if levels[match.start()] == 0:
            pieces.append(text[start : match.start()].strip())
            found.append(match[0].strip())
            start = match.end()
    return [*pieces, text[start:].strip()], found
