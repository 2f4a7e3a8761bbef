"""`qstep convert`: files to files, resumed, refused, and what comes out is trained on and scored."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from hub_sets import put_on_hub
from pages import commands
from published_rows import FORMATS, PHASE_2, SHEPHERD, TRL, shepherd
from qstep.cli import main
from qstep.data import RowError, canonical_json, read_rows, write_jsonl
from qstep.data.hub import HubId
from qstep.objectives.ranking import RankingConfig
from qstep.runs.sidecar import SettingsChanged
from qstep.stages import convert as stage
from qstep.stages.convert import ConvertConfig, convert
from qstep.stages.score import ScoreConfig, score
from qstep.stages.train import TrainInputs, train
from qstep.tasks import miniature
from raw_rows import write


def meta(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".meta.json").read_text())


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_by_its_name_and_by_its_columns(tmp_path: Path, format: str) -> None:
    path = write(tmp_path / "set.jsonl", FORMATS[format])
    told = convert(ConvertConfig(str(path), tmp_path / "told.jsonl"))
    named = convert(ConvertConfig(str(path), tmp_path / "named.jsonl", format=format))
    assert told.read_bytes() == named.read_bytes() and meta(told)["summary"]["format"] == format
    assert meta(named)["settings"]["format"] == meta(told)["settings"]["format"] == format


def test_files_of_every_kind(tmp_path: Path) -> None:
    import datasets

    lines = write(tmp_path / "pb.jsonl", FORMATS["processbench"])
    (tmp_path / "pb.json").write_text(json.dumps([FORMATS["processbench"]]))
    datasets.Dataset.from_list([FORMATS["processbench"]]).to_parquet(tmp_path / "pb.parquet")
    expected = convert(ConvertConfig(str(lines), tmp_path / "jsonl_rows.jsonl")).read_bytes()
    for suffix in ("json", "parquet"):
        config = ConvertConfig(str(tmp_path / f"pb.{suffix}"), tmp_path / f"{suffix}_rows.jsonl")
        assert convert(config).read_bytes() == expected and convert(config) == config.output


def test_what_is_counted_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "ms.jsonl", SHEPHERD, {**SHEPHERD, "label": SHEPHERD["label"][:-2]})
    assert main(["convert", "--dataset_name", str(path), "--output", str(tmp_path / "rows.jsonl")]) == 0
    expected = {
        "format": "math_shepherd",
        "rows_read": 2,
        "rows_used": 1,
        "rows_written": 1,
        "rows_not_used": {"steps and labels disagree in number": 1},
        "parts_not_used": {},
        "steps": {"right": 1, "wrong": 1},
        "separators_made_blank": 0,
    }
    assert meta(tmp_path / "rows.jsonl")["summary"] == expected
    said = " ".join(capsys.readouterr().err.split())
    assert "rows read: 2; rows used: 1; rows written: 1" in said and "steps: 1 right, 1 wrong" in said
    assert "1 steps and labels disagree in number" in said


def test_a_killed_conversion_ends_with_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "ms.jsonl", *(shepherd("2 + 3", f"{i}", marks="+-") for i in range(10)), {})
    with pytest.raises(RowError, match=r"ms\.jsonl, line 11, field 'input': is missing"):
        convert(ConvertConfig(str(path), tmp_path / "whole.jsonl", format="math_shepherd"))
    assert not (tmp_path / "whole.jsonl").exists(), "nothing was written, so nothing is left"
    write(path, *(shepherd("2 + 3", f"{i}", marks="+-") for i in range(10)))
    whole = convert(ConvertConfig(str(path), tmp_path / "whole.jsonl"))
    killed = ConvertConfig(str(path), tmp_path / "killed.jsonl")
    monkeypatch.setattr(stage, "_ROWS_AT_ONCE", 3)
    blocks = stage.in_blocks
    seen = []

    def some(*arguments: Any) -> Any:
        for block in blocks(*arguments):
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(block)
            yield block

    monkeypatch.setattr(stage, "in_blocks", some)
    with pytest.raises(KeyboardInterrupt):
        convert(killed)
    assert len(list(read_rows(killed.output))) == 6 and not meta(killed.output)["complete"]
    monkeypatch.setattr(stage, "in_blocks", blocks)
    assert convert(killed).read_bytes() == whole.read_bytes()
    assert meta(killed.output)["summary"] == meta(whole)["summary"]
    before = killed.output.stat().st_mtime_ns
    assert convert(killed).stat().st_mtime_ns == before, "a finished one is left as it is"
    write(path, SHEPHERD)
    with pytest.raises(SettingsChanged, match="input"):
        convert(killed)


def test_questions_are_put_as_the_options_say(tmp_path: Path) -> None:
    config = ConvertConfig(
        str(write(tmp_path / "ms.jsonl", SHEPHERD)), tmp_path / "rows.jsonl", instruction="Think.", conversational=True
    )
    (row,) = read_rows(convert(config))
    assert row["prompt"] == [{"role": "user", "content": "How many?\n\nThink."}]
    (plain,) = read_rows(convert(ConvertConfig(config.dataset_name, tmp_path / "plain.jsonl")))
    assert plain == {**row, "prompt": "How many?"}


def test_a_completion_that_another_separator_does_not_divide_is_left_out(tmp_path: Path) -> None:
    own = {
        "id": "p#0",
        "prompt": "q",
        "completion": "a one\nb two",
        "completion_ids": [1, 2],
        "logps_behavior": [-0.5, -0.5],
        "completions": ["a one", "b two"],
        "labels": [True, False],
        "step_separator": "\n",
    }
    path = str(write(tmp_path / "own.jsonl", own))
    (same,) = read_rows(convert(ConvertConfig(path, tmp_path / "same.jsonl")))
    assert same.items() >= own.items()
    output = convert(ConvertConfig(path, tmp_path / "other.jsonl", step_separator="\n\n"))
    (other,) = read_rows(output)
    for column in ("completion", "completion_ids", "logps_behavior"):
        del same[column]
    assert other == {**same, "step_separator": "\n\n"}
    assert sum(meta(output)["summary"]["parts_not_used"].values()) == 1


def test_changed_settings_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", PHASE_2)
    output = convert(ConvertConfig(str(path), tmp_path / "rows.jsonl"))
    with pytest.raises(SettingsChanged, match=r'neutral: "right" -> "null"'):
        convert(ConvertConfig(str(path), output, neutral="null"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "--split is 'test', but it has no effect without a Hub id"),
        ({"config_name": "main"}, "--config_name is 'main', but it has no effect without a Hub id"),
        (
            {"neutral": "wrong"},
            "the format math_shepherd: --neutral is 'wrong', but it has no effect without --format prm800k",
        ),
        ({"format": "trl_stepwise"}, "line 1, field 'labels': is missing; found input, label, task"),
        ({"output": Path("x.json")}, "is not a .jsonl file, but a stage writes rows"),
    ],
)
def test_options_that_nothing_reads_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "ms.jsonl", SHEPHERD)
    output = tmp_path / options.pop("output", "rows.jsonl")
    with pytest.raises(ValueError, match=words):
        convert(ConvertConfig(str(path), output, **options))
    assert not output.exists() and not output.with_suffix(".meta.json").exists()


def test_sets_without_a_row_to_use_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    path = write(tmp_path / "ms.jsonl", {**SHEPHERD, "label": "x"})
    with pytest.raises(ValueError, match=r"no row can be used \(.*: 1 steps and labels disagree in number"):
        convert(ConvertConfig(str(path), output))
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        convert(ConvertConfig(str(write(tmp_path / "empty.jsonl")), output))
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        convert(ConvertConfig(str(tmp_path / "gone.jsonl"), output))
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        convert(ConvertConfig(str(tmp_path / "gone.json"), output))
    with pytest.raises(ValueError, match=r"--output .* is also the file of --dataset_name"):
        convert(ConvertConfig(str(path), path))
    assert not output.exists()


def test_what_else_is_in_a_folder_with_splits_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", TRL)
    config = ConvertConfig(str(tmp_path / "set"), tmp_path / "set" / "out" / "rows.jsonl", split="train")
    rows = convert(config).read_bytes()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    assert convert(config).read_bytes() == rows
    assert "is complete; nothing to do" in capsys.readouterr().err


def test_an_unfinished_file_is_refused_in_a_list_too(tmp_path: Path) -> None:
    part, other = write(tmp_path / "part.jsonl", TRL), write(tmp_path / "other.jsonl", TRL)
    (tmp_path / "part.meta.json").write_text(json.dumps(dict(stage="s", settings={}, fingerprint="", complete=False)))
    for name in (str(part), f"{other},{part}", f"{tmp_path}/*.jsonl"):
        with pytest.raises(ValueError, match=r"part\.jsonl is unfinished: first run the command"):
            convert(ConvertConfig(name, tmp_path / "out" / "rows.jsonl"))


def test_a_hub_id_with_split_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put_on_hub(monkeypatch, tmp_path, {"owner/set": [TRL, TRL]})
    config = ConvertConfig("owner/set", tmp_path / "rows.jsonl", split="test", config_name="hard")
    assert [row["id"] for row in read_rows(convert(config))] == ["owner/set/hard/test/0", "owner/set/hard/test/1"]
    settings = meta(config.output)["settings"]
    assert settings["source"] == ["owner/set", "hard", "test"] and settings["input"] == "owner/set@c0ffee:hard/test"
    convert(ConvertConfig("owner/set", tmp_path / "train.jsonl"))
    assert asked == [HubId("owner/set", None, "hard", "test"), HubId("owner/set", None, None, "train")]


def test_converted_rows_are_trained_on_and_scored(tmp_path: Path, base: Path, rows_file: Path) -> None:
    """The miniature's rows as PRM800K would have them: wrong steps are alternatives, unlabelled but for their last."""
    theirs = []
    for row in read_rows(rows_file):
        steps = [
            {
                "completions": [{"text": text, "rating": 1 if right else -1, "flagged": None}],
                "human_completion": None,
                "chosen_completion": 0 if right else None,
            }
            for text, right in zip(row["completions"], row["labels"], strict=True)
        ]
        wrong = next((t for t, right in enumerate(row["labels"]) if not right), len(steps))
        if wrong < len(steps):
            steps[wrong]["completions"].append({"text": "#0", "rating": -1, "flagged": None})
        theirs.append(
            {
                **PHASE_2,
                "question": {"problem": row["prompt"], "ground_truth_answer": "1"},
                "label": {"steps": steps[: wrong + 1], "finish_reason": "found_error"},
            }
        )
    write_jsonl(tmp_path / "prm.jsonl", theirs)
    rows = convert(ConvertConfig(str(tmp_path / "prm.jsonl"), tmp_path / "rows.jsonl", task="miniature"))
    assert meta(rows)["summary"]["rows_written"] == 96
    config = RankingConfig(
        output_dir=str(tmp_path / "scorer"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
    )
    scorer = train("pqm", TrainInputs(model_name_or_path=str(base), train_file=rows), config)
    log = meta(scorer / "train_log.jsonl")["summary"]
    assert (log["rows"], log["left_out"]) == (96, {})
    out = list(read_rows(score(ScoreConfig(rows, tmp_path / "scored.jsonl", scorer=str(scorer), task="miniature"))))
    assert len(out) == 96 and all(len(row["q_values"]) == len(row["labels"]) for row in out)
    assert miniature.check_steps(out[0]["prompt"], out[0]["completions"]) == out[0]["labels"]


def test_the_pages_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `qstep convert` of the page, on a row of its format, with a Hub that has the sets it names."""
    sets = {"peiyi9979/Math-Shepherd": "math_shepherd", "Qwen/ProcessBench": "processbench"}
    sets |= {"hitsmy/PRMBench_Preview": "prmbench", "trl-lib/math_shepherd": "trl_stepwise"}
    put_on_hub(monkeypatch, tmp_path / "cache", {name: [FORMATS[format]] for name, format in sets.items()})
    monkeypatch.chdir(tmp_path)
    for file, format in {
        "phase2_train": "prm800k",
        "dyck_languages": "bigbench_mistake",
        "mine": "trl_stepwise",
    }.items():
        write(tmp_path / f"{file}.jsonl", FORMATS[format])
    converts = [command for command in commands("docs/data.md") if command.startswith("qstep convert ")]
    assert len(converts) >= 6
    for command in converts:
        words = shlex.split(command.replace("$'\\n'", "'\n'"))[1:]
        assert main(words) == 0, command
        output = Path(words[words.index("--output") + 1])
        assert meta(output)["complete"] and os.path.getsize(output)
        for row in read_rows(output):
            canonical_json(row)
