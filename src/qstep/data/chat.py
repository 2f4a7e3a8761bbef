"""What a tokenizer's chat template does to conversations: the thinking it opens, and the token that ends a turn."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from qstep.data.chat_settings import END_OF_TURN
from qstep.grading.thinking import MARKS, opened_by, opened_first
from qstep.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

PROMPT_DATE = date(2024, 7, 26)
"""The date that chat templates see, so that prompts do not change from day to day. It is Llama 3.1's default."""

_CODES = (*"YymdBbAajHIMSpDFTx", "-d", "-m", "-H", "-I")
_IN_BRACKETS = re.compile(r"<\S+>|\[\S+\]|\|\S+\|")
_ANSWER = "An answer, and no more."


@cache
def undated(template: str) -> str:
    """A chat template in which `strftime_now(format)` always gives `PROMPT_DATE`, at midnight.

    A template's arguments must be data. So the function is defined in the template, as a macro.
    """
    if "strftime_now" not in template:
        return template
    parts = "".join(f" | replace('%{code}', {PROMPT_DATE.strftime('%' + code)!r})" for code in _CODES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}\n{template}"


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, opens: bool = True, tokenize: bool = False
) -> Any:
    """A conversation in the chat template, as a text or as tokens. With `opens`, the assistant's turn is opened.

    Raises ValueError if the tokenizer has no chat template, or one that does not read the conversation's tools.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "the prompt is a conversation, but the tokenizer has no chat template. Give the question as a string "
            "(--conversational false), or use a model that has one. Training and sampling also take a "
            "--chat_template_path"
        )
    tools = messages[0].get("tools")
    template = undated(tokenizer.get_chat_template(tools=tools))
    if tools and not re.search(r"\btools\b", template):
        raise ValueError("the prompt has tools, which this chat template does not read. Write them into a message")
    return tokenizer.apply_chat_template(
        [{name: part for name, part in message.items() if name != "tools"} for message in messages],
        chat_template=template,
        add_generation_prompt=opens,
        tokenize=tokenize,
        return_dict=False,
        **({"tools": tools} if tools else {}),
    )


_known: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def _once(tokenizer: PreTrainedTokenizerBase, key: str, find: Callable[[PreTrainedTokenizerBase], Any]) -> Any:
    """What `find` returns for this tokenizer with its present template. It is called once."""
    state = _known.setdefault(tokenizer, {})
    if state.get("template") != tokenizer.chat_template:
        state.clear()
        state["template"] = tokenizer.chat_template
    if key not in state:
        state[key] = find(tokenizer)
    return state[key]


def ending(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> int | None:
    """The token that ends a response to this prompt; None if there is none.

    After a text it is the end-of-sequence token. A conversation ends with the template's own end of an assistant's
    turn, if it writes one: the first special token after the assistant's text, else the first added token, else a
    token in brackets such as `<end>` if that is all it writes.
    """
    if isinstance(prompt, str) or tokenizer.chat_template is None:
        return tokenizer.eos_token_id
    found: int | None = _once(tokenizer, "ending", _end_of_turn)
    return tokenizer.eos_token_id if found is None else found


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an assistant's turn, if it is not the end-of-sequence token; else None."""
    if tokenizer.chat_template is None:
        return None
    found: int | None = _once(tokenizer, "ending", _end_of_turn)
    return None if found == tokenizer.eos_token_id else found


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    template = tokenizer.get_chat_template()
    if named := re.search(rf"{{% set {END_OF_TURN} = (\".*?\") %}}", template):
        return int(tokenizer.get_vocab()[json.loads(named[1])])
    try:
        turn = rendered(
            tokenizer,
            [{"role": "user", "content": "A question."}, {"role": "assistant", "content": _ANSWER}],
            opens=False,
        )
    except Exception as error:  # a chat template may raise anything
        _log.warning(
            "the chat template renders no plain turn (%s), so a turn ends with the end-of-sequence token", error
        )
        return None
    if _ANSWER not in turn:  # the template changes the text, so what follows it is unknown
        return None
    after = turn.rpartition(_ANSWER)[2]
    for special in (True, False):
        added = {t.content: number for number, t in tokenizer.added_tokens_decoder.items() if t.special == special}
        places = {after.find(text): number for text, number in added.items() if text in after}
        if places:
            return places[min(places)]
    written = after.strip()
    return tokenizer.get_vocab().get(written) if _IN_BRACKETS.fullmatch(written) else None


def say_ending(tokenizer: PreTrainedTokenizerBase) -> None:
    """Says by which token a conversation ends, unless the chat template ends it with the end-of-sequence token."""
    if tokenizer.chat_template is None:
        return
    if _once(tokenizer, "ending", _end_of_turn) is None:
        _log.warning(
            "no token was found with which the chat template ends a turn, so responses to conversations end with %r. "
            "--end_of_turn names another token",
            tokenizer.eos_token,
        )
    elif (token := end_of_turn(tokenizer)) is not None:
        _log.warning(
            "responses to conversations end with %r, as the chat template ends a turn, and not with %r. --end_of_turn "
            "names another token",
            tokenizer.convert_ids_to_tokens(token),
            tokenizer.eos_token,
        )


def opening_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """What opens the thinking at the end of a prompt, with the blanks after it; empty if nothing does."""
    if isinstance(prompt, str):
        return _opening(prompt)
    return "" if tokenizer.chat_template is None else _opening(rendered(tokenizer, prompt))


def _opening(prompt: str) -> str:
    mark = opened_by(prompt)
    return "" if mark is None else prompt[prompt.rindex(mark) :]


def without_opening(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> str:
    """A response without the mark that opens its thinking, if its prompt or the chat template has opened it."""
    if opened_first(text) is None:
        return text
    opening = opening_of(tokenizer, prompt)
    mark = opening.strip()
    if not mark or not text.lstrip().startswith(mark):
        return text
    return text.lstrip()[len(mark) :].removeprefix(opening[len(mark) :])


def steps_without_opening(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, steps: Sequence[str]
) -> tuple[list[str], int]:
    """The steps to tokenise, and how many steps are left out before them: the first, if it is only the mark that the
    prompt has opened already. It ends where the step after it ends."""
    if not steps:
        return [], 0
    first = without_opening(tokenizer, prompt, steps[0])
    if len(first) == len(steps[0]):
        return [*steps], 0
    first = first.strip()
    return ([first, *steps[1:]], 0) if first or len(steps) == 1 else ([*steps[1:]], 1)


def marks_as_text(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with the same tokens in which the marks around thinking are not special.

    It is the tokenizer itself if none of them is a special token. Raises ValueError for one of the slow kind.
    """
    found: PreTrainedTokenizerBase | None = _once(tokenizer, "marks", _marks_as_text)
    return tokenizer if found is None else found


def _in_mark(token: str) -> bool:
    """Whether a token is a mark around thinking, or a part of one, as `<|channel|>` is of gpt-oss' mark."""
    return any(token in mark for pair in MARKS for mark in pair)


def _marks_as_text(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    if not any(token.special and _in_mark(token.content) for token in tokenizer.added_tokens_decoder.values()):
        return None
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has special tokens around thinking. Use a fast tokenizer")
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend: Any = tokenizer
    state = json.loads(backend.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] and not _in_mark(token["content"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
