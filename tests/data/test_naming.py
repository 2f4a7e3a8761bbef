"""Columns under the names that people give them: one meaning a row, or an error that names the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import qstep
from qstep.data import RowError, check_columns, index_rows, read_responses, read_rows, write_jsonl
from qstep.stages.grade import GradeConfig, grade
from qstep.tasks import load_problems
from raw_rows import write

ROW = {"question": "2+2?", "answer": "4", "response": "It is 4."}


@pytest.mark.parametrize(
    ("more", "column", "other"),
    [
        ({"prompt": "What is 2+2?"}, "question", "prompt"),
        ({"problem": "What is 2+2?"}, "question", "problem"),
        ({"completion": "5"}, "response", "completion"),
        ({"text": "5"}, "text", "response"),
        ({"responses": ["5"]}, "responses", "response"),
        ({"code": ["5"]}, "code", "response"),
        ({"gold": "5"}, "answer", "gold"),
        ({"ground_truth": 5}, "ground_truth", "answer"),
    ],
)
def test_two_names_with_different_values_are_refused(
    tmp_path: Path, more: dict[str, Any], column: str, other: str
) -> None:
    path = write(tmp_path / "r.jsonl", ROW, {**ROW, **more})
    with pytest.raises(RowError, match=rf"line 2, field '{column}': is not the same as '{other}'.*--columns"):
        list(read_responses(path, need=("gold",)))
    if column not in ("response", "text", "responses", "code"):
        with pytest.raises(RowError, match=rf"line 2, field '{column}': is not the same as '{other}'"):
            load_problems(str(path))


def test_equal_values_and_nulls_under_two_names_are_no_conflict(tmp_path: Path) -> None:
    equal = {**ROW, "problem": "2+2?", "gold": 4, "gt": "2 + 2 = 4\n#### 4", "text": None, "target": None}
    [row] = read_responses(write(tmp_path / "r.jsonl", equal))
    assert (row["prompt"], row["gold"], row["completion"]) == ("2+2?", "4", "It is 4.")
    [problem] = load_problems(str(tmp_path / "r.jsonl"))
    assert (problem.prompt, problem.gold) == ("2+2?", "4")


def test_the_columns_that_the_user_chose_are_read(tmp_path: Path) -> None:
    """What the other columns say does not matter; they stay, and the commands that follow do not stumble over them."""
    row = {**ROW, "prompt": "Q: 2+2?", "gold": "5", "text": "6", "output": "It is 5."}
    path = write(tmp_path / "r.jsonl", row)
    columns = {"prompt": "question", "answer": "answer", "response": "output"}
    graded = grade(GradeConfig(path, tmp_path / "graded.jsonl", columns=columns))
    [row] = read_rows(graded)
    assert (row["prompt"], row["gold"], row["completion"]) == ("2+2?", "4", "It is 5.")
    assert row["verdict"] == "wrong" and row["text"] == "6" and "output" not in row
    [again] = read_responses(graded, need=("gold", "verdict"))
    assert again["completion"] == "It is 5." and again["gold"] == "4"
    [problem] = load_problems(str(path), columns={"question": "question", "gold": "gold"})
    assert (problem.prompt, problem.gold) == ("2+2?", "5")


def test_a_chosen_column_that_a_row_lacks_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {**ROW, "final": "4"}, ROW)
    message = r"line 2, field 'final': is missing, but --columns.gold names it. The row has question, answer, response"
    with pytest.raises(RowError, match=message):
        list(read_responses(path, columns={"answer": "final"}))
    with pytest.raises(RowError, match=message):
        load_problems(str(path), columns={"answer": "final"})
    bad = write(tmp_path / "bad.jsonl", {**ROW, "final": [4]})
    with pytest.raises(RowError, match=r"line 1, field 'final': is \[4\]; give the answer"):
        list(read_responses(bad, columns={"answer": "final"}))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"anwser": "final"},
            "--columns.anwser: qstep reads no column of this name. It reads question, answer",
        ),
        ({"answer": "a", "gold": "b"}, "chosen twice"),
        ({"answer": "a", "question": "a"}, "chosen twice"),
        ({"answer": 5}, "--columns.answer is 5; give the name"),
        ({"user": "q", "question": "p"}, "--columns.user and --columns.prompt both choose the question. Remove one"),
    ],
)
def test_columns_that_cannot_be_chosen_are_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_columns("columns", columns)
    with pytest.raises(ValueError, match=message):
        GradeConfig(tmp_path / "r.jsonl", tmp_path / "graded.jsonl", columns=columns)


def test_generated_problems_have_no_columns() -> None:
    with pytest.raises(ValueError, match="no effect without a file or a Hub id"):
        load_problems("miniature", limit=1, columns={"answer": "final"})


def test_python_names_its_argument() -> None:
    rows = [{**ROW, "prompt": "Another?"}]
    with pytest.raises(ValueError, match=r'rows\[0\], column .question.: .* with columns={"prompt": "prompt"}'):
        qstep.grade(rows)
    with pytest.raises(ValueError, match=r'but columns\["gold"\] names it'):
        qstep.grade([ROW], columns={"answer": "final"})
    [row] = qstep.grade(rows, columns={"question": "question"})
    assert row["prompt"] == "2+2?" and row["verdict"] == "right"


QWEN = {
    "idx": 0,
    "question": "2+2?",
    "gt_cot": "2 + 2 = 4",
    "gt": "4",
    "code": ["It is \\boxed{4}.", "It is \\boxed{5}."],
    "pred": ["4", "5"],
    "report": [None, None],
    "score": [True, False],
}


@pytest.mark.parametrize(
    "column", ["code", "response", "generations", "completion", "text", "generation", "model_output"]
)
def test_a_list_of_responses_under_any_name(tmp_path: Path, column: str) -> None:
    """As Qwen2.5-Math and DeepSeek write them: lists, whose entries belong to one response each."""
    row = {column if name == "code" else name: value for name, value in QWEN.items()}
    path = write(tmp_path / "qwen.jsonl", row, {**row, "question": "3+1?"})
    rows = list(read_rows(grade(GradeConfig(path, tmp_path / "graded.jsonl"))))
    assert [row["completion"] for row in rows[:2]] == QWEN["code"]
    assert [row["verdict"] for row in rows] == ["right", "wrong"] * 2 and {row["gold"] for row in rows} == {"4"}
    assert [(row["sample"], row["pred"], row["correct"]) for row in rows[:2]] == [(0, "4", True), (1, "5", False)]
    assert all(("score" not in row and column not in row) or column == "completion" for row in rows)


def test_lists_that_do_not_fit_their_responses_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "qwen.jsonl", {**QWEN, "score": [True]})
    with pytest.raises(RowError, match="field 'score': has 1 entry, and code has 2; give one for each"):
        list(read_responses(path))


def test_the_finish_reasons_of_a_list_say_which_responses_were_cut_off(tmp_path: Path) -> None:
    """As OpenR1-Math writes them."""
    row = {"problem": "2+2?", "answer": "4", "generations": ["So first 3, then", "It is 4."]}
    path = write(tmp_path / "r.jsonl", {**row, "finish_reasons": ["length", "stop"]}, {**row, "finish_reasons": None})
    rows = list(read_responses(path))
    assert [row.get("finish_reason") for row in rows] == ["length", "stop", None, None]
    assert not any(row.get("finish_reasons") for row in rows)
    path = write(path, {**row, "finish_reasons": ["length", "stop"], "finish_reason": "stop"})
    with pytest.raises(RowError, match="'finish_reasons': is given in addition to 'finish_reason'; remove one"):
        list(read_responses(path))


def test_a_chosen_list_and_a_chosen_column_of_its_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"question": "Q", "outputs": ["a", "b"]})
    assert [row["completion"] for row in read_responses(path, columns={"response": "outputs"})] == ["a", "b"]
    path = write(tmp_path / "o.jsonl", {"question": "Q", "responses": [{"output": "a"}, {"output": "b"}]})
    assert [row["completion"] for row in read_responses(path, columns={"response": "output"})] == ["a", "b"]


def test_a_string_of_code_is_no_response(tmp_path: Path) -> None:
    [row] = read_responses(write(tmp_path / "r.jsonl", {**ROW, "code": "print(4)"}))
    assert row["completion"] == "It is 4." and row["code"] == "print(4)"


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "It is 4.", "reasoning_content": "Two and two."},
]


def test_a_conversation_ends_with_the_response(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", {"messages": CHAT, "ground_truth": "4"})
    [row] = read_responses(path)
    assert row["prompt"] == CHAT[:2] and "messages" not in row and row["gold"] == "4"
    assert row["completion"] == "<think>\nTwo and two.\n</think>\n\nIt is 4."
    [problem] = load_problems(str(path))
    assert (problem.prompt, problem.gold) == (CHAT[:2], "4")
    asked = write(tmp_path / "asked.jsonl", {"messages": CHAT[:2], "answer": "4"})
    assert load_problems(str(asked))[0].prompt == CHAT[:2]
    with pytest.raises(RowError, match="field 'messages': ends with a message of 'user', so it has no response"):
        list(read_responses(asked))


def test_a_conversation_is_read_only_where_nothing_else_is_or_it_was_chosen(tmp_path: Path) -> None:
    """Published sets of problems have their messages as another form of the same row."""
    path = write(tmp_path / "r1.jsonl", {"problem": "Q", "answer": "4", "generations": ["a", "b"], "messages": CHAT})
    assert [(row["prompt"], row["completion"]) for row in read_responses(path)] == [("Q", "a"), ("Q", "b")]
    assert load_problems(str(path))[0].prompt == "Q"
    [row] = read_responses(path, columns={"messages": "messages"})
    assert row["prompt"] == CHAT[:2] and row["completion"].endswith("It is 4.")
    path = write(tmp_path / "half.jsonl", {"problem": "Q", "answer": "4", "messages": CHAT})
    with pytest.raises(RowError, match=r"field 'completion': is missing, .*--columns.messages messages"):
        list(read_responses(path))
    [row] = read_responses(path, columns={"messages": "messages"})
    assert row["prompt"] == CHAT[:2] and row["problem"] == "Q"


def test_the_error_for_an_unknown_column_lists_all_names() -> None:
    with pytest.raises(ValueError, match="reads no column of this name") as error:
        check_columns("columns", {"bogus": "x"})
    listed = str(error.value).partition("It reads ")[2].split(", ")
    for name in listed:
        check_columns("columns", {name: "x"})
    assert {"gold", "prompt", "question", "answer", "response", "messages", "labels", "gt"} <= {*listed}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"code": "print(4)"}, "; 'code' is a string, not a list of responses. The row has question, answer, code"),
        ({"generation": 5}, "; 'generation' is a number, not a string or a list of them"),
    ],
)
def test_a_column_that_is_no_response_is_named_as_what_it_is(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    """The names that are missing are not those that the row has."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"question": "2+2?", "answer": "4", **row}])
    with pytest.raises(RowError, match="field 'completion': is missing") as error:
        list(read_responses(path))
    [name] = row
    assert words in str(error.value) and f"{name!r}" not in str(error.value).partition(";")[0]


