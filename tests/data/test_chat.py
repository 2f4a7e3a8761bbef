"""What a chat template does: the end of a turn, the thinking it opens, marks that are special tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from byte_tokenizer import byte_tokenizer
from qstep.data import (
    RowError,
    check_completion_ids,
    decode_text,
    encode_completion,
    encode_prompt,
    encode_text,
    encode_texts,
    row_step_ends,
    split_steps,
    text_offsets,
)
from qstep.data.chat import end_of_turn, ending
from qstep.data.chat_settings import read_template, with_chat
from qstep.data.rows import check_row
from qstep.grading.thinking import outside
from qstep.models.scorer import StepContract, encode_steps
from qstep.scoring.policies import Policy
from qstep.tasks.task import opened_thinking
from tokenizer_families import unigram

PROMPT = [{"role": "user", "content": "What is 2 + 2?"}]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
PLAIN = TURNS + "{% endif %}"
OPENS = TURNS + "<think>\n{% endif %}"
SWITCH = (
    TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MARKS = ("<think>", "</think>")


def tokenizer(template: str | None = PLAIN, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One that ends texts with <eos> and turns with <|im_end|>, as base models with a chat template do."""
    made = byte_tokenizer()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", *special)])
    made.chat_template = template
    return made


def of(made: PreTrainedTokenizerFast, text: str) -> int:
    return int(made.get_vocab()[text])


def test_a_conversation_ends_as_its_template_ends_a_turn() -> None:
    made = tokenizer()
    row = {"prompt": PROMPT, "completion": "4"}
    assert encode_completion(made, row) == [*encode_text(made, "4"), of(made, "<|im_end|>")]
    assert encode_completion(made, {**row, "prompt": "2 + 2 ="})[-1] == made.eos_token_id
    assert encode_completion(made, {**row, "finish_reason": "length"}) == encode_text(made, "4")
    check_completion_ids(made, {**row, "completion_ids": encode_completion(made, row)}, "here")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}{{ m.content }} <eos>{% endfor %}", "<eos>"),
        ("{% for m in messages %}{{ m.content }}\n\n<|im_end|><eos>{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "<eos>"),
        ("{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}x", "<eos>"),
        ("{% for m in messages %}{{ m.content | trim }}<|im_end|>{% endfor %}{{ strftime_now('%Y') }}", "<|im_end|>"),
    ],
)
def test_the_end_is_the_first_special_token_behind_the_text(template: str, end: str) -> None:
    made = tokenizer(template)
    assert ending(made, PROMPT) == of(made, end)
    assert end_of_turn(made) == (None if end == "<eos>" else of(made, end))


def test_an_option_names_another_end_and_the_weights_keep_it(tmp_path: Path) -> None:
    made = with_chat(tokenizer(), None, "<|im_start|>")
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert ending(again, PROMPT) == ending(made, PROMPT) == of(made, "<|im_start|>")
    assert encode_prompt(again, PROMPT) == encode_prompt(tokenizer(), PROMPT)
    with pytest.raises(ValueError, match="'<end>' is not a token of this model's vocabulary"):
        with_chat(tokenizer(), None, "<end>")
    with pytest.raises(ValueError, match="--end_of_turn is given, but the tokenizer has no chat template"):
        with_chat(tokenizer(None), None, "<|im_end|>")


def test_arguments_of_the_template_are_kept_with_the_weights(tmp_path: Path) -> None:
    plain = tokenizer(SWITCH)
    made = with_chat(plain, {"enable_thinking": False}, None)
    made.save_pretrained(tmp_path)
    for one in (made, AutoTokenizer.from_pretrained(tmp_path)):
        text = one.decode(encode_prompt(one, PROMPT))
        assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert opened_thinking(one, PROMPT, encode_prompt(one, PROMPT)) == {}
        assert ending(one, PROMPT) == of(made, "<|im_end|>")
    assert not plain.decode(encode_prompt(plain, PROMPT)).endswith("\n\n")
    with pytest.raises(ValueError, match=r"--chat_template_kwargs.thinking: .* does not read it"):
        with_chat(plain, {"thinking": False}, None)


