"""Tokenises prompts and responses, in the same way for sampling, training and scoring."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qstep.data.messages import refuse_turns
from qstep.types import Message, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Count = TypeVar("Count", int, NDArray[np.int64])

PROMPT_DATE = date(2024, 7, 26)
"""The date that chat templates see, so that prompts do not change from day to day. It is Llama 3.1's default."""


_CODES = (*"YymdBbAajHIMSpDFTx", "-d", "-m", "-H", "-I")


@cache
def undated(template: str) -> str:
    """A chat template in which `strftime_now(format)` always gives `PROMPT_DATE`, at midnight.

    A template's arguments must be data. So the function is defined in the template, as a macro.
    """
    if "strftime_now" not in template:
        return template
    parts = "".join(f" | replace('%{code}', {PROMPT_DATE.strftime('%' + code)!r})" for code in _CODES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}\n{template}"


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The tokens of a prompt, from which a model continues.

    A conversation goes through the chat template, with the date `PROMPT_DATE`; the assistant's turn is opened. A string
    is tokenised as it is. There is one beginning-of-sequence token if the tokenizer adds it, and no end-of-sequence
    token.

    Raises:
        ValueError: the prompt is a conversation, and the tokenizer has no chat template.
    """
    bos = tokenizer.bos_token_id
    if isinstance(prompt, str):
        with _writable(prompt):
            ids = tokenizer.encode(prompt, add_special_tokens=False)
        ids = [*beginning(tokenizer), *ids]
    else:
        ids = rendered(tokenizer, prompt, tokenize=True)
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tokenize: bool = False) -> Any:
    """A conversation in the chat template, with the assistant's turn opened, as a text or as tokens.

    Raises ValueError if the tokenizer has no chat template, or one that does not read the conversation's tools.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the prompt is a conversation, but the tokenizer has no chat template. Give the question as a string "
            "(--conversational false), or use a model that has one"
        )
    tools = messages[0].get("tools")
    template = undated(tokenizer.get_chat_template(tools=tools))
    if tools and not re.search(r"\btools\b", template):
        raise ValueError("the prompt has tools, which this chat template does not read. Write them into a message")
    return tokenizer.apply_chat_template(
        [{name: part for name, part in message.items() if name != "tools"} for message in messages],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=tokenize,
        return_dict=False,
        **({"tools": tools} if tools else {}),
    )


@contextmanager
def _writable(text: str) -> Iterator[None]:
    """Raises ValueError for a text that the tokenizer has no tokens for. The library raises a bare Exception."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ValueError(f"the tokenizer has no tokens for the text {text[:60]!r} ({error})") from None


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token if the tokenizer adds it before a text, else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of a response's tokens, without special tokens."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text that a model wrote. No special token is added or recognised: `<|im_end|>` in the text is
    tokenised as characters."""
    with _writable(text):
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`encode_text` of each text, in one call."""
    with _writable("".join(texts)):
        return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []


def text_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """`encode_text`, and for each token its span in `text`: its first character, and the one after its last.

    Raises ValueError if the tokenizer cannot report spans.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not report which characters its tokens cover. Use a fast tokenizer"
        )
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def most_text_tokens(size: Count, extra: Count, texts: Count, growth: int) -> Count:
    """An upper bound on the number of tokens of texts (`encode_text`).

    A token covers at least one byte of the normalised text. So most texts need not be tokenised to know that they are
    short enough.

    Args:
        size: bytes of the texts.
        extra: bytes minus characters of the texts.
        texts: number of texts.
        growth: the tokenizer's `bytes_growth`.
    """
    # A character of k > 1 bytes has k <= 2 (k - 1). Also, a tokenizer may put a token before each text.
    return size + (growth - 1) * 2 * extra + texts


def bytes_growth(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The factor by which normalisation may lengthen text outside ASCII (Unicode's annex 15); None if unknown."""
    if not tokenizer.is_fast:
        return None
    backend: Any = tokenizer
    normalizer = backend.backend_tokenizer.normalizer
    if normalizer is None:
        return 1
    state = json.loads(normalizer.__getstate__())
    growth = 1
    for part in state["normalizers"] if state["type"] == "Sequence" else [state]:
        match part["type"]:
            case "NFC" | "NFD":
                growth *= 3
            case "NFKC" | "NFKD":
                growth *= 11
            case "Prepend":
                pass  # adds one token, which `most_text_tokens` counts
            case "Replace" if part["pattern"] == {"String": " "} and len(part["content"]) == 1:
                pass
            case _:
                return None
    return growth


def encode_completion(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
    """The tokens of a response: its `completion_ids`, or else those of its `completion` and the end-of-sequence token.

    The latter is left out if the response was cut off at a length limit.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token to end a text with.
    """
    if row.get("completion_ids") is not None:
        return list(row["completion_ids"])
    refuse_turns(row, "this command reads responses of one turn. Leave the row out")
    ids = encode_text(tokenizer, row["completion"])
    if row.get("finish_reason") == "length":
        return ids
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so a completion cannot be ended")
    return [*ids, tokenizer.eos_token_id]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identifies how a tokenizer encodes texts and conversations."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    parts = (type(tokenizer).__name__, state, tokenizer.chat_template, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def check_completion_ids(tokenizer: PreTrainedTokenizerBase, row: Row, where: str) -> None:
    """Checks that a row's `completion_ids` decode to its `completion`. If not, another tokenizer made them.

    If `finish_reason` is stop, the last token is not in the text, even if it is not a special token.

    Raises ValueError, naming `where`.
    """
    ids = row.get("completion_ids")
    if ids is None:
        return
    known = max(ids) < len(tokenizer)
    readings = [ids, ids[:-1]] if row.get("finish_reason") == "stop" else [ids]
    text, *others = (decode_text(tokenizer, part) if known else "?" for part in readings)
    if row["completion"].strip() not in (reading.strip() for reading in (text, *others)):
        raise ValueError(
            f"{where}, field 'completion_ids': this tokenizer reads them as {text[:60]!r}, but the completion is "
            f"{row['completion'][:60]!r}. Another tokenizer made them. Use that model, or drop the column "
            "(and logps_behavior)"
        )
