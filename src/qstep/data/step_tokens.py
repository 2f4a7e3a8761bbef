"""The token that ends each step, for sampled tokens and for the tokens of a tokenized text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qstep.data.chat import without_opening
from qstep.data.messages import has_turns
from qstep.data.parts import thinking_end
from qstep.data.steps import Span, checked_steps, step_regions
from qstep.data.tokens import decode_text, encode_completion, encode_text, text_offsets
from qstep.data.turns import encode_response
from qstep.types import Row
from qstep.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Steps as tokens: the index of the last token of each step, and the step of each token, or -1."""

    ends: list[int]
    step_of: list[int]


def map_steps(offsets: Sequence[Span], spans: Sequence[Span]) -> StepTokens:
    """Maps steps at `spans` of a text to the tokens at `offsets` of it (a tokenizer's offset mapping).

    A step ends at the last token that covers its last character, or else the last covered character before it. A token
    belongs to the first step that it overlaps. So a token across the end of a step belongs to that step.
    The same holds for tokens that share the bytes of one character. A token without characters, such as a special token
    or a prefix of the tokenizer, belongs to no step. If the tokenizer drops a step completely, it ends at the same
    token as the step before.

    Raises ValueError if the tokenizer drops the first step.
    """
    covered = [(start, end, token) for token, (start, end) in enumerate(offsets) if start < end]
    step_of = [-1] * len(offsets)
    ends: list[int] = []
    place = 0
    for number, (first, end) in enumerate(spans):
        while place < len(covered) and covered[place][0] < end:
            if covered[place][1] > first:
                step_of[covered[place][2]] = number
            place += 1
        if place == 0:
            raise ValueError(f"the tokenizer drops all characters of step {number + 1}, so no token ends it")
        ends.append(covered[place - 1][2])
    return StepTokens(ends, step_of)


def spread_scores(scores: Sequence[float], ends: Sequence[int], tokens: int) -> list[float]:
    """A reward for each of `tokens` tokens: the step's score at its end, and 0 elsewhere. Scores at one token add up.

    Raises ValueError if the numbers of scores and ends differ, or if an end is out of range.
    """
    if len(scores) != len(ends):
        raise ValueError(f"{counted(len(scores), 'score')} for {counted(len(ends), 'step')}: give one for each step")
    rewards = [0.0] * tokens
    for score, end in zip(scores, ends, strict=True):
        if not 0 <= end < tokens:
            raise ValueError(f"a step ends at token {end}, and there are {tokens}")
        rewards[end] += score
    return rewards


def row_step_ends(
    tokenizer: PreTrainedTokenizerBase, row: Row, steps: Sequence[str], separator: str = "\n"
) -> list[int]:
    """The index of each step's last token, in the tokens that `encode_completion` returns for the row.

    Sampled tokens use `step_token_ends`, as do tokens of a tokenizer that decodes to the original text. Other
    tokenizers lower letters, compose characters or drop spaces. For these, the ends follow from the characters that the
    tokens cover, with the same `step_regions`.

    Raises ValueError if `steps` are not those of the tokens.
    """
    if has_turns(row["completion"]):
        return encode_response(tokenizer, row).ends
    ids = encode_completion(tokenizer, row)
    if row.get("completion_ids") is not None:
        return step_token_ends(tokenizer, ids, steps, separator)
    text = row["completion"]
    written = without_opening(tokenizer, row.get("prompt", ""), text)
    if len(written) < len(text):
        return _ends_without_opening(tokenizer, row, written, ids, steps, separator)
    if decode_text(tokenizer, encode_text(tokenizer, text)) == text:
        return step_token_ends(tokenizer, ids, steps, separator)
    return _ends_without_opening(tokenizer, row, text, ids, steps, separator)


def _ends_without_opening(
    tokenizer: PreTrainedTokenizerBase, row: Row, written: str, ids: Sequence[int], steps: Sequence[str], separator: str
) -> list[int]:
    """The steps' ends in the tokens of `written`, the end of the response. A step before it ends at the first token."""
    text = row["completion"]
    regions, after = step_regions(text, steps, separator), thinking_end(text, separator)
    if regions and after is not None:
        regions[-1] = (regions[-1][0], after)
    _, offsets = text_offsets(tokenizer, written)
    before = len(text) - len(written)
    inside = [(max(first - before, 0), end - before) for first, end in regions if end > before]
    ends = [*[0] * (len(regions) - len(inside)), *(map_steps(offsets, inside).ends if inside else [])]
    return [*ends[:-1], len(ids) - 1] if ends and after is None else ends


def step_token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], steps: Sequence[str], separator: str = "\n"
) -> list[int]:
    """The index of each step's last token in `token_ids`, a complete response.

    A step includes its separators, as in `step_regions`, so its last token completes the last of them. The last step
    includes everything to the end, also the end-of-sequence token. Only if the steps are those of closed thinking, it
    ends where the thinking does. So `token_ids[: end + 1]` is the prefix to continue from. A last token outside all
    steps (an end-of-sequence token that is not special) belongs to the last step. A token across two steps ends the
    first of them. If a step lies completely inside one token with its neighbour, both have the same last token.

    Raises:
        ValueError: `steps` are not those of the decoded tokens.
    """
    steps = checked_steps(steps)
    ids, text, regions = _regions_of(tokenizer, token_ids, steps, separator)
    ends: list[int] = []
    count = position = 0
    after = thinking_end(text, separator)
    for target in [*(end for _, end in regions[:-1]), *([] if after is None or not regions else [after])]:
        if position < target:
            found = _completing(tokenizer, ids, text, (count, position), target) or _completing(
                tokenizer, ids, text, (0, 0), target
            )
            assert found is not None, "all tokens together complete the text"
            count, position = found
        ends.append(count - 1)
    return [*ends, len(token_ids) - 1] if steps and after is None else ends


def _regions_of(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], steps: Sequence[str], separator: str
) -> tuple[list[int], str, list[Span]]:
    """The tokens with or without the last one, whichever read as the steps, their text, and the steps' regions in it.

    Raises ValueError if neither reads as the steps.
    """
    for ids in (list(token_ids), list(token_ids[:-1])):
        text = decode_text(tokenizer, ids)
        with suppress(ValueError):
            return ids, text, step_regions(text, steps, separator)
    read = decode_text(tokenizer, list(token_ids))
    raise ValueError(f"the steps {list(steps)!r} are not those of the tokens, which read {read!r}")


def _completing(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str, known: tuple[int, int], target: int
) -> tuple[int, int] | None:
    """The number of tokens that complete `text[:target]`, and the position that they reach.

    `known` is such a pair for an earlier position. Only the tokens after it are decoded. None if these do not continue
    the text, because a decoder may strip a space at the beginning, or `known` may lie inside a character.
    """
    start, position = known

    def reached(count: int) -> int:
        furthest = 0
        # An incomplete character at the end is not decoded, and with byte fallback neither are the bytes before it.
        # Then one of the (at most 3) earlier tokens ends a character.
        for fewer in range(count, max(count - 4, start), -1):
            part = decode_text(tokenizer, ids[start:fewer])
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
