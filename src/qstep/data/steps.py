"""A response as steps: where its text is cut, and which of its tokens ends each step."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qstep.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def split_steps(text: str, separator: str = "\n") -> list[str]:
    """The non-blank parts of `text` between separators, without surrounding blanks; all other text is kept.

    Raises ValueError for an empty separator.
    """
    return [part.strip() for part in text.split(separator) if part.strip()]


def check_separator(option: str, separator: str) -> None:
    """Raises ValueError, naming the option, for an empty separator, or one with a backslash and an n or a t in it."""
    if not separator:
        raise ValueError(f"--{option} is empty; give the text between steps")
    if re.search(r"\\[nt](?![a-zA-Z])", separator):
        raise ValueError(
            f"--{option} {separator!r} holds a backslash and a letter, not a line break or a tab: in a shell write "
            f"$'{separator}' (in YAML, \"{separator}\")"
        )


def steps_of(row: Row, separator: str) -> list[str]:
    """The steps of a response: its `completions` if it was split before, else its completion, split.

    Raises:
        ValueError: it was split at another separator, or a step contains this one.
    """
    if "completions" not in row:
        return split_steps(row["completion"], separator)
    split_at = row.get("step_separator", separator)
    if split_at != separator:
        raise ValueError(f"row {row.get('id')!r} was split into steps at {split_at!r}, not at {separator!r}: use that")
    for step in row["completions"]:
        if separator in step:
            raise ValueError(f"row {row.get('id')!r} has a step that contains the separator {separator!r}: {step!r}")
    return list(row["completions"])


def step_token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], steps: Sequence[str], separator: str = "\n"
) -> list[int]:
    """For each step, the index in `token_ids` (a whole response) of its last token.

    A step owns the separators that follow it, so its last token is the one that completes the last of these;
    the last step owns everything to the end, the end-of-sequence token included. So `token_ids[: end + 1]` is
    the prefix to continue from. A last token that is in no step (an end-of-sequence token that is not a special one) is
    the last step's. A token that holds the end of one step and the beginning of the next ends the
    former; where a whole step lies inside one token with its neighbour, both have the same last token.

    Raises:
        ValueError: `steps` are not what `split_steps` makes of the decoded tokens.
    """

    ids = list(token_ids)

    def decode(part: list[int]) -> str:
        return str(tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = decode(ids)
    if split_steps(text, separator) != list(steps) == split_steps(decode(ids[:-1]), separator):
        ids.pop()
        text = decode(ids)
    if split_steps(text, separator) != list(steps):
        raise ValueError(f"the steps {list(steps)!r} are not those of the tokens, which read {text!r}")

    def find(start: int, position: int, target: int) -> tuple[int, int] | None:
        """How many tokens complete `text[:target]`, and how far they reach, if the first `start` reach to
        `position`. Decodes only tokens from `start` on; None if those do not continue the text (a decoder
        may strip a blank at the beginning, or `start` may lie within a character)."""

        def reached(count: int) -> int:
            furthest = 0
            # A character torn at the end spoils itself, and with byte fallback the bytes before it too: then
            # one of the (at most 3) tokens before ends well.
            for fewer in range(count, max(count - 4, start), -1):
                part = decode(ids[start:fewer])
                if text.startswith(part, position):
                    return position + max(furthest, len(part))
                while not text.startswith(part, position):
                    part = part[:-1]
                furthest = max(furthest, len(part))
            return position + furthest

        width = 8
        while (limit := min(start + width, len(ids))) < len(ids) and (at := reached(limit)) < target:
            if at == position:
                return None
            width *= 2
        counts = range(start + 1, limit + 1)
        index = bisect_left(counts, target, key=reached)
        return (counts[index], reached(counts[index])) if index < len(counts) else None

    owned_to: list[int] = []  # for each step, the position in `text` behind its last separator
    behind = 0
    for part in text.split(separator):
        behind += len(part) + len(separator)
        if part.strip():
            owned_to.append(behind)
        elif owned_to:
            owned_to[-1] = behind
    ends: list[int] = []
    count = position = 0
    for target in owned_to[:-1]:
        if position < target:
            found = find(count, position, target) or find(0, 0, target)
            assert found is not None, "all tokens together complete the text"
            count, position = found
        ends.append(count - 1)
    return [*ends, len(token_ids) - 1] if steps else []
