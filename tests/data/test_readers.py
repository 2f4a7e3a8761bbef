"""Problems of every source and shape, and errors that name file, line and column."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hub_sets import put_on_hub
from qstep.data import RowError, encode_prompt, read_responses, read_rows, write_jsonl
from qstep.stages.grade import GradeConfig, grade
from qstep.tasks import grade_rows, load_problems, miniature
from qstep.tasks.options import ProblemOptions
from qstep.types import Problem
from raw_rows import write
from real_data import DATA, needs_data

GSM8K = {
    "question": "How many?",
    "answer": "He has 2*600 = $<<2*600=1200>>1200.\nSo <<1200+34.5=1234.5>>1,234.5 in all.\n#### 1,234.5",
}


def test_gsm8k(tmp_path: Path) -> None:
    (problem,) = load_problems(str(write(tmp_path / "gsm.jsonl", GSM8K)), split="test")
    assert problem == Problem(
        "gsm/test/0",
        "How many?",
        "1234.5",
        "math",
        {"solution": "He has 2*600 = $1200.\nSo 1,234.5 in all.\n#### 1,234.5"},
    )


def test_other_shapes(tmp_path: Path) -> None:
    """MATH's gold keeps its comma; a number becomes its text; the answer of a graded row is the model's."""
    chat = [{"role": "user", "content": "Q"}]
    name = str(
        write(
            tmp_path / "m.jsonl",
            {"problem": "Polar?", "solution": "r = 3", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)"},
            {"id": 60, "problem": "AIME?", "answer": 204, "question": "AIME?"},
            {"prompt": chat, "gold": "7", "answer": "no", "verdict": "wrong"},
            {"prompt": "a", "answer": 0.5},
        )
    )
    problems = load_problems(name)
    golds = ["\\left( 3, \\frac{\\pi}{2} \\right)", "204", "7", "0.5"]
    assert [problem.gold for problem in problems] == golds
    assert [problem.prompt for problem in problems] == ["Polar?", "AIME?", chat, "a"]
    assert problems[0].metadata == {"solution": "r = 3"} and problems[1].metadata == {}


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("#### 1, 2", "1, 2"), ("#### (3, 4)", "(3, 4)"), ("#### [0,1)", "[0,1)"), ("#### 1,2", "1,2"),
     ("#### 1,200", "1200"), ("#### -$1,234,567.5", "-$1234567.5")],
)  # fmt: skip
def test_only_thousands_lose_their_commas(tmp_path: Path, answer: str, gold: str) -> None:
    (problem,) = load_problems(str(write(tmp_path / "m.jsonl", {"question": "Q", "answer": answer})))
    assert problem.gold == gold


def test_limits_keep_the_numbering(tmp_path: Path) -> None:
    name = str(write(tmp_path / "m.jsonl", *({"problem": f"Q{i}", "answer": f"{i}"} for i in range(5))))
    assert [problem.id for problem in load_problems(name, limit=2, offset=1)] == ["m/train/1", "m/train/2"]
    assert [problem.gold for problem in load_problems(name, offset=3)] == ["3", "4"]
    assert len(load_problems(name, limit=9)) == 5
    with pytest.raises(ValueError, match="no problem after --offset 5"):
        load_problems(name, offset=5)
    for bad in ({"limit": 0}, {"offset": -1}):
        with pytest.raises(ValueError, match="at least"):
            load_problems(name, **bad)


def test_instructions_and_conversations(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    name = str(
        write(
            tmp_path / "m.jsonl",
            {"prompt": "Q", "answer": "1"},
            {"prompt": [system, {"role": "user", "content": "Q"}], "answer": "1"},
        )
    )
    user = {"role": "user", "content": "Q\n\nThink."}
    text, chat = load_problems(name, instruction="Think.")
    assert text.prompt == "Q\n\nThink." and chat.prompt == [system, user]
    text, chat = load_problems(name, instruction="Think.", conversational=True)
    assert text.prompt == [user] and chat.prompt == [system, user]


@pytest.mark.parametrize(
    ("row", "field", "what"),
    [
        ({"text": "Q", "answer": "1"}, "prompt", "The row has text, answer"),
        ({"problem": "Q", "result": "1"}, "gold", "The row has problem, result"),
        ({"problem": "Q", "answer": None}, "answer", "is None"),
        ({"problem": "Q", "answer": True}, "answer", "is True"),
        ({"question": "Q", "answer": "Work.\n#### "}, "answer", "give the answer"),
        ({"problem": " ", "answer": "1"}, "problem", "give a string"),
        ({"prompt": [], "answer": "1"}, "prompt", "messages"),
        ({"prompt": ["Q"], "answer": "1"}, "prompt", "messages"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], field: str, what: str) -> None:
    name = str(write(tmp_path / "m.jsonl", GSM8K, row))
    with pytest.raises(RowError, match=what) as error:
        load_problems(name)
    assert (error.value.line, error.value.field, str(error.value.path)) == (2, field, name)


def test_json_and_parquet_files(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "a.json").write_text(json.dumps([GSM8K]), encoding="utf-8")
    Dataset.from_list([GSM8K]).to_parquet(tmp_path / "a.parquet")
    (one,) = load_problems(str(tmp_path / "a.json"))
    (other,) = load_problems(str(tmp_path / "a.parquet"))
    assert one == other and one.id == "a/train/0"
    for text in ('{"problem": "Q"}', "[1]", "nonsense"):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=r"b\.json"):
            load_problems(str(tmp_path / "b.json"))
    for name in ("no.jsonl", "no.json", "no.parquet"):
        with pytest.raises(FileNotFoundError, match=name):
            load_problems(str(tmp_path / name))


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put_on_hub(monkeypatch, tmp_path, lambda hub_id: [GSM8K])
    assert load_problems("openai/gsm8k", split="test")[0].id == "openai/gsm8k/test/0"
    load_problems("owner/data:hard")
    load_problems("owner/data")
    load_problems("owner/train@v1.0:hard", split="test")
    with pytest.raises(
        ValueError, match="owner/data@v1:hard/dev has a split: give owner/data@v1:hard, and --split dev"
    ):
        load_problems("owner/data@v1:hard/dev")
    assert [*map(str, asked)] == [
        "openai/gsm8k:main/test",
        "owner/data:hard/train",
        "owner/data/train",
        "owner/train@v1.0:hard/test",
    ]
    assert load_problems("owner/data", split="test[:50%]+train")[0].id == "owner/data/test[:50%]+train/0"
    with pytest.raises(ValueError, match="owner/data has no split 'dev'; it has gsm8k, test and train"):
        load_problems("owner/data", split="test+dev")
    with pytest.raises(FileNotFoundError, match="not the id of a data set of the Hub, which is owner/name"):
        load_problems("gsm8k")


def test_the_miniature() -> None:
    problems = load_problems("miniature", split="test", limit=3, offset=2, seed=1)
    assert problems == load_problems("miniature", split="test", limit=5, seed=1)[2:]
    assert problems[0].task == "miniature"
    with pytest.raises(ValueError, match="has no end"):
        load_problems("miniature")
    with pytest.raises(ValueError, match="miniature, which has no letters"):
        load_problems("miniature", limit=1, conversational=True)
    with pytest.raises(ValueError, match="'dev'"):
        load_problems("miniature", limit=1, split="dev")


def test_procedural_splits_are_disjoint_and_their_gold_answers_right() -> None:
    """A small space of questions, so that streams meet: the greatest common divisors of two small numbers."""
    texts: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            problems = load_problems("reasoning_gym:lcm", split=split, limit=120, seed=seed)
            prompts = [str(problem.prompt) for problem in problems]
            assert len(set(prompts)) == len({problem.id for problem in problems}) == 120
            texts.setdefault(split, set()).update(prompts)
            rows = [
                {
                    "task": p.task,
                    "gold": p.gold,
                    "completion": f"#### {p.gold}",
                    "metadata": json.loads(json.dumps(dict(p.metadata))),
                }
                for p in problems[:20]
            ]
            assert {grade.verdict for grade in grade_rows(rows)} == {"right"}
    assert not texts["train"] & texts["validation"] | texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]


def test_procedural_problems_are_stable_and_endless_ones_need_a_limit() -> None:
    name = "reasoning_gym:gsm_symbolic"
    some = load_problems(name, limit=4, seed=3)
    assert some[2:] == load_problems(name, limit=2, offset=2, seed=3)
    assert some != load_problems(name, limit=4, seed=4)
    assert some[0].id == f"{name}/train/3/0" and some[0].task == name
    with pytest.raises(ValueError, match="has no end"):
        load_problems(name)
    with pytest.raises(ValueError, match="'dev'"):
        load_problems(name, limit=1, split="dev")


def test_a_procedural_task_that_runs_dry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import reasoning_gym

    entries = [{"question": f"Q{i}", "answer": "1", "metadata": {}} for i in range(40)]
    real = reasoning_gym.create_dataset

    def few(task: str, size: int, seed: int) -> Any:
        return real(task, size=size, seed=seed) if size == 1 else entries

    monkeypatch.setattr(reasoning_gym, "create_dataset", few)
    splits = [load_problems("reasoning_gym:lcm", split=split, limit=2) for split in ("train", "test")]
    assert not {problem.prompt for problem in splits[0]} & {problem.prompt for problem in splits[1]}
    with pytest.raises(ValueError, match="distinct problems in train; ask for fewer"):
        load_problems("reasoning_gym:lcm", limit=41)


@needs_data
@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("gsm8k_train", 7473),
        ("gsm8k_test", 1319),
        ("math500", 500),
        ("aime24", 30),
    ],
)
def test_real_files(file: str, count: int) -> None:
    problems = load_problems(str(DATA / f"{file}.jsonl"))
    assert len(problems) == count
    for problem in problems:
        assert problem.gold and "####" not in problem.gold
        if file.startswith("gsm8k"):
            float(problem.gold)
            assert "<<" not in problem.metadata["solution"]


BOXED = {"problem": "Q", "level": "Level 5", "type": "Algebra"}


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("So $\\boxed{1}$, no: \\[x = \\boxed{\\frac{1}{\\sqrt{2}}}.\\]", "\\frac{1}{\\sqrt{2}}"),
        ("It is $\\fbox{ \\{1, 2\\} }$.", "\\{1, 2\\}"),
        ("a brace that closes nothing \\boxed{\\left\\{ x : x > 1 \\right.}", "\\left\\{ x : x > 1 \\right."),
        ("It is $\\boxed 9$.", "9"),
    ],
)
def test_a_solution_alone_has_its_answer_in_the_last_box(tmp_path: Path, solution: str, gold: str) -> None:
    (problem,) = load_problems(str(write(tmp_path / "math.jsonl", {**BOXED, "solution": solution})))
    assert problem.gold == gold and problem.metadata == {"solution": solution}


@pytest.mark.parametrize(
    ("solution", "what"),
    [
        ("It is 9.", "has no"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}", "not closed"),
        ("\\boxed{ }", "empty"),
        (5, "has no"),
    ],
)
def test_a_solution_without_an_answer_is_named(tmp_path: Path, solution: Any, what: str) -> None:
    name = str(write(tmp_path / "math.jsonl", {**BOXED, "solution": "\\boxed{1}"}, {**BOXED, "solution": solution}))
    with pytest.raises(RowError, match=what) as error:
        load_problems(name)
    assert (error.value.line, error.value.field) == (2, "solution")


@needs_data
def test_the_boxes_of_real_solutions_are_the_published_answers(tmp_path: Path) -> None:
    rows = list(read_rows(DATA / "math500.jsonl"))
    name = str(write(tmp_path / "boxed.jsonl", *({key: row[key] for key in ("problem", "solution")} for row in rows)))
    assert [problem.gold for problem in load_problems(name)] == [row["answer"] for row in rows]


def test_a_question_without_an_answer_is_refused_or_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As GSM-Plus has them: a condition is missing, and the answer is the word None."""
    rows = [
        {"question": f"Q{i}", "solution": "#### x", "answer": answer} for i, answer in enumerate(("5", "None", "6"))
    ]
    name = str(write(tmp_path / "plus.jsonl", *rows))
    with pytest.raises(RowError, match=r"line 2, field 'answer': is None: .*--unanswerable drop"):
        load_problems(name)
    left_out: Counter[str] = Counter()
    kept = load_problems(name, unanswerable="drop", left_out=left_out)
    assert [problem.id for problem in kept] == ["plus/train/0", "plus/train/2"]
    assert left_out == {"the question has no answer": 1}
    assert len(ProblemOptions(dataset_name=name, unanswerable="drop").problems()) == 2
    assert "left out 1 (the question has no answer)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(
        ValueError, match="--unanswerable is 'drop', but it has no effect without a file or a Hub id as --dataset_name"
    ):
        load_problems("miniature", limit=1, unanswerable="drop")


