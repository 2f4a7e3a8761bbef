"""The marks around hidden reasoning, and what stands outside them.

A response may open its thinking itself, or its prompt (or chat template) has opened it. What is inside is not an
answer. A response that never closes its thinking has no answer at all.
"""

from __future__ import annotations

import re

MARKS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<seed:think>", "</seed:think>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Pairs of an opening and a closing mark, as models of 2024 to 2026 write them."""


_OPENING = {closing: opening for opening, closing in MARKS}
MARK = re.compile("|".join(re.escape(mark) for pair in MARKS for mark in pair))


def answer_span(text: str, opening: str | None = None) -> tuple[int, int]:
    """Where the answer of a response begins and ends: after the last closed thinking, before one that is never closed.

    A closing mark closes its own opening mark and what was opened after it. If its own does not stand before it, it
    closes everything: a prompt that is not known opened that, or the model wrote another mark. Thinking that is known
    to be opened by the prompt, with the mark `opening`, ends only at its own closing mark.
    """
    opened = [] if opening is None else [opening]
    start = begun = 0
    for mark in MARK.finditer(text):
        own = _OPENING.get(mark[0])
        if own is None:
            if not opened:
                begun = mark.start()
            if mark[0] not in opened:
                opened.append(mark[0])
            continue
        if own in opened:
            opened = opened[: opened.index(own)]
        elif opening in opened:  # closes everything but what the prompt opened
            opened = opened[:1]
        else:
            opened = []
        if not opened:
            start = mark.end()
    return start, begun if opened else len(text)


def outside(text: str) -> str:
    """The text after the last closed thinking, and before one that is never closed."""
    return text[slice(*answer_span(text))]


def opened_by(prompt: str) -> str | None:
    """The opening mark with which a prompt ends, so that its response begins inside the thinking; None if it does not.

    A prompt that only speaks of the marks, as an instruction does, opens nothing.
    """
    end = prompt.rstrip()
    return next((opening for opening, _ in MARKS if end.endswith(opening)), None)


def opened_first(response: str) -> str | None:
    """The opening mark with which a response begins; None if it begins with none."""
    begin = response.lstrip()
    return next((opening for opening, _ in MARKS if begin.startswith(opening)), None)


def never_ends(prompt: str, response: str) -> bool:
    """Whether thinking that `prompt` or the response opened is never closed, with no answer before it."""
    opening = opened_by(prompt)
    start, end = answer_span(response, opening)
    return not response[start:end].strip() and (end < len(response) or (opening is not None and start == 0))
