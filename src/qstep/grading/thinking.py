"""The marks around hidden reasoning, and what stands outside them.

A response may open its thinking itself, or its prompt (or chat template) has opened it. What is inside is not an
answer. A response that never closes its thinking has no answer at all.
"""

from __future__ import annotations

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
)
"""Pairs of an opening and a closing mark, as models of 2024 to 2026 write them."""


def outside(text: str) -> str:
    """The text after the last closed thinking, and before one that is never closed."""
    for opening, closing in MARKS:
        text = text.rpartition(closing)[2] if closing in text else text
        text = text.partition(opening)[0]
    return text


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
    """Whether thinking that `prompt` opened is never closed in `response`."""
    opening = opened_by(prompt)
    return opening is not None and dict(MARKS)[opening] not in response