def test_a_null_answer_in_parquet_is_counted_and_a_column_of_another_name_is_said(tmp_path: Path) -> None:
    import datasets

    rows = [{"question": "1+1?", "gold": "2"}, {"question": "1/0?", "gold": None}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "p.parquet")
    left_out: Counter[str] = Counter()
    (problem,) = load_problems(str(tmp_path / "p.parquet"), unanswerable="drop", left_out=left_out)
    assert problem.gold == "2" and left_out == {"the question has no answer": 1}
    other = str(write(tmp_path / "p.jsonl", {"question": "1+1?", "result": "2"}))
    with pytest.raises(
        ValueError, match=r"no problem\. Left out: 1 \(the question has no answer\)\. .*--columns\.gold"
    ):
        load_problems(other, unanswerable="drop")


@pytest.mark.parametrize("answer", [None, "", " "])
def test_an_empty_answer_counts_as_missing(tmp_path: Path, answer: str | None) -> None:
    boxed = {"problem": "Q?", "solution": "So \\boxed{4}.", "answer": answer}
    name = str(write(tmp_path / "p.jsonl", boxed, {**boxed, "solution": "So 4."}, {"problem": "R?", "answer": answer}))
    left_out: Counter[str] = Counter()
    (problem,) = load_problems(name, unanswerable="drop", left_out=left_out)
    assert (problem.gold, problem.metadata) == ("4", {"solution": "So \\boxed{4}."})
    assert left_out == {"the question has no answer": 2}
    with pytest.raises(RowError, match=r"line 2, field 'answer': is .*; give the answer .* --unanswerable drop"):
        load_problems(name)
    (tmp_path / "p.csv").write_text("problem,solution,answer\nQ?,So \\boxed{4}.,\n")
    assert [problem.gold for problem in load_problems(str(tmp_path / "p.csv"))] == ["4"]


