"""Published step-labelled sets: rows as their owners wrote them, what they become, what is refused or counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from hub_sets import put_on_hub
from published_rows import (
    APS,
    FORMATS,
    MISTAKE,
    PHASE_2,
    PRMBENCH,
    PROCESSBENCH,
    SHEPHERD,
    TRL,
    prm800k,
    rated,
    read,
    shepherd,
)
from qstep.data import Audit, Reading, RowError, Source, numbered_rows, read_published, recognise
from raw_rows import write
from real_data import DATA, needs_data


def test_math_shepherd(tmp_path: Path) -> None:
    (row,), found = read(write(tmp_path / "ms.jsonl", SHEPHERD))
    assert {**row, "problem_id": "?"} == {
        "task": "math",
        "id": "ms/0",
        "problem_id": "?",
        "prompt": "How many?",
        "completions": ["Step 1: 2 + 3 = <<2+3=5>>5", "Step 2: It is 5 - 1 = 4. The answer is: 4"],
        "labels": [True, False],
        "label_source": "math_shepherd",
        "source": "ms",
        "subset": "GSM8K",
        "step_separator": "\n",
    }
    assert found == {"rows_read": 1, "rows_used": 1, "rows_written": 1, "steps": {"right": 1, "wrong": 1}}


def test_math_shepherd_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    short = {**SHEPHERD, "label": SHEPHERD["label"].rpartition("\n")[0]}
    rows, found = read(
        write(
            tmp_path / "ms.jsonl",
            SHEPHERD,
            short,
            {**SHEPHERD, "label": SHEPHERD["label"].replace("It is 5", "It is 6")},
            {**SHEPHERD, "label": SHEPHERD["label"].replace("<<2+3=5>>5 +", "<<2+3=5>>5 *")},
            shepherd("as in Step 1: add", "5", marks="++"),
            {**SHEPHERD, "input": "How many? Step 1: 5", "label": "How many? Step 1: 5"},
            shepherd("2 + 3", "5", marks="++", question=" "),
            {"input": "How many? 5 ки", "label": "How many? 5 +"},
            {"input": "How many? Step 1: 5 ки or 6", "label": "How many? Step 1: 5 + or 6"},
            {"input": "How many? Step 1: 5 ки ки", "label": "How many? Step 1: 5 + -"},
        )
    )
    assert [row["id"] for row in rows] == ["ms/0", "ms/9"]
    assert (rows[1]["completions"], rows[1]["labels"]) == (["Step 1: 5"], [True]), "a blank step goes with its label"
    assert found["parts_not_used"] == {"a blank step": 1}
    assert found["rows_not_used"] == {
        "steps and labels disagree in number": 2,
        "steps and labels disagree in text": 1,
        "'Step 1:' stands there twice": 1,
        "no step ends with the tag": 1,
        "no question": 1,
        "no 'Step 1:'": 1,
        "text after the last tag": 1,
    }


def test_a_plus_within_a_step_is_no_label(tmp_path: Path) -> None:
    (row,), _ = read(write(tmp_path / "ms.jsonl", shepherd("a +\nb - \nc", "d", marks="-+")))
    assert row["labels"] == [False, True] and row["completions"] == ["Step 1: a + b - c", "Step 2: d"]


def test_prm800k_alternatives_are_rows_of_their_own(tmp_path: Path) -> None:
    """The model's own solution ends with its first wrong step; each rating is counted once."""
    (whole, other), found = read(write(tmp_path / "p2.jsonl", PHASE_2))
    assert {**whole, "problem_id": "?"} == {
        "task": "math",
        "id": "p2/0",
        "problem_id": "?",
        "prompt": "What is 2 + 3?",
        "completions": ["I add.", "It is 6."],
        "labels": [True, False],
        "label_source": "prm800k",
        "source": "p2",
        "gold": "5",
        "phase": 2,
        "generation": 9,
        "ended": "found_error",
        "step_separator": "\n",
    }
    assert (other["id"], other["completions"], other["labels"]) == ("p2/0/1.1", ["I add.", "It is 5."], [None, True])
    assert other["branch"] == 1 and other["problem_id"] == whole["problem_id"]
    assert found == {
        "rows_read": 1,
        "rows_used": 1,
        "rows_written": 2,
        "parts_not_used": {"alternative: no rating": 1, "alternative: the text of another, rated alike": 1},
        "steps": {"right": 2, "wrong": 1, "null": 1},
    }