def test_a_gold_answer_of_another_kind_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"question": "2+2?", "target": ["4"], "response": "4"}])
    with pytest.raises(RowError, match="'target' is a list, not a string or a number"):
        list(read_responses(path, need=("gold",)))


def test_an_empty_list_of_responses_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {**ROW, "id": "a"}, {"question": "1+1?", "answer": "2", "code": []})
    with pytest.raises(RowError, match=r"line 2, field 'code': is an empty list: the row has no response"):
        list(read_responses(file))


def test_training_reads_the_usual_names(tmp_path: Path) -> None:
    written = {"problem_id": "a", "sample": 0, "task": "math", "prompt": "2+2?", "completion": "4", "reward": 1}
    path = write(tmp_path / "r.jsonl", {"question": "2+2?", "response": "4", "reward": 1}, written)
    rows = [index_rows(path, "unpaired").row(number) for number in (0, 1)]
    assert [(row["prompt"], row["completion"]) for row in rows] == [("2+2?", "4")] * 2
    mine = write(tmp_path / "mine.jsonl", {"q": "2+2?", "mine": "4", "reward": 1}, written)
    index = index_rows(mine, "unpaired", columns={"question": "q", "completion": "mine"})
    assert [index.row(number)["completion"] for number in (0, 1)] == ["4", "4"], "rows of qstep keep their names"
    text = write(tmp_path / "text.jsonl", {"prompt": "2+2?", "text": "2+2? 4", "reward": 1})
    with pytest.raises(RowError, match=r"field 'completion': is missing; name its column with --columns\.completion"):
        index_rows(text, "unpaired")
    assert index_rows(text, "unpaired", columns={"completion": "text"}).row(0)["completion"] == "2+2? 4"