@needs_data
def test_the_unanswerable_questions_of_gsm_plus_are_counted() -> None:
    left_out: Counter[str] = Counter()
    problems = load_problems(str(DATA / "gsmplus_testmini.jsonl"), unanswerable="drop", left_out=left_out)
    assert len(problems) == 2100 and left_out == {"the question has no answer": 300}
    assert problems[0].gold == "4.33" and {"1/4", "5/8"} <= {problem.gold for problem in problems}


@needs_data
def test_answers_of_aime_keep_their_zeros_and_are_graded_without() -> None:
    problems = load_problems(str(DATA / "aime24.jsonl"))
    assert [problem.gold for problem in problems[:8]] == ["204", "113", "371", "385", "110", "104", "721", "025"]
    row = {"task": "math", "gold": problems[7].gold, "prompt": problems[7].prompt}
    grades = grade_rows([row | {"completion": f"\\boxed{{{answer}}}"} for answer in ("25", "025", "250")])
    assert [grade.verdict for grade in grades] == ["right", "right", "wrong"]


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_responses_made_elsewhere_get_what_they_lack(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "r.jsonl",
        {"question": "Q", "answer": 8, "text": "#### 8", "model": "m"},
        {"problem": "Q", "answer": "2 * 4 = <<2*4=8>>8\n#### 8", "response": ""},
        {"prompt": "R", "gold": "9", "completions": ["a", "b"], "id": 5, "problem_id": 3, "correct": True},
    )
    first, second, third = read_responses(path)
    assert first == {
        "model": "m",
        "prompt": "Q",
        "gold": "8",
        "completion": "#### 8",
        "problem_id": first["problem_id"],
        "sample": 0,
        "id": f"{first['problem_id']}#0",
        "task": "math",
    }
    assert (second["id"], second["completion"]) == (f"{first['problem_id']}#1", "")
    assert second["metadata"] == {"solution": "2 * 4 = 8\n#### 8"} and second["gold"] == "8"
    assert (third["id"], third["problem_id"], third["completion"], third["correct"]) == ("5", "3", "a\nb", True)