def test_prm800k_phase_1_with_a_step_that_the_labeler_wrote(tmp_path: Path) -> None:
    row = prm800k(
        rated(("A", -1), ("B", -1), chosen=None, human="I write."),
        rated(("C", 1), ("D", 1), ("D", -1), ("C", 0), chosen=1),
        {"completions": None, "human_completion": None, "chosen_completion": None},
        ended="give_up",
    )
    rows, found = read(write(tmp_path / "p1.jsonl", row))
    assert [(row["id"], row["completions"], row["labels"]) for row in rows] == [
        ("p1/0", ["I write.", "D"], [None, True]),
        ("p1/0/0.0", ["A"], [False]),
        ("p1/0/0.1", ["B"], [False]),
        ("p1/0/1.0", ["I write.", "C"], [None, True]),
    ]
    assert {(row["phase"], row["ended"], row.get("generation")) for row in rows} == {(1, "give_up", None)}
    assert found["parts_not_used"] == {
        "alternative: the text of another, rated alike": 1,
        "alternative: the text of another, rated differently": 1,
    }


@pytest.mark.parametrize(
    ("neutral", "labels"), [("right", [True, True]), ("wrong", [False, True]), ("null", [None, True])]
)
def test_prm800k_neutral_is_what_one_says(tmp_path: Path, neutral: str, labels: list[bool | None]) -> None:
    path = write(tmp_path / "p.jsonl", prm800k(rated(("Hm.", 0), ("Hm, hm.", 0)), rated(("5", 1))))
    (whole, *others), found = read(path, neutral=neutral)
    assert whole["labels"] == labels
    assert [row["labels"] for row in others] == ([] if neutral == "null" else [[labels[0]]])
    assert found.get("parts_not_used", {}) == ({"alternative: no rating": 1} if neutral == "null" else {})


def test_prm800k_rows_that_are_not_used_are_counted(tmp_path: Path) -> None:
    flagged = rated(("5", 1))
    flagged["completions"][0]["flagged"] = True
    rows, found = read(
        write(
            tmp_path / "p.jsonl",
            prm800k(rated(("5", 1)), is_quality_control_question=True),
            prm800k(rated(("5", 1)), is_initial_screening_question=True),
            prm800k(rated(("5", 1)), ended="bad_problem"),
            prm800k(flagged),
            prm800k(),
            prm800k(rated((" ", 1)), rated(("5", 1))),
            prm800k(rated(("5", None), ("6", -1)), rated(("7", -1), chosen=None), rated(("8", 1))),
        )
    )
    assert found["rows_not_used"] == {
        "a quality control question": 1,
        "an initial screening question": 1,
        "the labeler reported the problem as broken": 1,
        "no step has a rating": 2,
    }
    assert found["parts_not_used"] == {"a step after the one that ends the solution": 1, "a blank step": 1}
    assert [(row["completions"], row["labels"]) for row in rows] == [
        (["5"], [True]),
        (["5", "7"], [None, False]),
        (["6"], [False]),
    ]


def test_a_blank_step_of_prm800k_is_left_out_with_its_rating(tmp_path: Path) -> None:
    """The chosen second step is blank: the solution continues, and alternatives know how many steps are before them."""
    row = prm800k(
        rated(("a", 1)),
        rated((" ", -1), ("b", -1)),
        rated(("c", 1), ("d", -1)),
        rated(chosen=None, human=" "),
        rated(("e", 1)),
    )
    rows, found = read(write(tmp_path / "p.jsonl", row))
    assert [(row["id"], row["completions"], row["labels"], row.get("branch")) for row in rows] == [
        ("p/0", ["a", "c", "e"], [True, True, True], None),
        ("p/0/1.1", ["a", "b"], [None, False], 1),
        ("p/0/2.1", ["a", "d"], [None, False], 1),
    ]
    assert found["parts_not_used"] == {"a blank step": 2}


