"""Prompts and responses to tokens: no double beginning, no special token made of text."""

from __future__ import annotations

import copy
from datetime import date
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qstep.data import check_completion_ids, encode_completion, encode_prompt, encode_text, split_steps, step_token_ends
from qstep.data.chat import PROMPT_DATE

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "Hi"}]


@cache
def tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """Bytes as tokens; with `bos`, text gets `<s>` before it and `</s>` behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokens.chat_template = TEMPLATE
    if bos:
        special = [("<s>", tokens.bos_token_id), ("</s>", tokens.eos_token_id)]
        tokens.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=special
        )
    return tokens


def text_of(tokens: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokens.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("prompt", ["Hi", "<s>Hi"])
def test_a_text_prompt_begins_once_and_does_not_end(prompt: str) -> None:
    assert text_of(tokenizer(), tokenizer()("Hi")["input_ids"]) == "<s>Hi</s>"
    assert text_of(tokenizer(), encode_prompt(tokenizer(), prompt)) == "<s>Hi"
    assert text_of(tokenizer(bos=False), encode_prompt(tokenizer(bos=False), prompt)) == prompt


@pytest.mark.parametrize("bos", [True, False])
def test_a_conversation_opens_the_assistants_turn(bos: bool) -> None:
    tokens = tokenizer(bos=bos)
    ids = encode_prompt(tokens, CHAT)
    assert text_of(tokens, ids) == "<s><|user|>Hi</s><|assistant|>"
    assert ids.count(tokens.bos_token_id) == 1 and all(isinstance(i, int) for i in ids)


def test_a_conversation_needs_a_template() -> None:
    tokens = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
    with pytest.raises(ValueError, match="chat template"):
        encode_prompt(tokens, CHAT)


def test_text_never_becomes_a_special_token() -> None:
    tokens = tokenizer()
    special = set(tokens.all_special_ids)
    for text in ("a</s>b", "<s>", "<|user|><|assistant|>", "</s>" * 3):
        ids = encode_text(tokens, text)
        assert not special & set(ids) and tokens.decode(ids) == text
        assert special & set(encode_prompt(tokens, text)), "a prompt's own markup goes on being recognised"


def test_completions_end_as_they_were_sampled() -> None:
    tokens = tokenizer()
    row: dict[str, Any] = {"prompt": "Q", "completion": "a</s>"}
    assert encode_completion(tokens, row) == [*encode_text(tokens, "a</s>"), tokens.eos_token_id]
    assert encode_completion(tokens, {**row, "finish_reason": "length"}) == encode_text(tokens, "a</s>")
    ids = [1, 2, 3]
    encoded = encode_completion(tokens, {**row, "completion_ids": ids})
    assert encoded == ids and encoded is not ids
    unending = PreTrainedTokenizerFast(tokenizer_object=tokens.backend_tokenizer)
    with pytest.raises(ValueError, match="end-of-sequence"):
        encode_completion(unending, row)


def test_a_response_may_end_with_a_token_that_is_not_special() -> None:
    tokens = tokenizer()
    *ids, end = encode_text(tokens, "3+4=7\n7")
    assert tokens.decode([end]) == "7" and end not in tokens.all_special_ids
    row = {"completion": tokens.decode(ids), "completion_ids": [*ids, end], "finish_reason": "stop"}
    check_completion_ids(tokens, row, "row 1")
    steps = split_steps(row["completion"])
    assert step_token_ends(tokens, row["completion_ids"], steps)[-1] == len(ids)
    with pytest.raises(ValueError, match="row 1, field 'completion_ids'"):
        check_completion_ids(tokens, {**row, "finish_reason": "length"}, "row 1")
    with pytest.raises(ValueError, match="row 1, field 'completion_ids'"):
        check_completion_ids(tokens, {**row, "completion_ids": [*ids, end, end]}, "row 1")


def test_smollm2(smollm2: Any) -> None:
    """A real tokenizer, on which `.` and a blank line merge after a letter but not after a digit."""
    special = set(smollm2.all_special_ids)
    assert encode_text(smollm2, "a <|im_end|>") != smollm2.encode("a <|im_end|>")
    assert not special & set(encode_text(smollm2, "a <|im_end|> <|im_start|>user <|endoftext|>"))
    prompt = encode_prompt(smollm2, CHAT)
    assert smollm2.decode(prompt).endswith("<|im_start|>assistant\n")
    assert prompt.count(smollm2.bos_token_id) == smollm2.decode(prompt).count("<|im_start|>")
    text = "So x is 5.\n\nThus it is so.\n\n\n\nΣ = 😀.\n\nThe answer is \\boxed{5}."
    ids = [*encode_text(smollm2, text), smollm2.eos_token_id]
    steps = split_steps(text, "\n\n")
    ends = step_token_ends(smollm2, ids, steps, "\n\n")
    pieces = [
        smollm2.decode(ids[start:end])
        for start, end in zip([0, *(e + 1 for e in ends)], [e + 1 for e in ends], strict=False)
    ]
    assert pieces == [
        "So x is 5.\n\n",
        "Thus it is so.\n\n\n\n",
        "Σ = 😀.\n\n",
        "The answer is \\boxed{5}.<|im_end|>",
    ]


def test_many_texts_are_encoded_as_each_alone() -> None:
    from qstep.data import encode_texts
    from qstep.tasks import miniature

    tokenizer, texts = miniature.tokenizer(), ["7+8=5", "", "#5"]
    assert encode_texts(tokenizer, texts) == [encode_text(tokenizer, text) for text in texts]
    assert encode_texts(tokenizer, []) == []


DATED = {
    "llama 3": "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% else %}{% set d = '?' %}"
    "{% endif %}Today Date: {{ d }}\n",
    "gpt-oss": "\n{% macro head() %}Current date: {{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ head() }}",
    "granite": "  {%- set form = '%B %d, %Y' %}\nToday's Date: {{ strftime_now(form) }}.",
}


@pytest.mark.parametrize(
    ("family", "text"),
    [("llama 3", "Today Date: 26 Jul 2024"), ("gpt-oss", "\nCurrent date: 2024-07-26"), ("granite", "July 26, 2024.")],
)
def test_a_prompt_is_the_same_on_all_days(family: str, text: str) -> None:
    """Whatever today is; and nothing else of the template changes, as its text with today's date in it shows."""
    tokens = copy.deepcopy(tokenizer())
    tokens.chat_template = DATED[family]
    rendered = text_of(tokens, encode_prompt(tokens, CHAT))
    assert text in rendered
    today = tokens.apply_chat_template(CHAT, tokenize=False)
    for form in ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y"):
        today = today.replace(date.today().strftime(form), PROMPT_DATE.strftime(form))
    assert rendered == today


def test_a_text_without_tokens_is_named() -> None:
    """A tokenizer of words without an unknown one, such as the miniature's."""
    from qstep.data import encode_texts
    from qstep.tasks import miniature

    tokenizer = miniature.tokenizer()
    for encode in (encode_text, encode_prompt, lambda t, text: encode_texts(t, ["1", text])):
        with pytest.raises(ValueError, match=r"the tokenizer has no tokens for the text '1?apples'"):
            encode(tokenizer, "apples")
