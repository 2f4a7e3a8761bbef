"""Which token ends each step, for sampled tokens and for the tokens that a tokenizer makes of a text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qstep.data.steps import Span, checked_steps, step_regions
from qstep.data.tokens import decode_text, encode_completion, encode_text, text_offsets
from qstep.types import Row
from qstep.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Steps on the tokens of a text: for each step the index of its last token, and for each token its step, or -1."""

    ends: list[int]
    step_of: list[int]


def map_steps(offsets: Sequence[Span], spans: Sequence[Span]) -> StepTokens:
    """Steps that lie at `spans` of a text, on the tokens that lie at `offsets` of it (a tokenizer's offset mapping).

    A step ends at the last token that covers its last character, or the last before it that is covered. A token is of
    the first step of which it covers a character: one that reaches over the end of a step ends it and is of it, and
    with it the bytes of a character that several tokens share. A token without characters (a special one, a
    beginning that the tokenizer puts before a text) is of no step. A step of which the tokenizer keeps nothing ends
    where the step before does.

    Raises ValueError where nothing is kept of the first step, either.
    """
    covered = [(start, end, token) for token, (start, end) in enumerate(offsets) if start < end]
    step_of = [-1] * len(offsets)
    ends: list[int] = []
    place = 0
    for number, (first, behind) in enumerate(spans):
        while place < len(covered) and covered[place][0] < behind:
            if covered[place][1] > first:
                step_of[covered[place][2]] = number
            place += 1
        if place == 0:
            raise ValueError(f"the tokenizer keeps nothing of step {number + 1}, so no token ends it")
        ends.append(covered[place - 1][2])
    return StepTokens(ends, step_of)


def spread_scores(scores: Sequence[float], ends: Sequence[int], tokens: int) -> list[float]:
    """A reward for each of `tokens` tokens: at the end of each step its score (the sum, where two end there), else 0.

    Raises ValueError for scores of other steps, or an end that is no token.
    """
    if len(scores) != len(ends):
        raise ValueError(f"{counted(len(scores), 'score')} for {counted(len(ends), 'step')}; give one for each step")
    rewards = [0.0] * tokens
    for score, end in zip(scores, ends, strict=True):
        if not 0 <= end < tokens:
            raise ValueError(f"a step ends at token {end}, and there are {tokens}")
        rewards[end] += score
    return rewards


def row_step_ends(
    tokenizer: PreTrainedTokenizerBase, row: Row, steps: Sequence[str], separator: str = "\n"
) -> list[int]:
    """For each step of a row, the index of its last token in what `encode_completion` makes of the row.

    Sampled tokens, and those of a tokenizer that reads back the text it was given, by `step_token_ends`; those of one
    that does not (it lowers letters, composes characters, drops blanks) by the characters that its tokens cover, with
    the same regions: `step_regions`.

    Raises ValueError where `steps` are not those of the tokens.
    """
    ids = encode_completion(tokenizer, row)
    if row.get("completion_ids") is not None:
        return step_token_ends(tokenizer, ids, steps, separator)
    text = row["completion"]
    if decode_text(tokenizer, encode_text(tokenizer, text)) == text:
        return step_token_ends(tokenizer, ids, steps, separator)
    _, offsets = text_offsets(tokenizer, text)
    ends = map_steps(offsets, step_regions(text, steps, separator)).ends
    return [*ends[:-1], len(ids) - 1] if ends else []


def step_token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], steps: Sequence[str], separator: str = "\n"
) -> list[int]:
    """For each step, the index in `token_ids` (a whole response) of its last token.

    A step owns what follows it as `step_regions` says, so its last token is the one that completes the last of its
    separators; the last step owns everything to the end, the end-of-sequence token included. So `token_ids[: end + 1]`
    is the prefix to continue from. A last token that is in no step (an end-of-sequence token that is not a special
    one) is the last step's. A token that holds the end of one step and the beginning of the next ends the
    former; where a whole step lies inside one token with its neighbour, both have the same last token.

    Raises:
        ValueError: `steps` are not those of the decoded tokens.
    """

    steps = checked_steps(steps)

    def decode(part: list[int]) -> str:
        return decode_text(tokenizer, part)

    for ids in (list(token_ids), list(token_ids[:-1])):
        text = decode(ids)
        with suppress(ValueError):
            regions = step_regions(text, steps, separator)
            break
    else:
        raise ValueError(
            f"the steps {list(steps)!r} are not those of the tokens, which read {decode(list(token_ids))!r}"
        )

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

    ends: list[int] = []
    count = position = 0
    for _, target in regions[:-1]:
        if position < target:
            found = find(count, position, target) or find(0, 0, target)
            assert found is not None, "all tokens together complete the text"
            count, position = found
        ends.append(count - 1)
    return [*ends, len(token_ids) - 1] if steps else []