def test_another_template_is_kept_with_the_weights(tmp_path: Path) -> None:
    """It is of a file, or of another model. Arguments are those of the new template."""
    file, folder = tmp_path / "chat.jinja", tmp_path / "model"
    file.write_text(SWITCH, encoding="utf-8")
    tokenizer(SWITCH).save_pretrained(folder)
    expected = encode_prompt(with_chat(tokenizer(SWITCH), {"enable_thinking": False}, None), PROMPT)
    for own in (None, OPENS):
        for source in (file, folder):
            plain = tokenizer(own)
            made = with_chat(plain, {"enable_thinking": False}, None, read_template(str(source)))
            made.save_pretrained(tmp_path / "trained")
            assert encode_prompt(AutoTokenizer.from_pretrained(tmp_path / "trained"), PROMPT) == expected
            assert plain.chat_template == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}\n{{ m.content }", r"chat.jinja:2: this is no chat template"),
        ("{% for m in messages %}\xe9{% endfor %}", r"chat.jinja: this file is no text in UTF-8"),
        ("What is 2 + 2?", "this is no chat template, because it does not read `messages`"),
        (None, "chat.jinja is no file, and no model"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "chat.jinja"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_template(str(file))
    made = tokenizer(None)
    made.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="model: this model has no chat template for conversations"):
        read_template(str(tmp_path / "model"))
    made.chat_template = {"tool_use": PLAIN}
    made.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="model: this model has no chat template for conversations"):
        read_template(str(tmp_path / "model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--chat_template_path .*empty is no file, and no model with a tokenizer"):
        read_template(str(tmp_path / "empty"))


def test_a_folder_s_template_is_found_from_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tokenizer(PLAIN).save_pretrained(tmp_path / "model")
    assert read_template("~/model") == read_template("~/model/chat_template.jinja") == PLAIN


def test_the_newest_argument_counts_and_named_templates_stay() -> None:
    made = tokenizer(SWITCH)
    for value, thinks in ((False, False), (True, True), (False, False)):
        made = with_chat(made, {"enable_thinking": value}, None)
        assert made.decode(encode_prompt(made, PROMPT)).endswith("</think>\n\n") == (not thinks)
    named = tokenizer()
    named.chat_template = {"default": SWITCH, "tool_use": SWITCH + "tools"}
    changed = with_chat(named, {"enable_thinking": False}, None)
    assert {*changed.chat_template} == {"default", "tool_use"}
    assert changed.decode(encode_prompt(changed, PROMPT)).endswith("</think>\n\n")


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "m", "im_start", "eos_token"])
def test_what_is_no_argument_of_the_template_is_refused(name: str) -> None:
    """What every template is given, a template's own variable, a word of its text."""
    template = "{# im_start #}{{ eos_token }}" + TURNS + "{% generation %}{% endgeneration %}{% endif %}"
    with pytest.raises(ValueError, match=f"--chat_template_kwargs.{name}: .* does not read it"):
        with_chat(tokenizer(template), {name: False}, None)


@pytest.mark.parametrize(
    "value", ["a \U0001f600 b", "\uff5c\u2581", "{{ 7 * 7 }}", "{% raw %}", '"quoted"', "a\nb", "", 3, 0.5, True]
)
def test_an_argument_is_data(value: Any) -> None:
    made = with_chat(tokenizer("[{{ mood }}]{% for m in messages %}{{ m.content }}{% endfor %}"), {"mood": value}, None)
    assert made.decode(encode_prompt(made, PROMPT)).strip().startswith(f"[{value}]")
    with pytest.raises(ValueError, match="takes texts, numbers, true and false, not"):
        with_chat(made, {"mood": [value]}, None)


@pytest.mark.parametrize("special", [(), MARKS])
def test_marks_survive_as_one_token_and_nothing_else_does(special: tuple[str, ...]) -> None:
    made = tokenizer(special=special)
    text = "<think>\n2 + 2\nis <|im_end|> 4\n</think>\n\nSo 4"
    ids = encode_text(made, text)
    assert decode_text(made, ids).strip() == text
    assert of(made, "<|im_end|>") not in ids
    assert [token for token in ids if token in [of(made, mark) for mark in special]] == [of(made, s) for s in special]
    assert encode_texts(made, [text, "So 4"]) == [ids, encode_text(made, "So 4")]
    row = {"prompt": PROMPT, "completion": text, "finish_reason": "stop"}
    row["completion_ids"] = encode_completion(made, row)
    check_completion_ids(made, row, "here")
    same, offsets = text_offsets(made, text)
    assert same == ids
    if special:
        places = [offsets[ids.index(of(made, mark))] for mark in MARKS]
        assert [text[first:behind] for first, behind in places] == [*MARKS]


@pytest.mark.parametrize("special", [(), MARKS])
@pytest.mark.parametrize("prompt", [PROMPT, "Q: 2 + 2?\n<think>\n"])
def test_the_opening_mark_is_never_doubled(prompt: Any, special: tuple[str, ...]) -> None:
    made = tokenizer(OPENS, special)
    body = "2 + 2 is 4\nI am sure\n</think>\n\n4"
    once, twice = ({"prompt": prompt, "completion": text} for text in (body, f"<think>\n{body}"))
    assert encode_completion(made, twice) == encode_completion(made, once)
    steps = split_steps(body)
    ends = row_step_ends(made, once, steps)
    assert row_step_ends(made, twice, ["<think>", *steps]) == [0, *ends]
    named = row_step_ends(made, once, split_steps(body, "split:blank_line"), "split:blank_line")
    joined = split_steps(f"<think>\n{body}", "split:blank_line")
    assert row_step_ends(made, twice, joined, "split:blank_line") == named


