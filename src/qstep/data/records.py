"""What an index holds of a row: a record of fixed size, of lengths, numbers and hashes."""

from __future__ import annotations

import hashlib
import struct
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstep.data.messages import all_text, has_turns, identity
from qstep.data.parts import ends_with_step, part_of
from qstep.data.rows import Format, is_right, is_truncated, outcome
from qstep.types import Prompt, Row

COLUMNS: np.dtype[np.void] = np.dtype(
    [
        ("offset", "<i8"),  # where the line begins, counted over all files
        ("size", "<i4"),  # its bytes
        ("line", "<i8"),  # its number, counted from 1 over all files
        ("problem", "<u8"),  # hash of (problem_id, prompt): what makes a group
        ("prompt", "<u8"),  # hash of the prompt alone: two files may give one problem two ids
        ("response", "<u8"),  # hash of the prompt and the steps; of the completion in a format without steps
        ("labelling", "<u8"),  # hash of the labels, 0 where no step has one
        ("id", "<u8"),  # hash of the id, 0 without one
        ("gold", "<u8"),  # hash of the gold answer, 0 without one
        ("content", "<u8"),  # hash of the line's bytes
        ("outcome", "<f8"),  # the reward, NaN if unknown
        ("lowest", "<f8"),  # of the labels, NaN where no step has one
        ("highest", "<f8"),
        ("lowest_before", "<f8"),  # of the labels without that of an unfinished last step, NaN if none is left
        ("highest_before", "<f8"),
        ("last", "<f8"),  # the last step's label, NaN where it has none
        ("prompt_bytes", "<i4"),  # of the prompt's text, or its messages' texts
        ("prompt_extra", "<i4"),  # bytes beyond one a character
        ("response_bytes", "<i4"),  # of the completion, or in the format stepwise of the steps' texts
        ("response_extra", "<i4"),
        ("steps", "<i4"),  # number of `completions`, -1 without
        ("labelled", "<i4"),  # number of steps with a label
        ("above", "<i4"),  # number of steps with a label above 0
        ("soft", "<i4"),  # number of steps with a number for a label
        ("right", "<i4"),  # whether the response is right: 1 or 0, -1 if unknown
        ("ids", "<i4"),  # number of `completion_ids`, -1 without
        ("roles", "<i4"),  # who speaks in the prompt, an entry of `Index.roles`
        ("separator", "<i4"),  # an entry of `Index.separators`
        ("graded", "?"),  # has a label or a reward, null or not
        ("behavior", "?"),  # has logps_behavior
        ("rewarded", "?"),  # has step_rewards
        ("rises", "?"),  # a step has a higher label than one before it
        ("blank", "?"),  # has neither a text nor completion_ids
        ("structured", "?"),  # has several turns, or tools: its number of tokens is known only when it is rendered
        ("judged", "?"),  # has a label that is not null
        ("valued", "?"),  # has a reward that is not null
        ("cut", "?"),  # was cut off
        ("truncated", "?"),  # was cut off and is not known to be right
    ]
)
_CODES = {"<i8": "q", "<i4": "i", "<u8": "Q", "<f8": "d", "|b1": "?"}
_PACK = struct.Struct("<" + "".join(_CODES[COLUMNS[name].str] for name in COLUMNS.names or ())).pack


def record(
    row: Row,
    format: Format,
    offset: int,
    line: int,
    text: bytes,
    separators: dict[str | None, int],
    roles: dict[tuple[str, ...], int],
) -> bytes:
    """The record of a row whose line begins at `offset`. New separators and roles get the next number."""
    prompt, steps, ids = row["prompt"], row.get("completions"), row.get("completion_ids")
    turns = [] if isinstance(prompt, str) else list(map(identity, prompt))
    prompt_text = prompt if isinstance(prompt, str) else all_text(prompt)
    completion = row.get("completion", "")
    several = completion if has_turns(completion) else []
    structured = bool(several) or any(len(turn) > 2 for turn in turns)
    speakers = ("user",) if structured else tuple(turn[0] for turn in turns)
    response = all_text(several) if several else "".join(steps) if format == "stepwise" and steps else completion
    separator, nan = row.get("step_separator"), float("nan")
    by_steps = format == "stepwise" and bool(steps) and part_of(separator or "") is None
    compared = list(map(identity, several)) or (steps if by_steps else completion or steps)
    prompt_bytes, response_bytes = len(prompt_text.encode()), len(response.encode())
    reward, right, labels = outcome(row), is_right(row), row.get("labels") or [None]
    known = [label for label in labels if label is not None]
    finished = labels[-1] is None or not ends_with_step(row, separator or "")
    before = known if finished else known[:-1]
    return _PACK(
        offset,
        len(text),
        line,
        _hash((row.get("problem_id"), turns or prompt)),
        prompt_hash(prompt),
        _hash((turns or prompt, compared)),
        _hash(labels) if known else 0,
        _hash(row["id"]) if "id" in row else 0,
        0 if row.get("gold") is None else _hash(row["gold"]),
        bytes_hash(text),
        nan if reward is None else reward,
        min(known, default=nan),
        max(known, default=nan),
        min(before, default=nan),
        max(before, default=nan),
        nan if labels[-1] is None else labels[-1],
        prompt_bytes,
        prompt_bytes - len(prompt_text),
        response_bytes,
        response_bytes - len(response),
        -1 if steps is None else len(steps),
        len(known),
        sum(label > 0 for label in known),
        sum(isinstance(label, float) for label in known),
        -1 if right is None else int(right),
        -1 if ids is None else len(ids),
        roles.setdefault(speakers, len(roles)),
        separators.setdefault(separator, len(separators)),
        "label" in row or "reward" in row,
        row.get("logps_behavior") is not None,
        row.get("step_rewards") is not None,
        any(after > before for after, before in zip(known[1:], accumulate(known, min), strict=False)),
        ids is None and not response.strip(),
        structured,
        row.get("label") is not None,
        row.get("reward") is not None,
        row.get("finish_reason") == "length",
        is_truncated(row),
    )


def prompt_hash(prompt: Prompt) -> int:
    """The number that represents a prompt in an index."""
    return _hash(prompt if isinstance(prompt, str) else list(map(identity, prompt)))


def _hash(value: Any) -> int:
    return bytes_hash(repr(value).encode())


def bytes_hash(content: bytes) -> int:
    """The number that represents a line in an index, never 0."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


def have_same_rewards(table: NDArray[np.void]) -> NDArray[np.bool_]:
    """For each row of an index, whether all graded rows of its problem have the same reward."""
    _, problem = np.unique(table["problem"], return_inverse=True)
    least, greatest = np.full(len(table), np.inf), np.full(len(table), -np.inf)
    np.fmin.at(least, problem, table["outcome"])
    np.fmax.at(greatest, problem, table["outcome"])
    found: NDArray[np.bool_] = (least == greatest)[problem]
    return found
