"""Messages as `datasets` and servers write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

import qstep
from chats import CALL, PROMPT, TURNS, chat_tokenizer
from qstep.data import RowError, Source, check_row, encode_response, read_problems, write_jsonl
from qstep.data.messages import identity
from qstep.data.tables import plain_rows


def checked(**row: Any) -> dict[str, Any]:
    return check_row(Path("rows.jsonl"), 1, {"prompt": PROMPT, "completion": "4", **row}, "prompt-completion")


def answer(**message: Any) -> Any:
    return checked(completion=[{"role": "assistant", **message}])["completion"]


def test_null_keys_are_none() -> None:
    row = checked(prompt=[{"role": "user", "content": "2+2?", "name": None, "tool_calls": None}])
    assert row["prompt"] == PROMPT
    assert answer(content="4", tool_calls=None, refusal=None, annotations=[]) == "4"


def test_a_null_argument_of_a_tool_call_is_kept() -> None:
    """As an object and as JSON text. Null keys of the call itself are none."""
    given = {"unit": None, "near": {"city": None}, "days": [None, 2]}
    for arguments in (given, json.dumps(given)):
        call = {"id": None, "type": "function", "function": {"name": "f", "strict": None, "arguments": arguments}}
        [message, *_] = answer_of(call)
        assert message["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": given}}]


def test_a_call_without_arguments_has_none() -> None:
    [message, *_] = answer_of({"function": {"name": "now", "arguments": ""}})
    assert message["tool_calls"] == [{"function": {"name": "now", "arguments": {}}}]


def answer_of(call: Any) -> Any:
    return answer(content=None, tool_calls=[call])


def test_text_parts_are_their_text() -> None:
    parts = [{"type": "text", "text": "2+", "image": None}, {"type": "text", "text": "2?"}]
    assert checked(prompt=[{"role": "user", "content": parts}])["prompt"] == PROMPT


def test_an_image_is_refused_by_row_and_field() -> None:
    parts = [{"type": "text", "text": "2+2?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(RowError, match=r"line 1, field 'prompt'.*messages\[0\] with a part of type 'image_url'"):
        checked(prompt=[{"role": "user", "content": parts}])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_the_thinking_part(name: str) -> None:
    assert answer(content="\n4", **{name: "two and two\n"}) == "<think>\ntwo and two\n</think>\n\n4"
    assert answer(content="<think>\nso\n</think>\n\n4", **{name: "so"}) == "<think>\nso\n</think>\n\n4"
    assert answer(content="", **{name: "two and"}) == answer(**{name: "two and"}) == "<think>\ntwo and", "never closed"
    called = {"role": "assistant", "tool_calls": [CALL], name: "two and two"}
    [first, *_] = checked(completion=[called, *TURNS[1:]])["completion"]
    assert first["content"] == "<think>\ntwo and two\n</think>\n\n"
    with pytest.raises(RowError, match="of 'user' with reasoning"):
        checked(prompt=[{"role": "user", "content": "2+2?", name: "hm"}])


def test_tool_calls_are_kept_and_their_arguments_parsed() -> None:
    as_text = {"id": None, "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [as_text]}, *TURNS[1:]]
    assert checked(completion=turns)["completion"] == [{**TURNS[0], "content": ""}, *TURNS[1:]]
    prompt = [*PROMPT, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "4"}]
    assert checked(prompt=prompt)["prompt"][1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ([TURNS[0], TURNS[1]], "ends with a message of 'tool'"),
        ([TURNS[1], TURNS[2]], "begins with a message of 'tool'"),
        ([TURNS[2], {"role": "system", "content": "x"}, TURNS[2]], r"messages\[1\] of 'system'"),
        ([TURNS[2], TURNS[1], {"role": "assistant", "content": " "}], r"messages\[2\] without content"),
        ([{**TURNS[2], "weight": 0}], "with 'weight', which qstep does not read"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "not JSON"),
    ],
)
def test_other_completions_are_refused(completion: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(RowError, match=f"field 'completion'.*{says}"):
        checked(completion=completion)


def test_a_prompt_that_ends_with_the_assistant_is_refused() -> None:
    with pytest.raises(RowError, match="field 'prompt': ends with an assistant's message"):
        checked(prompt=[*PROMPT, {"role": "assistant", "content": "Well,"}])


def test_tools_become_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "add", "description": None}}]
    plain = [{"type": "function", "function": {"name": "add"}}]
    assert checked(tools=tools)["prompt"] == [{**PROMPT[0], "tools": plain}]
    assert checked(tools=None)["prompt"] == PROMPT
    with pytest.raises(RowError, match="is a string, and the row has tools"):
        checked(prompt="2+2?", tools=tools)


def test_every_reader_takes_such_messages(tmp_path: Path) -> None:
    question = [{"role": "user", "content": [{"type": "text", "text": "2+2?"}], "name": None}]
    reply = [{"role": "assistant", "content": "The answer is 4.", "reasoning_content": "5?", "tool_calls": None}]
    row = {"prompt": question, "answer": "4", "completion": reply}
    [graded] = qstep.grade([row])
    assert graded["verdict"] == "right" and graded["prompt"] == PROMPT
    assert graded["completion"] == "<think>\n5?\n</think>\n\nThe answer is 4."
    write_jsonl(tmp_path / "problems.jsonl", [row])
    [problem] = read_problems(str(tmp_path / "problems.jsonl"), split="test", task="math")
    assert problem.prompt == PROMPT


def test_the_last_message_is_graded() -> None:
    [graded] = qstep.grade([{"prompt": PROMPT, "answer": "4", "completion": TURNS}])
    assert (graded["verdict"], graded["completion"]) == ("right", TURNS)


def test_the_row_of_the_page(tmp_path: Path) -> None:
    """docs/rows.md: its row of several turns is graded and has two turns to train on."""
    page = (Path(__file__).parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")
    block = page.split("## Several turns")[1].split("```json\n")[1].split("```")[0]
    [graded] = qstep.grade([json.loads(block)])
    assert graded["verdict"] == "right"
    assert len(encode_response(chat_tokenizer(), graded).ends) == 2


def test_a_data_set_may_mix_one_turn_and_several() -> None:
    """`datasets` adds null keys, and its columns have one type."""
    one = [{"role": "assistant", "content": "The answer is 4."}]
    table = datasets.Dataset.from_list([{"prompt": PROMPT, "answer": "4", "completion": c} for c in (TURNS, one)])
    graded = qstep.grade(table)
    assert graded["verdict"] == ["right", "right"]
    rows = [checked(**row)["completion"] for row in graded]
    assert rows == [TURNS, "The answer is 4."]


@pytest.mark.parametrize("kind", ["to_parquet", "save_to_disk", "split", "memory", "numpy", "iterable", "pandas"])
def test_a_call_in_a_table_has_its_own_arguments(kind: str, tmp_path: Path) -> None:
    """A table gives each call the arguments of all tools, as nulls."""
    found = [{"a": 2, "to": {"x": 1}}, {"b": [{"c": 1}, {"d": 2}]}, {}]
    turns = [{**TURNS[0], "tool_calls": [{"function": {"name": "f", "arguments": a}} for a in found]}, *TURNS[1:]]
    table = datasets.Dataset.from_list([{"prompt": PROMPT, "answer": "4", "completion": turns}])
    added = table[0]["completion"][0]["tool_calls"][0]["function"]["arguments"]
    assert added == {"a": 2, "to": {"x": 1}, "b": None}
    in_memory = {
        "memory": lambda: table,
        "numpy": lambda: table.with_format("numpy"),
        "iterable": table.to_iterable_dataset,
        "pandas": table.to_pandas,
    }
    if kind in in_memory:
        [row] = plain_rows(in_memory[kind]())
    elif kind == "split":
        table.to_parquet(tmp_path / "rows" / "test.parquet")
        [(_, row)] = Source.of(str(tmp_path / "rows"), split="test").rows()
    else:
        path = tmp_path / ("rows.parquet" if kind == "to_parquet" else "rows")
        getattr(table, kind)(path)
        [row] = qstep.read_rows(path)
    assert checked(**row)["completion"] == turns


def test_a_data_set_keeps_the_arguments_of_different_tools() -> None:
    """A column of `datasets` has one type, so objects with other keys are written as JSON text, as servers do."""

    def calls(*arguments: dict[str, Any]) -> list[Any]:
        turns = [[{**TURNS[0], "tool_calls": [{"function": {"name": "f", "arguments": a}}]}] for a in arguments]
        rows = [{"prompt": PROMPT, "answer": "4", "completion": [*turn, *TURNS[1:]]} for turn in turns]
        as_text = json.loads(json.dumps(rows))
        for row in as_text:
            function = row["completion"][0]["tool_calls"][0]["function"]
            function["arguments"] = json.dumps(function["arguments"])
        graded = list(qstep.grade(datasets.Dataset.from_list(as_text)))
        assert [checked(**row)["completion"] for row in graded] == [row["completion"] for row in rows]
        return [row["completion"][0]["tool_calls"][0]["function"]["arguments"] for row in graded]

    assert calls({"a": 2, "b": 2}, {"x": 9}) == ['{"a": 2, "b": 2}', '{"x": 9}']
    assert calls({"x": 4}, {"x": "four"}) == ['{"x": 4}', '{"x": "four"}']
    assert calls({"x": 4}, {"x": 9}) == [{"x": 4}, {"x": 9}]


@pytest.mark.parametrize(
    ("thinking", "text"),
    [("a", "<think>\na\n</think>\n\n4"), ([{"type": "text", "text": "a"}], "<think>\na\n</think>\n\n4")],
)
def test_reasoning_is_text(thinking: Any, text: str) -> None:
    assert answer(content="4", reasoning_content=thinking) == text


def test_reasoning_of_two_names_is_refused_if_it_differs() -> None:
    assert answer(content="4", reasoning_content="a\n", reasoning="a") == "<think>\na\n</think>\n\n4"
    with pytest.raises(RowError, match="with 'reasoning_content' and 'reasoning', which differ"):
        answer(content="4", reasoning_content="a", reasoning="b")


def test_reasoning_is_lost_neither_to_an_empty_name_nor_to_a_mark_in_the_text() -> None:
    assert answer(content="4", reasoning_content="", reasoning="a") == "<think>\na\n</think>\n\n4"
    assert answer(content="4", reasoning_content=" ", reasoning=None) == "4"
    text = "`</think>` ends it"
    assert answer(content=text, reasoning="which mark?") == f"<think>\nwhich mark?\n</think>\n\n{text}"
    assert answer(content="4", reasoning="4") == "<think>\n4\n</think>\n\n4"
    for whole in ("so\n</think>\n\n4", "<think>so, shortened</think>4"):
        assert answer(content=whole, reasoning="so\n") == whole, "the text has its thinking"


@pytest.mark.parametrize("thinking", [True, 3, {"a": 1}, [{"type": "thinking", "thinking": "a"}]])
def test_reasoning_that_is_no_text_is_refused(thinking: Any) -> None:
    with pytest.raises(RowError, match=r"field 'completion': has messages\[0\] with (reasoning|a part)"):
        answer(content="4", reasoning_content=thinking)


def test_tools_of_a_later_message_are_refused() -> None:
    prompt = [{"role": "system", "content": "s"}, {**PROMPT[0], "tools": [{"name": "add"}]}]
    with pytest.raises(RowError, match=r"has tools in messages\[1\]; only the first message may have them"):
        checked(prompt=prompt)


def test_the_json_of_messages_is_messages(tmp_path: Path) -> None:
    """A CSV file has no lists. Its prompts were trained as the text of their JSON."""
    path = tmp_path / "chat.csv"
    turns = [{"role": "assistant", "content": "4"}]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "response", "answer"], [json.dumps(PROMPT), json.dumps(turns), "4"]])
    [row] = qstep.data.read_responses(path)
    assert row["prompt"] == PROMPT and row["completion"] == "4"
    assert [problem.prompt for problem in read_problems(str(path), split="train", task="math")] == [PROMPT]
    index = qstep.data.index_rows(path, "prompt-completion")
    assert index.prompts == "messages" and index.row(0)["prompt"] == PROMPT
    assert checked(prompt=f"[{{2}}] {PROMPT}")["prompt"].startswith("[{2}]"), "a text may begin like this"


def test_messages_as_python_prints_them_are_refused() -> None:
    with pytest.raises(RowError, match=r"field 'prompt': looks like messages, but is not JSON: .*json\.dumps"):
        checked(prompt=str(PROMPT))


def test_ids_of_tool_calls_do_not_distinguish_messages() -> None:
    def messages(name: str, sum_of: int) -> list[dict[str, Any]]:
        call = {"id": name, "type": "function", "function": {"name": "add", "arguments": {"a": sum_of}}}
        return [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": name},
        ]

    assert list(map(identity, messages("call_1", 1))) == list(map(identity, messages("call_2", 1)))
    assert identity(messages("call_1", 1)[0]) != identity(messages("call_1", 2)[0])
