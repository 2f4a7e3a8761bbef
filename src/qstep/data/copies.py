"""Recognises problems of a test set in other spellings: near copies, and problems that share thirteen words in a row.

Test problems are held as hashes. Problems that are looked up may be read one at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from qstep.types import Prompt

_WORDS = 13
_COMMON = 10
"""Words in a row that more test problems share are a phrase of the test set, and do not count."""
_SAMPLE = 1000
"""The number of problems whose sentences are counted to find an instruction."""
_SPACING = re.compile(
    r"\\(?:[,!;:>\s]|(?:quad|qquad|left|right|thinspace|medspace|thickspace|enspace|displaystyle)(?![A-Za-z]))|[~\s]"
)
_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
_FACTORIAL = re.compile(r"(?:[\d)]|\b[a-z])!$")
_AT_END = ".,;:!?"
_AROUND_WORDS = ".,;:!?()[]{}\"'`*_$\u2018\u2019\u201c\u201d\u3001\u3002\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
# Thai, Lao, Burmese, Khmer, Japanese and Chinese are written without blanks between words.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_WORD = re.compile(f"[{_SPACELESS}]|[^\\s{_SPACELESS}]+")
_SENTENCE_END = re.compile(r"(?<=[.:?!])\s+|\s*\n\s*")


def problem_text(prompt: Prompt) -> str:
    """The text of a problem: the prompt, or the messages of a conversation except the system's."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] != "system")


def near_form(text: str) -> str:
    """The text in lower case, without blanks, spacing of LaTeX, and punctuation at the end.

    Blanks between digits become a comma, so that `3 1/2` is not `31/2`; a factorial at the end stays. A text of
    punctuation alone is returned as it is.
    """
    lower = text.casefold().rstrip().rstrip(_AT_END.replace("!", ""))
    near = _SPACING.sub("", _BETWEEN_DIGITS.sub(",", lower)).rstrip(_AT_END)
    return near + "!" * bool(_FACTORIAL.search(lower)) or text


@dataclass(frozen=True)
class Instruction:
    """The sentences that most problems of a file begin or end with, in their near form. They say what to do, not what
    the problem is."""

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Instruction:
        """The instruction of a file of problems, found in the first thousand different ones."""
        split = [_sentences(text) for text in islice(dict.fromkeys(texts), _SAMPLE)]
        first = _common_beginning([[*map(near_form, sentences)] for sentences in split])
        last = _common_beginning([[*map(near_form, reversed(sentences[len(first) :]))] for sentences in split])
        return cls(first, last)

    def removed(self, text: str) -> str:
        """The text without the instruction, if it has it and more."""
        sentences = _sentences(text)
        if (n := len(self.first)) < len(sentences) and (*map(near_form, sentences[:n]),) == self.first:
            sentences = sentences[n:]
        if (n := len(self.last)) < len(sentences) and (*map(near_form, sentences[: -n - 1 : -1]),) == self.last:
            sentences = sentences[: len(sentences) - n]
        return " ".join(sentences)


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text.strip())


def _common_beginning(texts: list[list[str]]) -> tuple[str, ...]:
    """The longest beginning that most of the texts share, and that is not all of them."""
    found: list[str] = []
    while True:
        n = len(found)
        following = Counter(text[n] for text in texts if len(text) > n + 1 and text[:n] == found)
        sentence, count = next(iter(following.most_common(1)), ("", 0))
        if count < 2 or 2 * count <= len(texts):
            return (*found,)
        found.append(sentence)


@dataclass(frozen=True, slots=True)
class Match:
    """A test problem that a problem resembles: its line, and the words that both have. None for a near copy."""

    line: int
    words: str | None = None


class KnownProblems:
    """The problems of a test file, to compare others with.

    A near copy has the near form of a test problem. Each may have the instruction of its file or lack it. An overlap
    has 13 words in a row of a test problem, without instructions. They are the unit of GPT-3's check for contamination
    (arXiv 2005.14165, appendix C). Test problems of fewer words are compared as a whole.
    """

    def __init__(self, texts: Callable[[], Iterable[tuple[int, str]]]) -> None:
        """`texts` returns each problem with its line. It is called twice."""
        self._instruction = Instruction.of(text for _, text in texts())
        self._forms: dict[int, int] = {}
        self._runs: dict[int, int] = {}
        having: Counter[int] = Counter()
        for line, text in texts():
            bare = self._instruction.removed(text)
            for form in (text, bare):
                self._forms.setdefault(hash(near_form(form)), line)
            runs = {hash(run) for run in _runs(bare)}
            having.update(runs)
            for run in runs:
                self._runs.setdefault(run, line)
        for run, problems in having.items():
            if problems > _COMMON:
                del self._runs[run]

    def match(self, text: str, instruction: Instruction) -> Match | None:
        """The test problem that a text resembles. `instruction` is that of the text's own file."""
        bare = instruction.removed(text)
        for form in (text, bare):
            if (line := self._forms.get(hash(near_form(form)))) is not None:
                return Match(line)
        for run in _runs(bare):
            if (line := self._runs.get(hash(run))) is not None:
                return Match(line, " ".join(run))
        return None


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """All runs of 13 words in small letters, without punctuation around them. A shorter text is one run.

    In a script without blanks between words, such as Chinese, each character counts as a word.
    """
    words = [word for part in _WORD.findall(text.casefold()) if (word := part.strip(_AROUND_WORDS))]
    for start in range(max(1, len(words) - _WORDS + 1)):
        yield tuple(words[start : start + _WORDS])