def test_nested_responses_become_rows(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "r.jsonl",
        {"problem_id": "p0", "question": "Q", "answer": "1", "responses": [{"text": "1", "model": "a"}, "2"]},
        {"problem_id": "p1", "question": "R", "answer": "2", "responses": ["3"]},
        {"problem_id": "p0", "question": "Q", "answer": "1", "responses": ["4"]},
    )
    rows = list(read_responses(path))
    assert [row["id"] for row in rows] == ["p0#0", "p0#1", "p1#0", "p0#2"]
    assert [row["completion"] for row in rows] == ["1", "2", "3", "4"] and rows[0]["model"] == "a"
    assert all("responses" not in row for row in rows)
    assert [row["id"] for row in read_responses(path, offset=1)] == ["p1#0"]
    assert [row["id"] for row in read_responses(path, limit=1)] == ["p0#0", "p0#1", "p0#2"]
    path = write_lines(
        tmp_path / "of_questions.jsonl",
        {"id": "q1", "question": "Q", "responses": ["1", {"text": "2", "id": "mine"}]},
        {"id": 2, "question": "R", "responses": ["3"]},
    )
    found = [(row["problem_id"], row["id"]) for row in read_responses(path)]
    assert found == [("q1", "q1#0"), ("q1", "mine"), ("2", "2#0")]


