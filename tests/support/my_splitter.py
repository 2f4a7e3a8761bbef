"""Splitters as a user writes them, loaded by name in data/test_splitting.py."""

from __future__ import annotations

import re


def at_semicolons(text: str) -> list[str]:
    return re.split(r"(?<=;)", text)


def halves(text: str) -> list[str]:
    """Cuts by what is around: a half alone would be cut again."""
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def before_answers(text: str) -> list[str]:
    return re.split(r"(?=#)", text)


def without_blanks(text: str) -> list[str]:
    return text.split()


def one_text(text: str) -> str:
    return text


not_a_function = 7
