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


def left_open(text: str) -> tuple[str, str] | None:
    """The marks of a thinking that the text opens and does not close; None if there is none."""
    for opening, closing in MARKS:
        if text.rfind(opening) > text.rfind(closing):
            return opening, closing
    return None


def never_ends(prompt: str, response: str) -> bool:
    """Whether thinking that `prompt` opened is never closed in `response`."""
    marks = left_open(prompt)
    return marks is not None and marks[1] not in response
