"""`qstep pairs`: TRL's formats, by hand and as the trainers choose the rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.tasks import miniature
from tiny_trainers import trainer


def pairs(rows: list[dict[str, Any]] | Path, folder: Path, *options: str) -> tuple[list[dict[str, Any]], Any]:
    """The rows written, and the summary in the sidecar."""
    if isinstance(rows, list):
        write_jsonl(folder / "rows.jsonl", rows)
        rows = folder / "rows.jsonl"
    assert main(["pairs", "--input", str(rows), "--output", str(folder / "out.jsonl"), *options]) == 0
    meta = json.loads((folder / "out.meta.json").read_text())
    return list(read_rows(folder / "out.jsonl")), meta["summary"]


def graded(*rewards: float | None, prompt: Any = "1+1=", **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"{prompt}{number}", "prompt": prompt, "completion": f"{number}", "reward": reward, **more}
        for number, reward in enumerate(rewards)
    ]


def test_preference_by_hand(tmp_path: Path) -> None:
    rows = [*graded(1, 0, None, 0.5), *graded(1, 1, prompt="2+2=")]
    rows[1]["finish_reason"] = "length"
    found, summary = pairs(rows, tmp_path)
    assert found == [
        {"id": f"1+1={a} > 1+1={b}", "prompt": "1+1=", "chosen": a, "rejected": b}
        for a, b in (("0", "1"), ("0", "3"), ("3", "1"))
    ]
    assert summary == {
        "responses": 3,
        "problems": 1,
        "problems_without_a_pair": 1,
        "cut_off_and_not_right": 1,
        "left_out": {"ungradable": 1, "without two rewards": 2},
    }
    (tmp_path / "best").mkdir()
    (found,), summary = pairs(rows, tmp_path / "best", "--pairs", "best_worst")
    assert (found["chosen"], found["rejected"]) == ("0", "1")
    assert summary["left_out"] == {
        "ungradable": 1,
        "without two rewards": 2,
        "not in a chosen pair": 1,
    }


def test_unpaired_and_demonstrations_by_hand(tmp_path: Path) -> None:
    """A reward below 1 is not right; a row without a grade is a demonstration."""
    rows = graded(1, 0.5, None)
    for name in ("unpaired", "right", "every"):
        (tmp_path / name).mkdir()
    found, summary = pairs(rows, tmp_path / "unpaired", "--format", "unpaired")
    assert [(row["completion"], row["label"]) for row in found] == [("0", True), ("1", False)]
    assert found[0].keys() == {"id", "prompt", "completion", "label"} and summary["left_out"] == {"ungradable": 1}
    plain = [*rows, {"prompt": "3+3=", "completion": "6", "problem_id": "p"}]
    found, summary = pairs(plain, tmp_path / "right", "--format", "prompt-completion")
    assert [row["completion"] for row in found] == ["0", "6"]
    assert found[1] == {"id": "line 4", "problem_id": "p", "prompt": "3+3=", "completion": "6"}
    assert summary["left_out"] == {"ungradable": 1, "not right": 1}
    found, _ = pairs(plain, tmp_path / "every", "--format", "prompt-completion", "--responses", "every")
    assert [row["completion"] for row in found] == ["0", "1", "2", "6"]


def test_stepwise_by_hand(tmp_path: Path) -> None:
    """Read through the first wrong step, or to the end; TRL's labels are true and false, so a gap is left out."""

    def labelled(*labels: Any) -> dict[str, Any]:
        return {"prompt": "q", "completions": [f"s{i}" for i in range(len(labels))], "labels": [*labels]}

    rows = [
        labelled(True, False, True),
        labelled(1.0, 0.25, 0.0),
        labelled(True, None, False),
        labelled(True, True, None),
        labelled(None),
    ]
    for name in ("first", "soft", "all"):
        (tmp_path / name).mkdir()
    found, summary = pairs(rows, tmp_path / "first", "--format", "stepwise")
    assert [row["labels"] for row in found] == [[True, False], [True, True, False], [True, True]]
    assert [len(row["completions"]) for row in found] == [2, 3, 2]
    assert summary["left_out"] == {"no step has a label": 1, "a step without a label before one with a label": 1}
    found, _ = pairs(rows, tmp_path / "soft", "--format", "stepwise", "--threshold", "0.5")
    assert found[1]["labels"] == [True, False]
    found, _ = pairs(rows, tmp_path / "all", "--format", "stepwise", "--stop_at_first_error", "false")
    assert [row["labels"] for row in found] == [[True, False, False], [True, True, False], [True, True]]


@pytest.mark.parametrize("how", ["all", "one", "best_worst"])
def test_the_pairs_are_those_of_the_trainer(how: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """The same rows with the same options and the default seed, and the tokens that the trainer computes."""
    found, summary = pairs(rows_file, tmp_path, "--pairs", how, "--model_name_or_path", str(base))
    run = trainer("dpo", base, rows_file, tmp_path, pairs=how)
    kept = [run.train_dataset.row(number) for number in run.train_dataset.rows.tolist()]
    assert {row["prompt"] + text for row in found for text in (row["chosen"], row["rejected"])} == {
        row["prompt"] + row["completion"] for row in kept
    }
    assert len(found) == sum(int(run.count_items(run.collate([item]))) for item in run.train_dataset)
    batches = [run.collate([item]) for item in run.train_dataset]
    assert summary["tokens_with_each_text_once"] == sum(len(batch["input_ids"]) for batch in batches)
    tokenizer = miniature.tokenizer()
    texts = [row["prompt"] + row[side] for row in found for side in ("chosen", "rejected")]
    assert summary["tokens"] == sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)


