"""Splits responses into steps, and checks given steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from qstep.data.messages import TURNS, has_turns, turn_texts
from qstep.data.parts import Part, base_of, part_of, part_span, thinking_opened_for
from qstep.data.splitters import cuts, is_named, is_users_splitter, refuse_bare_name, use_splitter
from qstep.types import Row

Span = tuple[int, int]
"""The start and end of a step in a text: the index of its first character, and the one after its last."""


def checked_steps(steps: Any, where: str = "steps") -> list[str]:
    """`steps` as a list, if they are strings. A generator is read once.

    A string is refused, because each of its characters would be a step.

    Raises TypeError, naming `where`, for anything else.
    """
    if not isinstance(steps, Iterable) or isinstance(steps, str | bytes | Mapping):
        raise TypeError(
            f"{where} must be a list of strings, one for each step, not {type(steps).__name__}. "
            "qstep.data.split_steps cuts a response into steps"
        )
    taken = list(steps)
    for number, step in enumerate(taken):
        if not isinstance(step, str):
            raise TypeError(f"{where}[{number}] must be a string, the step's text, not {type(step).__name__}")
    return taken


def step_spans(text: str, separator: str = "\n", *, thinking_opened: str | bool = False) -> list[Span]:
    """The spans of the steps of `text`: its non-blank parts, without surrounding blanks.

    `separator` is the text between parts, or names a splitter (`qstep.data.splitters`). `thinking_opened` says whether
    the text begins inside thinking, or is the mark that opened it, for a splitter of one part of a response. A text
    without that part has no steps.

    Raises ValueError for an empty separator, and as `qstep.data.splitters.cuts` does. Raises TypeError for a text that
    is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text must be a string, not {type(text).__name__}")
    cut_part = part_of(separator)
    first, last = part_span(text, cut_part, opened=thinking_opened) if cut_part else (0, len(text))
    spans = []
    for start, end in _parts(text[first:last], base_of(separator)):
        start, end = start + first, end + first
        part = text[start:end]
        if step := part.strip():
            start += len(part) - len(part.lstrip())
            spans.append((start, start + len(step)))
    return spans


def split_steps(text: str, separator: str = "\n") -> list[str]:
    """The steps of `text`: its non-blank parts, without surrounding blanks.

    Raises as `step_spans` does, and ValueError for the name of a splitter without `split:`.

    Args:
        text: a response.
        separator: the text between steps, or `split:line`, `split:blank_line`, `split:numbered` (headings `Step 1:`),
            `split:sentence`, `split:paragraph` for reasoning traces, or `split:module:function`, a function of your own
            that returns the parts of a text. `split:thinking:line` cuts only the thinking of a response, and
            `split:answer:line` only what follows it.

    Example:
        >>> qstep.split_steps("3 * 4 = 12\\n\\n2 + 12 = 14")
        ['3 * 4 = 12', '2 + 12 = 14']
        >>> qstep.split_steps("He buys 3. He eats 1. So 2 are left.", "split:sentence")
        ['He buys 3.', 'He eats 1.', 'So 2 are left.']
    """
    refuse_bare_name(separator)
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


def locate_steps(text: str, steps: Sequence[str], start: int = 0) -> list[Span]:
    """The spans of the given steps in `text` from `start`. Each is the first match after the step before it.

    Raises ValueError, naming the step, if one is not found.
    """
    spans: list[Span] = []
    position = start
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
    """Cuts `text` into one region for each step. Together the regions are the complete text.

    A region holds the step and the separators after it. With a named splitter, it holds the step and what follows, up
    to the last line break before the next step. The first region also holds what is before its step, and the last one
    everything to the end.

    Raises:
        ValueError: `steps` are not those of the text. At a literal separator, the text must be split into exactly these
            steps. For a named splitter, all that is not blank must be in a step, or outside the part that it cuts. (A
            user's function need not be loaded for this.)
    """
    steps, named, part = checked_steps(steps), is_named(separator), part_of(separator)
    first = _part_start(text, steps, part) if part else 0
    spans = locate_steps(text, steps, first) if named else step_spans(text, separator)
    starts, ends = [*(start for start, _ in spans), len(text)], [0, *(end for _, end in spans)]
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    if named:
        fits = not any(gap.strip() for gap in (gaps[1:-1] if part else gaps))
    else:
        fits = [text[start:end] for start, end in spans] == list(steps)
    if not fits:
        raise ValueError(f"the steps {list(steps)!r} are not those of the text {text!r}")
    if not spans:
        return []
    for_next = (_after_line_break(gap) if named else gap.split(separator)[-1] for gap in gaps[1:-1])
    borders = [start - len(of_next) for start, of_next in zip(starts[1:-1], for_next, strict=True)]
    return list(pairwise([0, *borders, len(text)]))