def test_the_id_of_a_row_that_has_a_problem_id_is_numbered(tmp_path: Path) -> None:
    row = {"id": "x", "problem_id": "p", "question": "Q"}
    rows = [{**row, "responses": ["1", {"text": "2", "id": "mine"}, "3"]}, {**row, "id": 7, "responses": ["4"]}]
    found = list(read_responses(write_lines(tmp_path / "r.jsonl", *rows)))
    assert [row["id"] for row in found] == ["x#0", "mine", "x#2", "7"] and {row["problem_id"] for row in found} == {"p"}


def test_an_id_of_the_question_in_each_row_of_a_response_can_be_chosen_as_that(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", *({"id": "q1", "question": "Q", "text": text} for text in "ab"))
    with pytest.raises(RowError, match=r"its own id\. If it names the question, give --columns.problem_id id$"):
        list(read_responses(path))
    found = [(row["problem_id"], row["id"]) for row in read_responses(path, columns={"problem_id": "id"})]
    assert found == [("q1", "q1#0"), ("q1", "q1#1")]


def test_a_message_in_a_list_of_responses_is_one_response(tmp_path: Path) -> None:
    said = [{"role": "assistant", "content": "4"}, "5", [{"role": "assistant", "content": "6"}]]
    path = write_lines(tmp_path / "r.jsonl", {"question": "Q", "responses": said})
    assert [(row["sample"], row["completion"]) for row in read_responses(path)] == [(0, "4"), (1, "5"), (2, "6")]
    path = write_lines(tmp_path / "r.jsonl", {"question": "Q", "responses": [{"role": "user", "content": "4"}]})
    with pytest.raises(RowError, match="begins with a message of 'user'"):
        list(read_responses(path))


def test_a_graded_rows_answer_is_the_models(tmp_path: Path) -> None:
    graded = {"id": "a", "prompt": "Q", "gold": "1", "completion": "2", "answer": "2", "verdict": "wrong"}
    (row,) = read_responses(write_lines(tmp_path / "r.jsonl", graded), need=("gold", "verdict"))
    assert {name: row[name] for name in graded} == graded and list(row)[: len(graded)] == list(graded)
    with pytest.raises(RowError, match="line 1, field 'gold': is missing"):
        list(read_responses(write_lines(tmp_path / "s.jsonl", {"prompt": "Q", "text": "2"}), need=("gold",)))
    nested = write_lines(tmp_path / "n.jsonl", {"question": "Q", "responses": [{"text": "2", "model": "m"}]})
    with pytest.raises(RowError, match=r"'gold': is missing, and so are 'answer', .* has question, responses\. "):
        list(read_responses(nested, need=("gold",)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "prompt": "Q", "text": "x"}] * 2, "line 2, field 'id': 'a' occurs twice"),
        (
            [{"question": "Q"}],
            "is missing, and so are 'response', 'text', .*The row has question. .*--columns.completion COLUMN$",
        ),
        ([{"text": "x"}], "field 'prompt': is missing"),
        ([{"prompt": "Q", "text": None}], "field 'text': is None"),
        ([{"prompt": "Q", "answer": ["1"], "text": "x"}], "give the answer as a string or a number"),
        ([{"prompt": "Q", "responses": "x"}], "field 'responses': is not a list"),
        ([{"prompt": "Q", "responses": [1]}], "field 'responses': has 1"),
        ([{"prompt": "Q", "responses": [{"model": "m"}]}], "field 'completion': is missing"),
        ([{"prompt": "Q", "answer": "w #### 1", "text": "x", "metadata": 3}], "field 'metadata': is 3"),
        ([{"prompt": "Q", "completions": ["a\nb"], "step_separator": "\n"}], "contains the step_separator"),
    ],
)
def test_responses_that_cannot_be_read_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RowError, match=message):
        list(read_responses(write_lines(tmp_path / "r.jsonl", *rows)))