def test_rows_that_are_too_long(
    base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pairs", "--input", str(rows_file), "--output", str(tmp_path / "out.jsonl")]
    assert main([*arguments, "--model_name_or_path", str(base), "--max_length", "20"]) == 1
    assert "64 rows are longer than --max_length 20 tokens: line 1 (" in capsys.readouterr().err
    assert main([*arguments, "--max_length", "20"]) == 1
    assert "--max_length is 20, but it has no effect without --model_name_or_path" in capsys.readouterr().err


def test_prompts_that_trl_cannot_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [{"role": "user", "content": "1+1="}]
    write_jsonl(tmp_path / "rows.jsonl", [*graded(1, 0), *graded(1, 0, prompt=messages)])
    arguments = ["pairs", "--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(arguments) == 1
    assert "some prompts are strings and some are conversations" in capsys.readouterr().err
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": messages, "completions": ["a", "b"], "labels": [True, False]}])
    assert main([*arguments, "--format", "stepwise"]) == 1
    assert "TRL's stepwise format has strings only" in capsys.readouterr().err


def test_conversations_are_written_as_messages(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = graded(1, 0, prompt=[{"role": "user", "content": "1+1="}], tools=tools)
    (found,), _ = pairs(rows, tmp_path)
    assert found["prompt"] == [{"role": "user", "content": "1+1="}] and json.loads(found["tools"]) == tools
    assert found["chosen"] == [{"role": "assistant", "content": "0"}]


def test_a_limit_of_right_rewards_that_nothing_reads_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--input", str(write(tmp_path, graded(0.2, 0.6))), "--output", f"{tmp_path}/o.jsonl", "--right_at", "0.5"]
    for options in ([], ["--format", "prompt-completion", "--responses", "every"]):
        assert main(["pairs", *given, *options]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "--right_at is 0.5, but it has no effect without --format unpaired or stepwise" in said
    for options in (["--truncated", "drop"], ["--format", "unpaired"], ["--format", "prompt-completion"]):
        (tmp_path / "o.jsonl").unlink(missing_ok=True)
        (tmp_path / "o.meta.json").unlink(missing_ok=True)
        assert main(["pairs", *given, *options]) == 0, options


def test_a_problem_alone_is_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", graded(1, 1))
    assert main(["pairs", "--input", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 1
    assert "no row can be used. Left out: {'without two rewards': 2}" in capsys.readouterr().err


def test_rewards_that_training_cannot_tell_apart_are_no_pair(tmp_path: Path) -> None:
    rows = write(tmp_path, graded(0.1 + 0.2, 0.3))
    assert main(["pairs", "--input", str(rows), "--output", f"{tmp_path}/o.jsonl"]) == 1


def test_a_label_is_no_reward_of_another_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its 1 would be below a wrong response's 2 stars."""
    rows = [{**graded(2.0)[0], "id": "wrong"}, {"id": "right", "prompt": "1+1=", "completion": "2", "label": True}]
    given = ["--input", str(write(tmp_path, rows)), "--output", f"{tmp_path}/o.jsonl"]
    assert main(["pairs", *given, "--truncated", "drop", "--right_at", "3"]) == 1
    assert "rows.jsonl, line 2, field 'reward': is missing (1 such rows)" in capsys.readouterr().err
    for right_at in ("2", "0"):
        folder = tmp_path / right_at
        only = [
            {"id": f"{label}", "prompt": "1+1=", "completion": f"{label}", "label": label} for label in (True, False)
        ]
        folder.mkdir()
        found, _ = pairs(only, folder, "--truncated", "drop", "--right_at", right_at)
        assert [row["id"] for row in found] == ["True > False"]


def test_another_column_has_other_lengths(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "1+1=", "a": "2" * 6, "b": "2" * 40, "reward": reward} for reward in (0, 1)]
    given = ["--input", str(write(tmp_path, rows)), "--model_name_or_path", str(base), "--max_length", "20"]
    assert main(["pairs", *given, "--columns.completion", "a", "--output", f"{tmp_path}/a.jsonl"]) == 0
    assert main(["pairs", *given, "--columns.completion", "b", "--output", f"{tmp_path}/b.jsonl"]) == 1
    assert "2 rows are longer than --max_length 20 tokens" in capsys.readouterr().err


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    write_jsonl(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def test_rows_of_files_with_one_name_are_all_written(tmp_path: Path) -> None:
    """Rows without ids are named by their lines. Those of the second file had the names of the first one's."""
    for folder, count in (("a", 1100), ("b", 3)):
        (tmp_path / folder).mkdir()
        rows = [{"prompt": f"{folder}{n}", "completion": "x", "reward": 1} for n in range(count)]
        write_jsonl(tmp_path / folder / "part.jsonl", rows)
    both = f"{tmp_path}/a/part.jsonl,{tmp_path}/b/part.jsonl"
    found, _ = pairs(Path(both), tmp_path, "--format", "prompt-completion")
    assert [row["id"] for row in found[-2:]] == ["line 1102", "line 1103"] and len(found) == 1103


def test_another_tokenizer_is_another_file(base: Path, rows_file: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(base, tmp_path / "model"))
    given = ("--model_name_or_path", str(model), "--format", "unpaired")
    pairs(rows_file, tmp_path, *given)
    settings = json.loads((model / "tokenizer.json").read_text())
    settings["truncation"] = {"max_length": 7, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    (model / "tokenizer.json").write_text(json.dumps(settings))
    command = ["pairs", "--input", str(rows_file), "--output", str(tmp_path / "out.jsonl"), *given]
    assert main(command) == 1