def test_math_aps(tmp_path: Path) -> None:
    """As `preprocess/` of openreasoner/openr writes it: a tag after each labelled text. One row, as released, has one
    label; one lacks the last tag, one has a blank text, and one more tags than labels."""
    begun = {**APS, "process": "We add.\n\n2 + 3 \n\n\n\n\n", "label": ["-"]}
    untagged = {**begun, "process": "We add.\n\n\n2 + 3"}
    blank = {**APS, "process": "a \n\n\n\n\n  \n\n\n\n\n b \n\n\n\n\n", "label": ["+", "-", "+"]}
    rows, found = read(write(tmp_path / "aps.jsonl", APS, begun, untagged, blank, {**APS, "label": ["+"]}))
    assert [(row["completions"], row["labels"]) for row in rows] == [
        (["We add.", "2 + 3 = 5\nand so on.", "5 + 4 = 8"], [None, True, False]),
        (["We add.", "2 + 3"], [None, False]),
        (["We add.", "2 + 3"], [None, False]),
        (["a", "b"], [True, True]),
    ]
    assert {row["step_separator"] for row in rows} == {"\n\n"} and rows[0]["prompt"] == "What is 2 + 3 + 4?"
    assert found["rows_not_used"] == {"texts and labels disagree in number": 1}
    assert found["parts_not_used"] == {"a blank step": 1}


def test_processbench(tmp_path: Path) -> None:
    path = tmp_path / "omnimath.json"
    right = {**PROCESSBENCH, "id": "omnimath-8", "label": -1, "final_answer_correct": True}
    path.write_text(json.dumps([PROCESSBENCH, right]))
    (wrong, right), _ = read(path)
    assert {**wrong, "problem_id": "?"} == {
        "task": "math",
        "id": "omnimath-7",
        "problem_id": "?",
        "prompt": "What is 2 + 3?",
        "completions": ["We add:\n2 + 3", "It is 6.", "So 6."],
        "labels": [True, False, None],
        "label_source": "processbench",
        "source": "omnimath",
        "generator": "Qwen2-7B-Instruct",
        "subset": "omnimath",
        "final_answer_correct": False,
        "first_error": 1,
        "step_separator": "\n\n",
    }
    assert right["labels"] == [True] * 3 and right["first_error"] == -1
    (again, _), found = read(path, step_separator="\n")
    assert again["completions"][0] == "We add: 2 + 3" and again["step_separator"] == "\n"
    assert found["separators_made_blank"] == 2
    with pytest.raises(RowError, match=r"has 1 step with the separator '\\n' inside\. Leave out --separator_inside"):
        read(path, step_separator="\n", separator_inside="refuse")
    (by_line, _), found = read(path, step_separator="split:line")
    assert by_line["completions"][0] == "We add: 2 + 3" and found["separators_made_blank"] == 2
    two = write(tmp_path / "two.jsonl", {**PROCESSBENCH, "steps": ["One. Two."], "label": 0})
    with pytest.raises(RowError, match=r"'One\. Two\.', which 'split:sentence' divides, .* Give another --step"):
        read(two, step_separator="split:sentence")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    deep, half = tmp_path / "deep.json", tmp_path / "half.json"
    deep.write_text("[" * 100_000)
    half.write_text('[{"prompt": "a"}, {"prompt": "a\\ud800"}]')
    (tmp_path / "rows.csv").write_text("prompt,completions\n")
    listed = write(tmp_path / "list.jsonl", [{"prompt": "a"}])
    separator = write(
        tmp_path / "five.jsonl", {"prompt": "a?", "completions": ["x"], "labels": [True], "step_separator": 5}
    )
    for path, says in (
        (deep, "deep.json cannot be read: its JSON is nested too deeply"),
        (half, "half.json, row 2: column .* holds what JSON cannot .*surrogates not allowed"),
        (tmp_path / "rows.csv", "rows.csv has no rows"),
        (listed, "list.jsonl, line 1: a list, not a JSON object. Correct or delete this line"),
        (separator, "line 1, field 'step_separator': is 5; it must be the string between steps"),
    ):
        with pytest.raises(ValueError, match=says):
            read(path)


