"""Tokenises texts made of parts, and reports where the parts end. Published scorers read at the end of each step."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from qstep.data.chat import undated
from qstep.data.tokens import encode_text, encode_texts, text_offsets
from qstep.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Placed(str):
    """A text in a turn. `encode_chat` returns the index of its last token."""


Turn = tuple[str, Sequence[str | int]]
"""A turn of a conversation: its role, and its content as a sequence of texts and token ids."""


def encode_joined(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The tokens of the joined texts (`encode_text`), and for each text the index of the token that completes it.

    For an empty text at the beginning, that index is 0. Raises ValueError if the tokenizer cannot report the spans of
    its tokens.
    """
    ids, offsets = text_offsets(tokenizer, "".join(texts))
    reached = list(accumulate((end for _, end in offsets), max))
    last = max(len(reached) - 1, 0)
    return ids, [min(bisect_left(reached, end), last) for end in accumulate(map(len, texts))]


def encode_ended(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Tokenises each text on its own, and puts the tokens `end` after it. Returns the tokens, and for each text the
    index of its last `end` token."""
    ids: list[int] = []
    ends: list[int] = []
    for own in encode_texts(tokenizer, texts):
        ids += [*own, *end]
        ends.append(len(ids) - 1)
    return ids, ends


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """The tokens of a conversation in the tokenizer's chat template, and the indices of some of them.

    The indices are, in order, those of tokens given by id and of the last token of each `Placed` text.

    The template's special tokens become special tokens. If a turn's text contains the characters of one, they stay
    text. All text between two special tokens is tokenised together, as `apply_chat_template` does.

    Raises ValueError if the tokenizer has no chat template.
    """
    ids: list[int] = []
    places: list[int] = []
    texts: list[str] = []  # since the last special token

    def flush() -> None:
        if any(texts):
            own, ends = encode_joined(tokenizer, texts)
            places.extend(len(ids) + end for text, end in zip(texts, ends, strict=True) if isinstance(text, Placed))
            ids.extend(own)
        texts.clear()

    for part in _rendered(tokenizer, turns, add_generation_prompt):
        if isinstance(part, _Special):
            flush()
            ids.append(part)
        elif isinstance(part, int):
            flush()
            places.append(len(ids))
            ids.append(part)
        else:
            texts.append(part)
    flush()
    return ids, places


class _Special(int):
    """A special token of the chat template."""


def _rendered(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], add_generation_prompt: bool
) -> Iterator[str | int]:
    """The parts of a conversation in the chat template: texts, the turns' token ids, and the template's special tokens.

    Marks stand for token ids, `Placed` texts and texts of special tokens while the template is applied. Afterwards each
    mark is replaced by what it stands for.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "This format is a conversation, but the tokenizer has no chat template. Use the tokenizer saved with the "
            "scorer"
        )
    added = sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, added)) or r"(?!)")
    everything = "".join(part for _, content in turns for part in content if isinstance(part, str))
    mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in everything)
    marked: list[str | int] = []

    def name(part: str | int) -> str:
        marked.append(part)
        return f"{mark}{len(marked) - 1}{mark}"

    def masked(part: str | int) -> str:
        if isinstance(part, Placed | int):
            return name(part)
        return special.sub(lambda found: name(found[0]), part)

    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": "".join(map(masked, content))} for role, content in turns],
        chat_template=undated(tokenizer.get_chat_template()),
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    for part in re.split(rf"({mark}\d+{mark}|{special.pattern})", str(rendered)):
        if part.startswith(mark):
            yield marked[int(part.strip(mark))]
        elif special.fullmatch(part):
            yield _Special(tokenizer.added_tokens_encoder[part])
        else:
            yield part


def one_token(tokenizer: PreTrainedTokenizerBase, text: str, option: str) -> int:
    """The id of a string that is one token. Raises ValueError, naming the option, if it is several tokens."""
    ids = encode_text(tokenizer, text)
    if text in tokenizer.added_tokens_encoder:
        ids = [tokenizer.added_tokens_encoder[text]]
    if len(ids) != 1:
        raise ValueError(
            f"{option} {text!r} is {counted(len(ids), 'token')} for this tokenizer: {ids}. Use the tokenizer saved "
            f"with the scorer, or correct {option}"
        )
    return ids[0]