@needs_data
def test_the_real_responses_are_graded_as_they_are(tmp_path: Path) -> None:
    config = GradeConfig(DATA / "gsm8k_responses.jsonl", tmp_path / "graded.jsonl", offset=2, num_problems=2)
    rows = list(read_rows(grade(config)))
    assert len(rows) == 24 and rows[0]["id"] == "gsm8k/test/2#0" and rows[0]["model"] == "openai_6b_finetuning"
    assert sum((row["verdict"] == "right") == row["correct"] for row in rows) >= 23


def test_two_prompts_under_one_id_get_ids_apart(tmp_path: Path) -> None:
    lines = [{"problem_id": "p", "prompt": prompt, "gold": "2", "text": "2"} for prompt in ("a", "b", "a")]
    write_jsonl(tmp_path / "rows.jsonl", lines)
    rows = list(read_responses(tmp_path / "rows.jsonl", task="math"))
    assert [(row["id"], row["sample"]) for row in rows] == [("p#0", 0), ("p (prompt 2)#0", 0), ("p#1", 1)]


def test_a_split_of_a_file_is_refused_where_it_cannot_be_a_default(tmp_path: Path) -> None:
    """A file has no splits, so `tset` is a slip; `train` and `test`, the defaults of commands, name the ids."""
    path = str(write(tmp_path / "gsm.jsonl", GSM8K))
    assert [load_problems(path, split=split)[0].id for split in ("train", "test")] == ["gsm/train/0", "gsm/test/0"]
    with pytest.raises(ValueError, match=r"--split is 'tset', but .* than a file, which has no splits: remove it"):
        load_problems(path, split="tset")


def test_the_place_of_a_json_error_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for text, says in (
        ('{"prompt": "a', r"\(Unterminated string at column 12\)"),
        ('{"prompt": "a}\n', r"\(Invalid control character at column 15\)"),
        ('{"prompt" 1}\n', r"\(Expecting ':' delimiter at column 11\)"),
    ):
        path.write_text(text)
        with pytest.raises(RowError, match=f"not JSON {says}"):
            list(read_responses(path))


def test_a_conversation_without_a_template_says_which_option_helps() -> None:
    with pytest.raises(ValueError, match=r"Give the question as a string \(--conversational false\), or use a model"):
        encode_prompt(miniature.tokenizer(), [{"role": "user", "content": "1+1="}])