def test_prmbench(tmp_path: Path) -> None:
    redundant = {**PRMBENCH, "idx": "prm_test_p1_1", "classification": "redundency", "error_steps": [3, 9]}
    rows, found = read(
        write(
            tmp_path / "pb.jsonl",
            PRMBENCH,
            redundant,
            {**PRMBENCH, "idx": "multi_solutions_1", "classification": "multi_solutions", "error_steps": []},
            {**PRMBENCH, "modified_question": "again"},
            {**redundant, "error_steps": [1]},
            {**PRMBENCH, "idx": "x", "error_steps": [4]},
            {**PRMBENCH, "idx": "y", "modified_process": ["1.", " ", "3."], "error_steps": [2, 3]},
        )
    )
    shown = [(row["id"], row["classification"], row["labels"], row["first_error"]) for row in rows]
    assert shown == [
        ("circular_prm_test_p1_0", "circular", [False, False, True], 0),
        ("redundency_prm_test_p1_1", "redundency", [True, True, False], 2),
        ("correct_prm_test_p1_1", "correct", [True, True], -1),
        ("multi_solutions_1", "multi_solutions", [True] * 3, -1),
        ("circular_y", "circular", [True, False], 1),
    ]
    assert [row["prompt"] for row in rows[1:3]] == ["What is 2 + 3?", "What?"]
    assert found["rows_not_used"] == {
        "its id is there already": 2,
        "no error step is among the steps": 1,
    }
    assert found["parts_not_used"] == {
        "an error step beyond the last step": 1,
        "a blank error step": 1,
        "a blank step": 1,
    }


def test_bigbench_mistake(tmp_path: Path) -> None:
    right = {**MISTAKE, "mistake_index": None, "answer": None}
    blank = {**MISTAKE, "steps": ["a", "", "c"]}
    (wrong, right), found = read(write(tmp_path / "dyck.jsonl", MISTAKE, right, blank), task="my_task:dyck")
    assert (wrong["id"], wrong["prompt"], wrong["gold"]) == ("dyck/0", "( ( ) -9 + 2 =", "-7")
    assert (wrong["labels"], wrong["first_error"], wrong["model_answer"]) == ([True, False, None], 1, "-8")
    assert (right["labels"], right["first_error"]) == ([True] * 3, -1) and "model_answer" not in right
    assert wrong["task"] == "my_task:dyck" and found["rows_not_used"] == {"the first wrong step is blank": 1}


