"""The tokens of responses of several turns."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from chats import PROMPT, STRIPPING, TURNS, chat_tokenizer
from qstep.data import encode_completion, encode_prompt, encode_response, encode_turn_steps

CALL_TEXT = 'ask<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>'


def row(*completion: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "completion": list(completion), **more}


def own_text(tokens: Any) -> list[str]:
    """The text of each run of the assistant's tokens."""
    tokenizer = chat_tokenizer()
    runs: list[list[int]] = [[]]
    for token, own in zip(tokens.ids, tokens.own, strict=True):
        runs[-1].append(token) if own else runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def test_the_mask_by_hand() -> None:
    """The assistant's: its text, its call and the token that ends each turn. All else is context."""
    tokenizer = chat_tokenizer()
    tokens = encode_response(tokenizer, row(*TURNS))
    between = "\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokens.ids) == f"{CALL_TEXT}<|im_end|>{between}The answer is 4.<|im_end|>"
    assert own_text(tokens) == [f"{CALL_TEXT}<|im_end|>", "The answer is 4.<|im_end|>"]
    first = len("ask") + 1 + len('{"name": "add", "arguments": {"a": 2, "b": 2}}') + 1 + 1  # each mark is a token
    context = 1 + 1 + len("tool\n4") + 1 + 1 + 1 + len("assistant\n")
    last = len("The answer is 4.") + 1
    assert tokens.own == [True] * first + [False] * context + [True] * last
    assert tokens.ends == [first - 1, first + context + last - 1]


def test_the_turns_together_are_the_rendered_whole() -> None:
    tokenizer = chat_tokenizer()
    tokens = encode_response(tokenizer, row(*TURNS))
    whole = tokenizer.apply_chat_template([*PROMPT, *TURNS], tokenize=True, return_dict=False)
    assert [*encode_prompt(tokenizer, PROMPT), *tokens.ids, *tokenizer.encode("\n")] == whole
    up_to_last = encode_prompt(tokenizer, [*PROMPT, *TURNS[:2]])
    assert whole[: len(up_to_last)] == up_to_last  # as for sampling the last turn


def test_a_tool_message_moves_no_token_of_the_assistant() -> None:
    """Its length changes the positions, but not which tokens are the assistant's, nor their order."""
    tokenizer = chat_tokenizer()
    one, other = (
        encode_response(tokenizer, row(TURNS[0], {"role": "tool", "content": text}, TURNS[2])) for text in ("4", "5")
    )
    assert (one.own, one.ends) == (other.own, other.ends)
    assert one.ids != other.ids
    longer = encode_response(tokenizer, row(TURNS[0], {"role": "tool", "content": "four"}, TURNS[2]))
    assert own_text(longer) == own_text(one)


def test_a_cut_off_response_is_not_ended() -> None:
    assert own_text(encode_response(chat_tokenizer(), row(*TURNS, finish_reason="length")))[-1] == "The answer is 4."


def test_one_turn_is_as_before() -> None:
    tokenizer = chat_tokenizer()
    single = {"prompt": PROMPT, "completion": "4"}
    assert encode_response(tokenizer, single).ids == encode_completion(tokenizer, single)
    assert encode_response(tokenizer, row({"role": "assistant", "content": "4"})).ids == encode_completion(
        tokenizer, single
    )


def test_text_that_looks_like_a_special_token_stays_text() -> None:
    tokenizer = chat_tokenizer()
    tokens = encode_response(tokenizer, row({"role": "assistant", "content": "a<|im_end|>b"}, *TURNS[1:]))
    own = [token for token, is_own in zip(tokens.ids, tokens.own, strict=True) if is_own]
    assert own.count(tokenizer.eos_token_id) == 2
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "<|im_end|>"}}]}
    with pytest.raises(ValueError, match="turn 1 of the assistant: its tool call contains"):
        encode_response(tokenizer, row(called, *TURNS[1:]))


def test_a_template_that_removes_thinking_is_refused() -> None:
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nask"}
    with pytest.raises(ValueError, match=r"turn 1 of the assistant: the chat template writes .*instead of its text"):
        encode_response(chat_tokenizer(STRIPPING), row(thought, *TURNS[1:]))
    encode_response(chat_tokenizer(STRIPPING), row(*TURNS))


def test_a_template_that_does_not_read_tools_is_refused() -> None:
    with_tools = [{**PROMPT[0], "tools": [{"name": "add"}]}]
    tokenizer = chat_tokenizer()
    assert '[{"name": "add"}]' in tokenizer.decode(encode_prompt(tokenizer, with_tools))
    deaf = chat_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="has tools, which this chat template does not read"):
        encode_prompt(deaf, with_tools)


def test_a_step_scorer_reads_after_each_turn() -> None:
    tokenizer = chat_tokenizer()
    separator = tokenizer.convert_tokens_to_ids("<|sep|>")
    ids, ends = encode_turn_steps(tokenizer, row(*TURNS), separator, 2)
    assert [ids[end] for end in ends] == [separator, separator]
    assert [token for token in ids if token != separator] == encode_response(tokenizer, row(*TURNS)).ids[:-1]
    first, [end] = encode_turn_steps(tokenizer, row(*TURNS), separator, 1)
    assert first == ids[: ends[0] + 1] and end == ends[0]
    assert list(accumulate(ends, max)) == ends


def test_a_tool_call_that_was_cut_off_has_no_end() -> None:
    called = row(*TURNS[:1])
    whole, cut = (encode_response(chat_tokenizer(), {**called, **more}) for more in ({}, {"finish_reason": "length"}))
    assert cut.ids == whole.ids[:-1] and cut.ends == [len(cut.ids) - 1] and all(cut.own)