def _part_start(text: str, steps: Sequence[str], part: Part) -> int:
    """Where a part begins. Thinking that is never closed begins at its mark, or with the text, as its steps say."""
    marked = part_span(text, part)[0]
    if part == "answer" or _visible(text[marked:]).startswith(_visible("".join(steps))):
        return marked
    return part_span(text, part, opened=True)[0]


def _visible(text: str) -> str:
    return "".join(text.split())


def _after_line_break(gap: str) -> str:
    return re.split(r"[\r\n]", gap)[-1]


def check_separator(option: str, separator: str) -> None:
    """Checks a user's separator, or name of a splitter (`use_splitter`).

    Raises ValueError, naming the option, for an empty separator, one with the two characters of an escaped line break
    or tab, a splitter that cannot be loaded, or its name without `split:`.
    """
    if not separator:
        raise ValueError(f"--{option} is empty; give the string between steps")
    try:
        refuse_bare_name(separator)
        if is_named(separator):
            use_splitter(separator)
    except ValueError as error:
        raise ValueError(f"--{option}: {error}") from None
    if not is_named(separator) and (found := re.search(r"\\([nt])(?![a-zA-Z])", separator)):
        meant = "a line break" if found[1] == "n" else "a tab"
        raise ValueError(
            f"--{option} {separator} has the two characters \\ and {found[1]}, not {meant}. In a shell write "
            f"$'{separator}' (in YAML, \"{separator}\")"
        )


def first_cut(steps: Sequence[str], separator: str, *, split_by_it: bool = False) -> str | None:
    """The first of `steps` that `separator` would split again, or None.

    Raises TypeError if `steps` is a string.

    If the steps were `split_by_it` and it is the user's own function, they are accepted as they are. The function may
    have used the context of a step, and it is not loaded for this check.
    """
    if isinstance(steps, str):
        checked_steps(steps)  # raises. Lists of rows are checked when they are read; there may be millions.
    if split_by_it and is_users_splitter(separator):
        return None
    if is_named(separator):
        base = base_of(separator)
        return next((step for step in steps if len(step_spans(step, base)) > 1), None)
    return next((step for step in steps if separator in step), None)


def with_steps(row: Row, separator: str) -> Row:
    """The row with its steps in `completions`. A row without steps is split. Raises ValueError as `steps_of` does."""
    steps = steps_of(row, separator)
    if has_turns(row.get("completion")):
        separator = TURNS
    return row if "completions" in row else {**row, "completions": steps, "step_separator": separator}


def steps_of(row: Row, separator: str) -> list[str]:
    """The steps of a response: its `completions` if it has them, else its completion, split.

    Raises:
        ValueError: it was split at another separator, or a step would be split again. Also as `step_spans` does.
    """
    if has_turns(row.get("completion")):
        return turn_texts(row["completion"])
    if "completions" not in row:
        text, opened = row["completion"], part_of(separator) is not None and (thinking_opened_for(row) or False)
        return [text[start:end] for start, end in step_spans(text, separator, thinking_opened=opened)]
    steps = checked_steps(row["completions"], f"row {row.get('id')!r}: completions")
    split_at = row.get("step_separator", separator)
    if split_at != separator:
        raise ValueError(f"row {row.get('id')!r} was split into steps at {split_at!r}, not at {separator!r}")
    cut = first_cut(steps, separator, split_by_it="step_separator" in row)
    if cut is not None:
        raise ValueError(f"row {row.get('id')!r} has a step that contains the separator {separator!r}: {cut!r}")
    return steps