def test_a_scorer_reads_one_mark() -> None:
    made = tokenizer(OPENS, MARKS)
    given = dict(step_separator="\n", max_length=99, aggregation="last", objective="pqm")
    contract = StepContract.create(made, separator_token="<eos>", **given)
    once = encode_steps(made, contract, PROMPT, ["2 + 2", "4"])
    assert encode_steps(made, contract, PROMPT, ["<think>\n2 + 2", "4"]) == once
    shared, ids, ends = encode_steps(made, contract, PROMPT, ["<think>", "2 + 2", "4"])
    assert (shared, ids, ends) == (*once[:2], [once[2][0], *once[2]]), "a step of the mark alone ends with the next"
    scorer = Policy(tokenizer=made, max_length=99)
    [(_, ids, ends)] = scorer.encode(PROMPT, ["2 + 2", "4"])
    assert scorer.encode(PROMPT, ["<think>", "2 + 2", "4"]) == [(shared, ids, [ends[0], *ends])]


def test_whether_a_prompt_opens_thinking_is_read_from_its_own_rendering() -> None:
    """As SmolLM3's template does: a word of the system's message decides."""
    switch = "{% if messages[0].content == '/no_think' %}{% else %}<think>\n{% endif %}{% endif %}"
    made = tokenizer(TURNS + switch)
    row = {"prompt": PROMPT, "completion": "<think>\n2 + 2\n</think>\n4"}
    quiet = {**row, "prompt": [{"role": "system", "content": "/no_think"}, *PROMPT]}
    assert decode_text(made, encode_completion(made, row)).startswith("2 + 2")
    assert decode_text(made, encode_completion(made, quiet)) == row["completion"]


def test_text_beside_a_special_mark_has_the_tokens_of_its_model() -> None:
    """A tokenizer that puts a blank before a text, as Mistral's do, puts none behind a mark."""
    text = "<think>so x is 5.\n</think>So 5"
    special, plain = (copy.deepcopy(unigram()) for _ in range(2))
    special.add_tokens([AddedToken(mark, special=True) for mark in MARKS])
    plain.add_tokens([AddedToken(mark, special=False) for mark in MARKS])
    assert encode_text(special, text) == encode_text(plain, text)
    assert decode_text(special, encode_text(special, text)) == text


def test_arguments_in_a_row_are_refused(tmp_path: Path) -> None:
    row = {"prompt": "1", "completion": "1", "chat_template_kwargs": {"enable_thinking": False}}
    with pytest.raises(RowError, match=r"chat_template_kwargs.* --chat_template_kwargs.NAME VALUE"):
        check_row(tmp_path, 1, row, "prompt-completion")
    assert check_row(tmp_path, 1, {**row, "chat_template_kwargs": None}, "prompt-completion")


# Written after what these models' templates do. The last turn opens thinking or not, and earlier thinking is removed.
EARLIER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] if m.role == 'assistant' "
    "else m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("template", "arguments", "opened"),
    [
        (EARLIER + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
         "{% endif %}", {"enable_thinking": False}, {}),
        (EARLIER + "<think>\n{% endif %}", None, {"thinking_opened": "<think>"}),
        (EARLIER + "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think></think>"
         "{% endif %}{% endif %}", {"enable_thinking": False}, {}),
        (EARLIER + "{% endif %}", None, {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("special", [(), MARKS])
def test_thinking_is_opened_only_where_the_last_turn_opens_it(
    template: str, arguments: Any, opened: dict[str, str], special: tuple[str, ...]
) -> None:
    made = with_chat(tokenizer(template, special), arguments, None)
    earlier = [{"role": "assistant", "content": "<think>\nso\n</think>\n\n4"}, {"role": "user", "content": "And 3?"}]
    for prompt in (PROMPT, [*PROMPT, *earlier]):
        ids = encode_prompt(made, prompt)
        assert opened_thinking(made, prompt, ids) == opened
        assert "so" not in made.decode(ids)
    assert ending(made, PROMPT) == of(made, "<|im_end|>")


def test_a_template_that_changes_the_answer_shows_no_end() -> None:
    made = tokenizer("{% for m in messages %}<|im_start|>{{ m.content | upper }}<|im_end|>{% endfor %}")
    assert ending(made, PROMPT) == made.eos_token_id


def test_the_thinking_of_gpt_oss_survives_its_tokens() -> None:
    """Its mark is three tokens, two of them special. Without them thinking and answer were one text."""
    made = tokenizer(special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>"))
    text = "<|channel|>analysis<|message|>2+2=5? No.<|end|><|start|>assistant<|channel|>final<|message|>4"
    ids = made.encode(text, add_special_tokens=False)
    assert outside(decode_text(made, ids)) == "4"
    cut = ids[: ids.index(of(made, "<|end|>"))]
    assert outside(decode_text(made, cut)) == "" and encode_text(made, decode_text(made, cut)) == cut


def test_a_template_may_fail_in_any_way() -> None:
    made = tokenizer("{{ messages[0].content + 1 }}")
    assert ending(made, [{"role": "user", "content": "1+1="}]) == made.eos_token_id