def test_a_file_of_pairs_is_refused_with_what_to_make_of_it(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    with pytest.raises(RowError, match="these are pairs, so make a row of each response, with the reward 1 if"):
        index_rows(pairs, "unpaired")


def test_a_reward_under_another_name_is_pointed_to(tmp_path: Path) -> None:
    row = {"prompt": "2+2?", "response": "4", "score": 0.5, "right": True, "note": "x"}
    with pytest.raises(RowError, match=r"name it: --columns\.reward score or --columns\.label right$"):
        index_rows(write(tmp_path / "r.jsonl", row), "unpaired")


def test_training_refuses_two_names_with_different_values(tmp_path: Path) -> None:
    """As `qstep grade` does. Two questions were one problem, named after their subject."""
    rows = [{"problem": "algebra", "question": f"{n}+{n}=", "response": "2"} for n in (1, 2)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RowError, match=r"'question': is not the same as 'problem', .* --columns.prompt problem or"):
        index_rows(tmp_path / "rows.jsonl", "prompt-completion")
    chosen = index_rows(tmp_path / "rows.jsonl", "prompt-completion", columns={"prompt": "question"})
    assert len(set(chosen.table["problem"].tolist())) == 2
    write_jsonl(tmp_path / "own.jsonl", [{"prompt": "1+1=", "completion": "2", "question": "1 + 1?", "response": "3"}])
    own = index_rows(tmp_path / "own.jsonl", "prompt-completion").row(0)
    assert (own["prompt"], own["completion"]) == ("1+1=", "2"), "these are the names of the format"


def test_chosen_messages_leave_rows_that_qstep_wrote(tmp_path: Path) -> None:
    row = {"problem_id": "a", "sample": 0, "task": "math", "prompt": "1+1=", "completion": "2", "reward": 1}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert index_rows(tmp_path / "rows.jsonl", "unpaired", columns={"messages": "chat"}).row(0)["completion"] == "2"


def test_a_chosen_column_is_read_from_rows_that_qstep_wrote(tmp_path: Path) -> None:
    """A graded row may have another reward. What it calls `answer` is the model's, and no gold answer."""
    row = {"problem_id": "a", "sample": 0, "task": "math", "prompt": "1+1=", "gold": "2", "completion": "3"}
    graded = {**row, "answer": "3", "verdict": "wrong", "label": False, "reward": 0}
    path = write(tmp_path / "r.jsonl", {**graded, "rm_score": 0.75}, graded)
    index = index_rows(path, "unpaired", columns={"reward": "rm_score", "gold": "answer", "prompt": "question"})
    assert index.table["outcome"].tolist() == [0.75, 0.0]
    assert [index.row(number)["gold"] for number in (0, 1)] == ["2", "2"]


ASKED = [{"role": "user", "content": "2+2?"}]


def test_a_chosen_text_is_the_users_turn(tmp_path: Path) -> None:
    """The file's own column `user` stays, unless it is the one that was chosen."""
    row = {"task_prompt": "2+2?", "prompt": "old", "answer": "4", "response": "It is 4.", "reward": 1, "user": "ann"}
    path = write(tmp_path / "r.jsonl", row)
    columns = {"user": "task_prompt"}
    graded = grade(GradeConfig(path, tmp_path / "graded.jsonl", columns=columns))
    [read] = read_rows(graded)
    assert read["prompt"] == ASKED and read["user"] == "ann" and read["verdict"] == "right"
    [problem] = load_problems(str(path), columns=columns)
    assert problem.prompt == ASKED
    index = index_rows(path, "unpaired", columns=columns)
    assert index.row(0)["prompt"] == ASKED and index.prompts == "messages"
    listed = write(tmp_path / "listed.jsonl", {"user": "2+2?", "answer": "4", "responses": ["4", "5"]})
    assert [row["prompt"] for row in read_responses(listed, columns={"user": "user"})] == [ASKED, ASKED]
    [read] = qstep.grade([ROW], columns={"user": "question"})
    assert read["prompt"] == ASKED


def test_the_prompt_of_graded_rows_becomes_the_users_turn_once(tmp_path: Path) -> None:
    """A training file and an evaluation file share the choice. Neither a text nor a conversation is left out of it."""
    written = {"problem_id": "a", "sample": 0, "task": "math", "prompt": "2+2?", "completion": "4", "reward": 1}
    path = write(tmp_path / "r.jsonl", written, {**written, "prompt": ASKED})
    mine = {"prompt": "2+2?", "completion": "4", "reward": 1}
    index = index_rows(write(tmp_path / "mine.jsonl", mine), "unpaired", columns={"user": "prompt"})
    assert index.row(0)["prompt"] == ASKED
    index = index_rows(path, "unpaired", columns={"user": "prompt"})
    assert [index.row(number)["prompt"] for number in (0, 1)] == [ASKED, ASKED]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ASKED, "field 'question': has messages already. Choose it as the prompt"),
        (json.dumps(ASKED), "field 'question': has messages already"),
        (" ", "field 'question': is ' '; give the text of the user's turn"),
        (None, "field 'question': is None; give the text"),
    ],
)
def test_what_is_no_text_is_not_the_users_turn(tmp_path: Path, question: object, message: str) -> None:
    path = write(tmp_path / "r.jsonl", {**ROW, "question": question})
    with pytest.raises(RowError, match=message):
        list(read_responses(path, columns={"user": "question"}))
    with pytest.raises(RowError, match=message):
        index_rows(path, "prompt-completion", columns={"user": "question"})
    with pytest.raises(RowError, match=r"field 'asked': is missing, but --columns\.user names it"):
        index_rows(path, "prompt-completion", columns={"user": "asked"})