def test_trl_stepwise(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Q"}]
    said = {"role": "assistant", "content": " a\n", "tool_calls": None, "name": None}
    rows, found = read(
        write(
            tmp_path / "trl.jsonl",
            {**TRL, "prompt": " What is 2 + 3?\n"},
            {"prompt": chat, "completions": [said, [said], "b"], "labels": [0.75, None, 0.0], "id": 5, "extra": [1]},
            {**TRL, "labels": None},
            {**TRL, "completions": ["a\nb", "c"], "step_separator": "\n\n", "task": "x", "label_source": "people"},
        )
    )
    assert rows[0]["completions"] == ["2 + 3", "5"] and rows[0]["labels"] == [True, False]
    assert rows[0]["prompt"] == " What is 2 + 3?\n"
    assert (rows[0]["id"], rows[0]["label_source"], rows[0]["step_separator"]) == ("trl/0", "trl_stepwise", "\n")
    assert (rows[1]["id"], rows[1]["prompt"], rows[1]["completions"]) == ("5", chat, ["a", "a", "b"])
    assert rows[1]["labels"] == [0.75, None, 0.0] and rows[1]["extra"] == [1]
    assert (rows[2]["completions"], rows[2]["step_separator"], rows[2]["task"]) == (["a\nb", "c"], "\n\n", "x")
    assert rows[2]["label_source"] == "people" and found["rows_not_used"] == {"no labels": 1}
    assert found["steps"] == {"right": 2, "wrong": 2, "soft": 2, "null": 1}


def test_a_blank_step_of_trl_is_left_out_with_all_that_is_said_of_it(tmp_path: Path) -> None:
    row = {**TRL, "completions": ["a", " ", "b", "c"], "labels": [True, False, True, False], "first_error": 3}
    row |= {"q_values": [1.0, 2.0, 3.0, 4.0], "note": [1, 2, 3, 4]}
    names = {"completions": ["", "b"], "labels": [False, True]}
    rows, found = read(
        write(tmp_path / "trl.jsonl", row, {**TRL, **names, "first_error": 0}, {**TRL, "completions": ["", " "]})
    )
    assert len(rows) == 1 and rows[0]["completions"] == ["a", "b", "c"] and rows[0]["labels"] == [True, True, False]
    assert (rows[0]["first_error"], rows[0]["q_values"], rows[0]["note"]) == (2, [1.0, 3.0, 4.0], [1, 2, 3, 4])
    assert found["rows_not_used"] == {"the first wrong step is blank": 1, "all steps are blank": 1}
    assert found["parts_not_used"] == {"a blank step": 1}


@pytest.mark.parametrize(
    ("format", "column"), [("trl_stepwise", "gold"), ("bigbench_mistake", "target"), ("prm800k", "ground_truth_answer")]
)
def test_a_gold_answer_that_is_a_whole_number_becomes_a_string(tmp_path: Path, format: str, column: str) -> None:
    raw = copy.deepcopy(FORMATS[format])
    (raw["question"] if format == "prm800k" else raw)[column] = -7
    rows, _ = read(write(tmp_path / "set.jsonl", raw))
    assert {row["gold"] for row in rows} == {"-7"}


def test_converted_rows_convert_to_themselves(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "p2.jsonl", PHASE_2))
    again, found = read(write(tmp_path / "again.jsonl", *rows))
    assert again == rows and found["steps"] == {"right": 2, "wrong": 1, "null": 1}


