"""The tokens of a response of several turns, and which of them are the assistant's.

The chat template renders the conversation up to each of the assistant's turns, as it would to sample that turn. Each
rendering must begin with the one before it and the assistant's text, so the tokens of training are those of sampling.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from qstep.data.chat import ending, rendered, without_opening
from qstep.data.messages import has_turns
from qstep.data.tokens import encode_completion, encode_text
from qstep.types import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ResponseTokens(NamedTuple):
    """The tokens of a response.

    own: for each token, whether the model wrote it. Others' turns and what the template writes around them are not.
    ends: the index of the last token of each of the assistant's turns.
    """

    ids: list[int]
    own: list[bool]
    ends: list[int]


def encode_response(tokenizer: PreTrainedTokenizerBase, row: Row) -> ResponseTokens:
    """The tokens of a row's response, of one turn (`encode_completion`) or of several.

    In several turns, the assistant's tokens are the text of its turns, the tool calls as the template writes them, and
    the token that ends each turn. The last turn has no such token if the response was cut off at a length limit.

    Raises ValueError, naming the turn, if the template renders a turn otherwise than the row has it.
    """
    if not has_turns(row["completion"]):
        ids = encode_completion(tokenizer, row)
        return ResponseTokens(ids, [True] * len(ids), [len(ids) - 1])
    found = ResponseTokens([], [], [])
    for turn in _turns(tokenizer, row):
        found.ids.extend([*turn.ids, *turn.end, *turn.context])
        found.own.extend([True] * len([*turn.ids, *turn.end]) + [False] * len(turn.context))
        found.ends.append(len(found.ids) - len(turn.context) - 1)
    return found


def encode_turn_steps(
    tokenizer: PreTrainedTokenizerBase, row: Row, separator_id: int, steps: int
) -> tuple[list[int], list[int]]:
    """The tokens of the first `steps` turns of the assistant and what is between them, for a step scorer.

    The separator token follows each turn of the assistant, before the token that ends the turn. Returns the tokens,
    through the last separator, and the index of each separator. Raises as `encode_response` does.
    """
    ids: list[int] = []
    ends: list[int] = []
    between: list[int] = []
    for turn in list(_turns(tokenizer, row))[:steps]:
        ids += [*between, *turn.ids, separator_id]
        ends.append(len(ids) - 1)
        between = [*turn.end, *turn.context]
    return ids, ends


class _Turn(NamedTuple):
    """The tokens of one of the assistant's turns, its end, and those up to its next turn."""

    ids: list[int]
    end: list[int]
    context: list[int]


def _turns(tokenizer: PreTrainedTokenizerBase, row: Row) -> Iterator[_Turn]:
    prompt, completion = row["prompt"], row["completion"]
    end_id = ending(tokenizer, prompt)
    if end_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so a turn cannot be ended")
    end = str(tokenizer.convert_ids_to_tokens(end_id))
    before = str(rendered(tokenizer, prompt))
    places = [place for place, message in enumerate(completion) if message["role"] == "assistant"]
    for number, place in enumerate(places):
        message, is_last = completion[place], number == len(places) - 1
        text = encode_text(tokenizer, without_opening(tokenizer, prompt, message["content"]))
        last_end = [] if is_last and row.get("finish_reason") == "length" else [end_id]
        if is_last and "tool_calls" not in message:
            yield _Turn(text, last_end, [])
            return
        where = f"turn {number + 1} of the assistant"
        _check_calls(tokenizer, message, where)
        following = len(completion) if is_last else places[number + 1]
        after = str(rendered(tokenizer, [*prompt, *completion[:following]]))
        markup, found, context = _written_after(before, message, after, where).partition(end)
        rest = tokenizer.encode(end + context, add_special_tokens=False)
        if not found or rest[0] != end_id:
            raise ValueError(f"{where}: the chat template does not end it with {end!r}. Use a model whose does")
        text += tokenizer.encode(markup, add_special_tokens=False) if markup else []
        yield _Turn(text, last_end, [] if is_last else rest[1:])
        before = after


def _check_calls(tokenizer: PreTrainedTokenizerBase, message: Message, where: str) -> None:
    """Raises ValueError for a tool call that contains the characters of a special token."""
    text = json.dumps(message.get("tool_calls", ""), ensure_ascii=False)
    special = next((token for token in tokenizer.all_special_tokens if token in text), None)
    if special is not None:
        raise ValueError(f"{where}: its tool call contains {special!r}, a special token. Leave the row out")


def _written_after(before: str, message: Message, after: str, where: str) -> str:
    """What a rendering has after `before` and the message's text. Raises ValueError if it does not begin with them."""
    if not after.startswith(before):
        raise ValueError(
            f"{where}: the chat template renders what comes before it in another way once the conversation continues "
            "(some templates remove earlier thinking). Make a row of each turn, with the earlier ones in its prompt"
        )
    if not after.startswith(message["content"], len(before)):
        raise ValueError(
            f"{where}: the chat template writes {after[len(before) : len(before) + 60]!r} instead of its text "
            f"{message['content'][:60]!r} (some templates remove blanks or thinking). Give the text as the template "
            "writes it, or make a row of each turn, with the earlier ones in its prompt"
        )
    return after[len(before) + len(message["content"]) :]
