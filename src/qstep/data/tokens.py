"""Tokenises prompts and responses, in the same way for sampling, training and scoring."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qstep.data.chat import ending, rendered, special_marks, without_opening
from qstep.data.messages import refuse_turns
from qstep.types import Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Count = TypeVar("Count", int, NDArray[np.int64])


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
    """The text of a response's tokens, without special tokens. The marks around thinking are text."""
    marks = special_marks(tokenizer).values()
    if marks and not set(marks).isdisjoint(token_ids):
        added = tokenizer.added_tokens_decoder
        kept = [token for token in token_ids if token in marks or token not in added or not added[token].special]
        return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text that a model wrote. No special token is added or recognised: `<|im_end|>` in the text is
    tokenised as characters. The exception is a mark around thinking, if the vocabulary has it as one token."""
    with _writable(text):
        return [
            token
            for part in _at_marks(tokenizer, text)
            for token in (
                [part]
                if isinstance(part, int)
                else tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
            )
        ]


def _at_marks(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str | int]:
    """The parts of a text between marks that are special tokens, and the ids of these."""
    marks = special_marks(tokenizer)
    if not any(mark in text for mark in marks):
        return [text]
    parts = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    return [marks.get(part, part) for part in parts if part]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """`encode_text` of each text; in one call, if none has a mark that is a special token."""
    if any(mark in text for text in texts for mark in special_marks(tokenizer)):
        return [encode_text(tokenizer, text) for text in texts]
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
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    start = 0
    for part in _at_marks(tokenizer, text):
        if isinstance(part, int):
            length = len(tokenizer.added_tokens_decoder[part].content)
            ids.append(part)
            offsets.append((start, start + length))
        else:
            length = len(part)
            own = tokenizer(part, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
            ids += own["input_ids"]
            offsets += [(start + first, start + behind) for first, behind in own["offset_mapping"]]
        start += length
    return ids, offsets


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
    """The tokens of a response: its `completion_ids`, or else those of its `completion` and the token that ends it.

    A response to a conversation ends as the chat template ends an assistant's turn. The end is left out if the response
    was cut off at a length limit. A mark that opens thinking is left out if the prompt has opened it.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token to end a text with.
    """
    if row.get("completion_ids") is not None:
        return list(row["completion_ids"])
    refuse_turns(row, "this command reads responses of one turn. Leave the row out")
    ids = encode_text(tokenizer, without_opening(tokenizer, row["prompt"], row["completion"]))
    if row.get("finish_reason") == "length":
        return ids
    end = ending(tokenizer, row["prompt"])
    if end is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so a completion cannot be ended")
    return [*ids, end]


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