def test_parquet_and_the_hub_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` fills what a row lacks with null; labels keep their kind."""
    import datasets

    for name, row in {"prm": PHASE_2, "trl": TRL, "pb": PROCESSBENCH, "ms": SHEPHERD}.items():
        expected, _ = read(write(tmp_path / f"{name}.jsonl", row))
        table = datasets.Dataset.from_list([row])
        table.to_parquet(tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet")[0] == expected
        put_on_hub(monkeypatch, tmp_path / name, {"owner/set": [row]})
        source = Source.of("owner/set", split="test", config="hard")
        (hub, *_) = read_published(source, Reading(recognise(source)), Audit())
        assert hub["source"] == "owner/set/hard/test" and hub["labels"] == expected[0]["labels"]
        assert hub["id"] == ("omnimath-7" if name == "pb" else "owner/set/hard/test/0")
        assert source.count() == 1 and source.fingerprint() == "owner/set@c0ffee:hard/test"


def test_a_format_is_told_by_its_columns(tmp_path: Path) -> None:
    for name, row in FORMATS.items():
        assert recognise(Source.of(str(write(tmp_path / "x.jsonl", row)))) == name
    both = write(tmp_path / "both.jsonl", {**MISTAKE, "label": "x"})
    with pytest.raises(ValueError, match="fit math_shepherd and bigbench_mistake: name one"):
        recognise(Source.of(str(both)))
    other = write(tmp_path / "other.jsonl", {"question": "Q", "steps": []})
    with pytest.raises(
        ValueError, match=r"columns \(question, steps\) fit no format of math_shepherd, .*Give your own rows"
    ):
        recognise(Source.of(str(other)))
    with pytest.raises(ValueError, match="has no rows"):
        recognise(Source.of(str(write(tmp_path / "empty.jsonl"))))


def test_a_json_file_is_a_list_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    broken = {'{\n"a": 1}': "list of objects", '[{"labels": [NaN]}]': "NaN is not JSON", "[": "not JSON"}
    for text, what in broken.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=what):
            read(path)


@needs_data
def test_the_real_rows_of_math_shepherd() -> None:
    rows, found = read(DATA / "math_shepherd_sample.jsonl")
    assert found == {"rows_read": 7, "rows_used": 7, "rows_written": 7, "steps": {"right": 5, "wrong": 20}}
    assert [row["labels"] for row in rows[:3]] == [[True] * 4 + [False], [False] * 3, [False] * 2]
    assert rows[0]["prompt"] == (
        "Janet pays $40/hour for 3 hours per week of clarinet lessons and $28/hour for 5 hours a week of piano "
        "lessons. How much more does she spend on piano lessons than clarinet lessons in a year?"
    )
    assert rows[0]["completions"] == [
        "Step 1: Janet spends 3 hours + 5 hours = <<3+5=8>>8 hours per week on music lessons.",
        "Step 2: She spends 40 * 3 = <<40*3=120>>120 on clarinet lessons per week.",
        "Step 3: She spends 28 * 5 = <<28*5=140>>140 on piano lessons per week.",
        "Step 4: Janet spends 120 + 140 = <<120+140=260>>260 on music lessons per week.",
        "Step 5: She spends 260 * 52 = <<260*52=13520>>13520 on music lessons in a year. The answer is: 13520",
    ]
    assert {row["subset"] for row in rows} == {"GSM8K"} and len({row["problem_id"] for row in rows}) == 7


@needs_data
def test_the_real_rows_of_prm800k() -> None:
    rows, found = read(DATA / "prm800k_sample.jsonl")
    assert found == {
        "rows_read": 6,
        "rows_used": 5,
        "rows_written": 33,
        "rows_not_used": {"an initial screening question": 1},
        "parts_not_used": {"alternative: the text of another, rated alike": 2},
        "steps": {"right": 44, "wrong": 15, "null": 133},
        "separators_made_blank": 7,
    }
    whole = [row for row in rows if "branch" not in row]
    assert [(row["phase"], row["ended"], row["gold"], row["labels"]) for row in whole] == [
        (1, "solution", "29", [True, None, True, True, True, True]),
        (2, "found_error", "28800", [True] * 6 + [False]),
        (1, "solution", "468", [True] * 5),
        (1, "solution", "9", [True] * 7),
        (1, "give_up", "1+2\\sqrt{3}", [True] * 7 + [None]),
    ]
    assert whole[0]["completions"][1] == "We have $3p+e=1.24$ and $5p+e=1.82$."
    assert whole[2]["completions"][-1] == "Exactly. # Answer 468"
    branches = [row for row in rows if row["id"].startswith("prm800k_sample/1/")]
    assert [row["labels"] for row in branches] == [[None] * 6 + [True]] * 3 and branches[0]["branch"] == 6
    assert all(row["completions"][:6] == whole[1]["completions"][:6] for row in branches)
    _, strict = read(DATA / "prm800k_sample.jsonl", neutral="wrong")
    assert strict["steps"] == {"right": 41, "wrong": 18, "null": 133}


@needs_data
def test_the_real_rows_of_processbench() -> None:
    raw = json.loads((DATA / "processbench_gsm8k.json").read_text())
    rows, found = read(DATA / "processbench_gsm8k.json")
    assert found == {
        "rows_read": 400,
        "rows_used": 400,
        "rows_written": 400,
        "steps": {"right": 1361, "wrong": 207, "null": 514},
    }
    assert rows[0]["id"] == "gsm8k-0" and rows[0]["generator"] == "Qwen2-7B-Instruct" and rows[0]["subset"] == "gsm8k"
    assert (rows[0]["labels"], rows[0]["first_error"]) == ([True, False, None, None], 1)
    assert [row["first_error"] for row in rows] == [row["label"] for row in raw]
    assert [row["completions"] for row in rows] == [[step.strip() for step in row["steps"]] for row in raw]
    assert sum(row["final_answer_correct"] and row["first_error"] != -1 for row in rows) == 7


@needs_data
def test_rows_as_they_lie_are_numbered_by_their_lines() -> None:
    source = Source.of(str(DATA / "math_shepherd_sample.jsonl"))
    assert list(source.rows()) == list(numbered_rows(source.path)) and source.count() == 7
