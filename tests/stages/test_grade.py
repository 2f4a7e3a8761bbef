"""`qstep grade` and `annotate` with graders of the user's own, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_engine import FakeEngine
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.runs.sidecar import read_meta
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.sample import SampleConfig, sample

RESPONSES = [
    {"question": "What is twice 4?", "answer": 8, "source": "s", "responses": ["It is 8", {"text": "It is 9"}, "?"]},
]


def qstep(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_jsonl(path, rows)
    return path


def test_a_reward_function_grades_responses_made_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = written(tmp_path / "made.jsonl", RESPONSES), tmp_path / "graded.jsonl"
    grading = ("grade", "--input", source, "--output", output)
    assert qstep(*grading, "--grader", "my_task:reward_by_gold") == 0
    rows = list(read_rows(output))
    assert [(row["verdict"], row["label"], row["reward"]) for row in rows] == [
        ("right", True, 1.0),
        ("wrong", False, 0.5),
        ("ungradable", None, None),
    ]
    assert all(row["grader"].startswith("my_task:reward_by_gold ") and row["source"] == "s" for row in rows)
    meta = json.loads((tmp_path / "graded.meta.json").read_text())
    assert meta["summary"] == {"verdicts": {"right": 1, "wrong": 1, "ungradable": 1}}
    assert qstep(*grading, "--grader", "my_task:nothing") == 1
    assert "grader 'my_task:nothing' cannot be loaded" in capsys.readouterr().err
    assert qstep(*grading) == 1, "another grader's verdicts are not mixed in"
    assert "version" in capsys.readouterr().err


def test_rollouts_are_graded_as_their_rows_were(tmp_path: Path) -> None:
    """With all columns of the row that are not of its response."""
    source = sample(
        SampleConfig(
            model_name_or_path="fake", output=tmp_path / "s.jsonl", num_problems=1, num_samples=2, max_new_tokens=64
        ),
        FakeEngine(),
    )
    rows = [{**row, "source": "s"} for row in read_rows(source)]
    grading = ("grade", "--input", written(tmp_path / "in.jsonl", rows), "--output", tmp_path / "graded.jsonl")
    assert qstep(*grading, "--grader", "my_task:reward_by_gold") == 0

    def labels(name: str, grader: str | None) -> list[dict[str, Any]]:
        config = AnnotateConfig(
            tmp_path / "graded.jsonl",
            tmp_path / f"{name}.jsonl",
            "monte_carlo",
            "fake",
            max_new_tokens=64,
            grader=grader,
        )
        return list(read_rows(annotate(config, FakeEngine())))

    assert all(set(row["trials"]) == {4, 1} for row in labels("same", "my_task:reward_by_gold"))
    with pytest.raises(ValueError, match="use the same grader"):
        labels("other", None)


@pytest.mark.parametrize(
    ("command", "graded"),
    [("grade", {}), ("annotate --method outcome", {"verdict": "right", "label": True, "reward": 1.0, "answer": "4"})],
)
def test_a_problem_with_two_gold_answers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, graded: dict[str, Any]
) -> None:
    """By the first command that reads both. 4 and 4.0 are one answer, and an id makes another problem."""
    row = {"prompt": "2+2?", "completion": "2+2=4\nThe answer is 4.", **graded}
    golds = ["4", "4.0", "5"]
    rows = [{**row, "id": f"r{number}", "gold": gold} for number, gold in enumerate(golds)]
    file = written(tmp_path / "rows.jsonl", rows)
    assert qstep(*command.split(), "--input", file, "--output", tmp_path / "out.jsonl") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "rows.jsonl, line 3, field 'gold': is '5', but the same problem has '4' on line 1. Correct one" in error
    ids = [{**row, "problem_id": gold.partition(".")[0]} for row, gold in zip(rows, golds, strict=True)]
    file = written(tmp_path / "ids.jsonl", ids)
    assert qstep(*command.split(), "--input", file, "--output", tmp_path / "ids_out.jsonl") == 0


def test_a_bad_row_is_found_before_any_is_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected file is another file, so what had been graded was lost."""
    monkeypatch.setattr("qstep.stages.grade._ROWS_AT_ONCE", 1)
    rows = [{"question": f"{n}?", "answer": "1", "response": "1"} for n in range(3)]
    file, output = written(tmp_path / "rows.jsonl", [*rows, {"question": "4?", "answer": "1"}]), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="line 4, field 'completion': is missing"):
        grade(GradeConfig(file, output))
    assert not output.exists()


def test_flipped_verdicts_are_marked_and_their_rewards_follow(tmp_path: Path) -> None:
    """A right and a wrong response trade places, the ungradable one stays. Each row's draw depends on its id alone."""
    source = written(tmp_path / "made.jsonl", RESPONSES)
    grading = ("grade", "--input", source, "--grader", "my_task:reward_by_gold")
    assert qstep(*grading, "--output", tmp_path / "all.jsonl", "--flip_share", 1) == 0
    rows = list(read_rows(tmp_path / "all.jsonl"))
    assert [(row["verdict"], row["label"], row["reward"], row["flipped"]) for row in rows] == [
        ("wrong", False, 0.0, True),
        ("right", True, 1.0, True),
        ("ungradable", None, None, False),
    ]
    many = {**RESPONSES[0], "responses": [f"{n}: It is 8" for n in range(400)]}
    source = written(tmp_path / "many.jsonl", [many])
    flipped = {}
    for seed in (1, 2):
        output = tmp_path / f"{seed}.jsonl"
        grading = ("grade", "--input", source, "--grader", "my_task:reward_by_gold", "--output", output)
        assert qstep(*grading, "--flip_share", 0.25, "--seed", seed) == 0
        flipped[seed] = [row["flipped"] for row in read_rows(output)]
        assert 70 <= sum(flipped[seed]) <= 130, "a quarter of 400, within 3.5 standard deviations of 8.7"
    assert flipped[1] != flipped[2]
    assert qstep("grade", "--input", source, "--output", tmp_path / "x.jsonl", "--seed", 1) == 1


def test_grading_without_flips_has_the_settings_of_earlier_versions(tmp_path: Path) -> None:
    output = tmp_path / "graded.jsonl"
    assert qstep("grade", "--input", written(tmp_path / "made.jsonl", RESPONSES), "--output", output) == 0
    settings = read_meta(output)["settings"]
    assert not {"flip_share", "seed"} & set(settings)
    assert "flipped" not in next(iter(read_rows(output)))
