"""A response as steps: where its text is cut, and how given steps are checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from qstep.data.splitters import cuts, is_named, is_users_splitter, use_splitter
from qstep.types import Row

Span = tuple[int, int]
"""Where a step lies in a text: the index of its first character, and the one after its last."""


def checked_steps(steps: Any, where: str = "steps") -> list[str]:
    """`steps` as a list, if it is one of strings.

    A string is not: taken as a sequence, each of its characters would be a step. A generator is, and is read once.

    Raises TypeError, naming `where`, for anything else.
    """
    if not isinstance(steps, Iterable) or isinstance(steps, str | bytes | Mapping):
        raise TypeError(
            f"{where} is of type {type(steps).__name__}, and has to be a list of strings, one for each step. "
            "qstep.data.split_steps cuts a response into steps"
        )
    taken = list(steps)
    for number, step in enumerate(taken):
        if not isinstance(step, str):
            kind = type(step).__name__
            raise TypeError(f"{where}[{number}] is of type {kind}, and has to be a string, the step's text")
    return taken


def step_spans(text: str, separator: str = "\n") -> list[Span]:
    """Where the steps of `text` lie: its non-blank parts, without surrounding blanks.

    `separator` is the text between parts, or names a splitter (`qstep.data.splitters`).

    Raises ValueError for an empty separator, and as `qstep.data.splitters.cuts` does. Raises TypeError for a text that
    is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text is of type {type(text).__name__}, and has to be a string")
    spans = []
    for start, end in _parts(text, separator):
        part = text[start:end]
        if step := part.strip():
            start += len(part) - len(part.lstrip())
            spans.append((start, start + len(step)))
    return spans


def split_steps(text: str, separator: str = "\n") -> list[str]:
    """The steps of `text`: its non-blank parts, without surrounding blanks. Raises as `step_spans` does.

    Args:
        text: a response.
        separator: the text between steps, or `split:line`, `split:blank_line`, `split:numbered` (headings `Step 1:`),
            `split:sentence` or `split:module:function`, a function of your own that returns the parts of a text.

    Example:
        >>> qstep.split_steps("3 * 4 = 12\\n\\n2 + 12 = 14")
        ['3 * 4 = 12', '2 + 12 = 14']
        >>> qstep.split_steps("He buys 3. He eats 1. So 2 are left.", "split:sentence")
        ['He buys 3.', 'He eats 1.', 'So 2 are left.']
    """
    return [text[start:end] for start, end in step_spans(text, separator)]


def _parts(text: str, separator: str) -> Iterator[Span]:
    start = 0
    if is_named(separator):
        for end in cuts(text, separator):
            yield start, end
            start = end
    else:
        for part in text.split(separator):
            yield start, start + len(part)
            start += len(part) + len(separator)


def locate_steps(text: str, steps: Sequence[str]) -> list[Span]:
    """Where the given steps lie in `text`, in order, each at its first place after the one before.

    Raises ValueError, naming the step that is not there.
    """
    spans: list[Span] = []
    position = 0
    steps = checked_steps(steps)
    for number, step in enumerate(steps, 1):
        start = text.find(step, position)
        if start < 0:
            raise ValueError(
                f"step {number} of {len(steps)}, {step!r}, is not in the text after its first {position} characters: "
                f"{text[position : position + 60]!r}"
            )
        position = start + len(step)
        spans.append((start, position))
    return spans


def step_regions(text: str, steps: Sequence[str], separator: str = "\n") -> list[Span]:
    """`text` cut into as many regions as it has steps: each step with what it owns, together the whole text.

    A step owns the separators after it. With a named splitter, it owns what follows up to the last line break before
    the next step. The first step also owns what is before it, and the last one everything to the end.

    Raises:
        ValueError: `steps` are not those of the text: at a literal separator, it is split otherwise; of a named
            splitter, more than blanks is in none of them. (A user's function need not be loaded for that.)
    """
    steps, named = checked_steps(steps), is_named(separator)
    spans = locate_steps(text, steps) if named else step_spans(text, separator)
    starts, ends = [*(start for start, _ in spans), len(text)], [0, *(end for _, end in spans)]
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    if any(map(str.strip, gaps)) if named else [text[start:end] for start, end in spans] != list(steps):
        raise ValueError(f"the steps {list(steps)!r} are not those of the text {text!r}")
    if not spans:
        return []
    behind = (_after_line_break(gap) if named else gap.split(separator)[-1] for gap in gaps[1:-1])
    borders = [start - len(of_next) for start, of_next in zip(starts[1:-1], behind, strict=True)]
    return list(pairwise([0, *borders, len(text)]))


def _after_line_break(gap: str) -> str:
    return re.split(r"[\r\n]", gap)[-1]


def check_separator(option: str, separator: str) -> None:
    """Checks what a user gives as the text between steps, or as the name of a splitter (`use_splitter`).

    Raises ValueError, naming the option, for an empty separator, one with a backslash and an n or a t in it, or a
    splitter that is not there.
    """
    if not separator:
        raise ValueError(f"--{option} is empty; give the string between steps")
    if is_named(separator):
        try:
            use_splitter(separator)
        except ValueError as error:
            raise ValueError(f"--{option}: {error}") from None
    elif re.search(r"\\[nt](?![a-zA-Z])", separator):
        raise ValueError(
            f"--{option} {separator!r} holds a backslash and a letter, not a line break or a tab: in a shell write "
            f"$'{separator}' (in YAML, \"{separator}\")"
        )


def first_cut(steps: Sequence[str], separator: str, *, split_by_it: bool = False) -> str | None:
    """The first of `steps` that `separator` would cut again, if there is one: a step is one step when it stands alone.

    Raises TypeError where `steps` is a string.

    If the steps were `split_by_it` and it is the user's own function, they are accepted as they are. The function may
    have used the context of a step, and it is not loaded for this check.
    """
    if isinstance(steps, str):
        checked_steps(steps)  # raises; lists are what rows hold by the million, and are checked where they are read
    if split_by_it and is_users_splitter(separator):
        return None
    if is_named(separator):
        return next((step for step in steps if len(step_spans(step, separator)) > 1), None)
    return next((step for step in steps if separator in step), None)


def with_steps(row: Row, separator: str) -> Row:
    """The row with its steps in `completions`. A row without steps is split. Raises ValueError as `steps_of` does."""
    steps = steps_of(row, separator)
    return row if "completions" in row else {**row, "completions": steps, "step_separator": separator}


def steps_of(row: Row, separator: str) -> list[str]:
    """The steps of a response: its `completions` if it was split before, else its completion, split.

    Raises:
        ValueError: it was split at another separator, or a step would be split again; or as `step_spans` does.
    """
    if "completions" not in row:
        return split_steps(row["completion"], separator)
    steps = checked_steps(row["completions"], f"row {row.get('id')!r}: completions")
    split_at = row.get("step_separator", separator)
    if split_at != separator:
        raise ValueError(
            f"row {row.get('id')!r} was split into steps at {split_at!r}, not at {separator!r}: use the former"
        )
    cut = first_cut(steps, separator, split_by_it="step_separator" in row)
    if cut is not None:
        raise ValueError(f"row {row.get('id')!r} has a step that contains the separator {separator!r}: {cut!r}")
    return steps
