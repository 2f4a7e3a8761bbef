"""What a run resumes from: the newest whole checkpoint of the same settings, and nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forked import CONTEXT
from killed_training import run, same_weights, start, write_inputs
from qstep.data import read_rows, write_jsonl
from qstep.runs import progress
from qstep.runs.seals import MARKER
from qstep.runs.sidecar import SettingsChanged
from qstep.runs.stage_file import StageBusy, StageFile
from qstep.stages.train import TrainInputs
from qstep.trainers.checkpoints import Checkpoint, checkpoints, newest_usable, rotate, seal, why_unusable


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def evaluated(inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    """With a file of other problems to be evaluated on: the best of those it is trained on may not be kept."""
    path = tmp_path_factory.mktemp("held_out") / "rows.jsonl"
    rows = read_rows(inputs.train_file)
    write_jsonl(path, [{**row, "prompt": row["prompt"] * 2} for row in rows])
    return replace(inputs, eval_file=path)


@pytest.fixture(scope="module")
def whole(inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 6 steps with its checkpoints 2, 4 and 6."""
    return run("rs", inputs, tmp_path_factory.mktemp("whole") / "run", save_steps=2, save_total_limit=None)


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """That run as a kill after step 4 would have left it."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.jsonl")]:
        file.unlink()
    shutil.rmtree(folder / "checkpoint-6")
    return folder


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, in a file as wide as a log's."""
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text))
    return text


OPTIONS: dict[str, Any] = dict(save_steps=2, save_total_limit=None)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no optimizer": (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no scheduler": (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "no random state": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "a flipped byte": (lambda folder: flip(folder / "model.safetensors"), "model.safetensors has changed since"),
    "a cut file": (lambda folder: (folder / "optimizer.pt").write_bytes(b"cut"), "optimizer.pt has 3 bytes instead"),
    "no marker": (lambda folder: (folder / MARKER).unlink(), "was not written completely"),
    "a torn marker": (lambda folder: (folder / MARKER).write_text('{"version": 1,'), f"its {MARKER} is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    damage: str, inputs: TrainInputs, whole: Path, half: Path, said: io.StringIO
) -> None:
    harm, words = DAMAGES[damage]
    harm(half / "checkpoint-4")
    run("rs", inputs, half, **OPTIONS)
    assert f"{half / 'checkpoint-4'} is skipped: " in said.getvalue() and words in said.getvalue()
    assert f"resumes from {half / 'checkpoint-2'}" in said.getvalue()
    assert same_weights(half, whole)
    assert all(why_unusable(found.path, marker_settings(found.path)) is None for found in checkpoints(half))


def test_zero_is_the_same_setting_as_a_number_and_as_a_whole_number(half: Path) -> None:
    """Python has weight_decay=0.0 where the command line reads 0."""
    folder = half / "checkpoint-4"
    found = marker_settings(folder)
    assert isinstance(found["learning_rate"], float) and found["weight_decay"] == 0
    assert why_unusable(folder, {**found, "weight_decay": int(found["weight_decay"])}) is None
    assert why_unusable(folder, {**found, "weight_decay": 0.5}) == (
        "it was made with other settings (weight_decay: 0.0 -> 0.5)"
    )


def marker_settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MARKER).read_text())["settings"]


def test_a_checkpoint_of_weights_alone_is_not_gone_on_from(
    inputs: TrainInputs, whole: Path, tmp_path: Path, said: io.StringIO
) -> None:
    """Without its optimizer a run would end with other weights; such a checkpoint can be the best one all the same."""
    child = start(
        "rs", inputs, tmp_path / "run", tmp_path / "log", at="qstep.trainers.checkpoints:seal:4", save_only_model=True
    )
    child.join()
    run("rs", inputs, tmp_path / "run", save_only_model=True)
    assert "skipped: it was saved without optimizer, scheduler, rng_state (save_only_model)" in said.getvalue()
    assert same_weights(tmp_path / "run", whole)
    folder = tmp_path / "run" / "checkpoint-6"
    assert why_unusable(folder, marker_settings(folder)) is None
    with pytest.raises(ValueError, match="checkpoint-6: it was saved without optimizer"):
        run("rs", inputs, tmp_path / "other", resume_from_checkpoint=str(folder))


def test_rows_left_out_of_both_files_are_told(inputs: TrainInputs, tmp_path: Path, said: io.StringIO) -> None:
    rows = list(read_rows(inputs.train_file))
    write_jsonl(tmp_path / "eval.jsonl", [{**row, "label": None if i < 3 else True} for i, row in enumerate(rows)])
    evaluated = replace(inputs, eval_file=tmp_path / "eval.jsonl")
    folder = run("rs", evaluated, tmp_path / "run", max_steps=1, eval_strategy="steps")
    summary = json.loads((folder / "train_log.meta.json").read_text())["summary"]
    assert summary == {
        "base_model": {
            "name": Path(inputs.model_name_or_path).name,
            "on_hub": False,
            "path": os.path.relpath(inputs.model_name_or_path, folder),
        },
        "file": inputs.train_file.name,
        "rows": 32,
        "left_out": {"not right": 32},
        "eval_file": "eval.jsonl",
        "eval_rows": 61,
        "eval_left_out": {"ungradable": 3},
    }
    assert f"{tmp_path / 'eval.jsonl'}: left out 3 (ungradable)" in said.getvalue()


def test_without_a_whole_checkpoint_the_run_begins_anew(
    inputs: TrainInputs, whole: Path, half: Path, said: io.StringIO
) -> None:
    for folder in ("checkpoint-2", "checkpoint-4"):
        flip(half / folder / "optimizer.pt")
    run("rs", inputs, half, **OPTIONS)
    assert "resumes from" not in said.getvalue()
    assert same_weights(half, whole)


def test_a_checkpoint_of_other_settings_is_passed_over(
    inputs: TrainInputs, half: Path, tmp_path: Path, said: io.StringIO
) -> None:
    """As after a changed setting and a deleted log: the weights are those of the new settings alone."""
    run("rs", inputs, half, **OPTIONS, learning_rate=3e-3)
    skipped = f"{half / 'checkpoint-4'} is skipped: it was made with other settings (learning_rate: "
    assert skipped in said.getvalue() and " -> 0.003)" in said.getvalue()
    assert same_weights(half, run("rs", inputs, tmp_path / "fresh", **OPTIONS, learning_rate=3e-3))


def test_what_cannot_change_the_weights_may_change(
    inputs: TrainInputs, whole: Path, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How often to save and log, how many to keep, who loads the data, where to report; and the new cadence holds."""
    monkeypatch.setenv("HF_TOKEN", "")
    run(
        "rs",
        inputs,
        half,
        save_strategy="steps",
        save_steps=5,
        save_total_limit=7,
        logging_steps=2,
        dataloader_num_workers=1,
        dataloader_pin_memory=False,
        run_name="other",
        hub_token="hf_secret",
        eval_delay=3,
    )
    assert same_weights(half, whole)
    assert [found.step for found in checkpoints(half)] == [2, 4, 5, 6]


def test_how_often_a_run_is_evaluated_does_not_change_it(inputs: TrainInputs, tmp_path: Path) -> None:
    """With dropout in an adapter, so that random numbers are drawn at every step; after a kill, too."""
    lora = replace(inputs, use_peft=True, lora_r=4, lora_dropout=0.2)
    never = run("rs", lora, tmp_path / "never")
    evaluated = replace(lora, eval_file=inputs.train_file)
    child = start("rs", lora, tmp_path / "often", tmp_path / "log", at="qstep.trainers.checkpoints:seal:4")
    child.join()
    often = run("rs", evaluated, tmp_path / "often", eval_strategy="steps", eval_steps=1)
    assert same_weights(never, often)
    assert sum("eval_loss" in row for row in read_rows(often / "train_log.jsonl")) == 3


BEST: dict[str, Any] = dict(
    eval_strategy="steps",
    eval_steps=2,
    save_steps=2,
    load_best_model_at_end=True,
    metric_for_best_model="loss",
    greater_is_better=True,
)
"""Options of a run that is asked for the largest loss: its first evaluation is the best one."""


def killed_after_its_last_checkpoint(evaluated: TrainInputs, folder: Path) -> None:
    child = start(
        "rs", evaluated, folder / "run", folder / "log", at="qstep.trainers.checkpoints:rotate:3:after", **BEST
    )
    child.join()


def test_a_damaged_best_checkpoint_is_not_taken_for_the_best(evaluated: TrainInputs, tmp_path: Path) -> None:
    """The first evaluation is the best one of a run that is asked for the largest loss."""
    killed_after_its_last_checkpoint(evaluated, tmp_path)
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-2"
    flip(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    with pytest.raises(ValueError, match=r"the best checkpoint, .*checkpoint-2, .*model\.safetensors has changed"):
        run("rs", evaluated, tmp_path / "run", **BEST)


def test_the_best_evaluation_is_saved_although_no_checkpoint_is_due(
    evaluated: TrainInputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation before training is the best of all here, and the first one after it the best of the others."""
    options = {**BEST, "eval_steps": 1, "save_steps": 3, "eval_on_start": True}
    found = run("rs", evaluated, tmp_path / "run", **options)
    assert same_weights(found, found / "checkpoint-1") and not same_weights(found, found / "checkpoint-3")
    said = " ".join(capsys.readouterr().err.split())
    assert "no evaluation was better than the one before training (loss " in said
    assert "The weights are those of step 1, the best of the others" in said
    card = (found / "README.md").read_text()
    assert "These are the weights of step 1, the best by `loss`." in card and "| `eval_loss` | 1 |" in card


def test_a_run_that_saves_its_best_is_logged_as_an_undisturbed_one(evaluated: TrainInputs, tmp_path: Path) -> None:
    """Of such a run it is known after an evaluation only whether it saves, and no line of the log is due by then."""
    best = dict(save_strategy="best", load_best_model_at_end=True, logging_steps=10)
    options: dict[str, Any] = dict(eval_strategy="steps", eval_steps=2, **best)
    child = start(
        "rs", evaluated, tmp_path / "run", tmp_path / "log", at="qstep.trainers.checkpoints:seal:1:after", **options
    )
    child.join()
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()

    def log(folder: Path) -> list[tuple[int, float | None, float | None]]:
        return [(row["step"], row.get("loss"), row.get("eval_loss")) for row in read_rows(folder / "train_log.jsonl")]

    assert log(run("rs", evaluated, tmp_path / "run", **options)) == log(
        run("rs", evaluated, tmp_path / "whole", **options)
    )


def test_nothing_secret_is_written(inputs: TrainInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    folder = run("rs", inputs, tmp_path / "run", hub_token="hf_very_secret", max_steps=1)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if b"hf_very_secret" in file.read_bytes() or file.name == "training_args.bin"]


def test_rotation_waits_for_the_marker_and_leaves_other_runs_alone(
    inputs: TrainInputs, half: Path, whole: Path, tmp_path: Path
) -> None:
    """Of a run killed before the marker of its second checkpoint, the first is there, whole."""
    child = start(
        "rs", inputs, tmp_path / "killed", tmp_path / "log", at="qstep.trainers.checkpoints:seal:2", save_total_limit=1
    )
    child.join()
    settings = marker_settings(tmp_path / "killed" / "checkpoint-1")
    found, passed_over = newest_usable(tmp_path / "killed", settings)
    assert found is not None and found.step == 1
    assert list(passed_over) == [tmp_path / "killed" / "checkpoint-2"]
    run("rs", inputs, half, learning_rate=3e-3, save_steps=3, save_total_limit=1)
    assert [found.step for found in checkpoints(half)] == [2, 4, 6]
    assert marker_settings(half / "checkpoint-4") == marker_settings(whole / "checkpoint-4")


@pytest.mark.parametrize(
    ("limit", "best", "kept"), [(2, 1, [1, 5]), (3, 1, [1, 4, 5]), (2, 4, [4, 5]), (1, 1, [1, 5]), (2, None, [4, 5])]
)
def test_the_best_checkpoint_counts_among_those_that_are_kept(
    limit: int, best: int | None, kept: list[int], tmp_path: Path
) -> None:
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        seal(tmp_path / f"checkpoint-{step}", {})
        rotate(Checkpoint.at(tmp_path / f"checkpoint-{step}"), {}, limit, best and str(tmp_path / f"checkpoint-{best}"))
    assert [found.step for found in checkpoints(tmp_path)] == kept


def test_a_run_can_be_made_longer_where_its_learning_rate_allows_it(inputs: TrainInputs, tmp_path: Path) -> None:
    constant = dict(lr_scheduler_type="constant_with_warmup", warmup_steps=2)
    run("rs", inputs, tmp_path / "run", max_steps=3, **constant)
    run("rs", inputs, tmp_path / "run", max_steps=6, **constant)
    longer = run("rs", inputs, tmp_path / "longer", max_steps=6, **constant)
    assert same_weights(tmp_path / "run", longer)
    assert len(list(read_rows(tmp_path / "run" / "train_log.jsonl"))) == len(
        list(read_rows(longer / "train_log.jsonl"))
    )
    with pytest.raises(SettingsChanged, match="max_steps: 6 -> 4"):
        run("rs", inputs, tmp_path / "run", max_steps=4, **constant)


def test_a_run_whose_learning_rate_ends_with_it_goes_on_elsewhere_when_asked(
    inputs: TrainInputs, whole: Path, tmp_path: Path, said: io.StringIO
) -> None:
    advice = r"Choose another --output_dir, or delete the folder\n"
    with pytest.raises(SettingsChanged, match=rf"max_steps: 6 -> 8\n{advice}.*lr_scheduler_type constant.*another"):
        run("rs", inputs, whole, **OPTIONS, max_steps=8)
    asked = dict(max_steps=8, resume_from_checkpoint=str(whole / "checkpoint-6"), **OPTIONS)
    run("rs", inputs, tmp_path / "on", **asked)
    assert "follows this run's schedule" in said.getvalue()
    assert [row["step"] for row in read_rows(tmp_path / "on" / "train_log.jsonl")] == [7, 8]
    assert [found.step for found in checkpoints(tmp_path / "on")] == [8]
    child = start("rs", inputs, tmp_path / "killed", tmp_path / "log", at="qstep.stages.train:seal:1", **asked)
    child.join()
    run("rs", inputs, tmp_path / "killed", **asked)
    assert f"resumes from {tmp_path / 'killed' / 'checkpoint-8'}" in said.getvalue()
    assert same_weights(tmp_path / "killed", tmp_path / "on")


def test_a_checkpoint_asked_for_is_checked(inputs: TrainInputs, whole: Path, half: Path, tmp_path: Path) -> None:
    folder = half / "checkpoint-2"
    with pytest.raises(
        ValueError, match=r"checkpoint-2: it was made with other settings \(learning_rate: .* -> 0.003\)"
    ):
        run("rs", inputs, tmp_path / "a", resume_from_checkpoint=str(folder), learning_rate=3e-3)
    with pytest.raises(ValueError, match="is not a checkpoint: give a folder called checkpoint-<step>"):
        run("rs", inputs, tmp_path / "b", resume_from_checkpoint=str(half))
    flip(folder / "optimizer.pt")
    with pytest.raises(ValueError, match=r"checkpoint-2: optimizer\.pt has changed"):
        run("rs", inputs, tmp_path / "c", resume_from_checkpoint=str(folder), max_steps=8)
    run("rs", inputs, tmp_path / "d", resume_from_checkpoint=str(whole / "checkpoint-4"), **OPTIONS)
    assert same_weights(tmp_path / "d", whole)
    assert not [name for name in "abc" if (tmp_path / name / "train_log.jsonl").exists()]


def test_a_finished_model_that_was_changed_is_not_taken_for_finished(
    inputs: TrainInputs, whole: Path, tmp_path: Path, said: io.StringIO
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    assert run("rs", inputs, folder, **OPTIONS) == folder
    assert f"{folder} is already finished" in said.getvalue()
    flip(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"is finished, but model\.safetensors has changed since"):
        run("rs", inputs, folder, **OPTIONS)


def test_a_training_does_not_begin_among_the_files_of_another(inputs: TrainInputs, whole: Path, tmp_path: Path) -> None:
    """Without its log nothing says which of the files are whose: an adapter of the other would be loaded."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in folder.glob("train_log.*"):
        file.unlink()
    before = sorted(folder.rglob("*"))
    refusal = (
        r"run has .*config\.json, and no log of a training that wrote it: choose another folder, or delete this one"
    )
    with pytest.raises(ValueError, match=refusal):
        run("rs", inputs, folder, **OPTIONS)
    assert sorted(folder.rglob("*")) == before


def test_a_failing_run_leaves_no_log_behind(inputs: TrainInputs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are longer than --max_length"):
        run("rs", inputs, tmp_path / "run", max_length=4)
    assert not list((tmp_path / "run").glob("*log*"))


def test_two_trainings_of_one_folder_are_refused(inputs: TrainInputs, tmp_path: Path) -> None:
    with (
        StageFile.open(tmp_path / "train_log.jsonl", stage="train rs", settings={}),
        pytest.raises(StageBusy),
    ):
        run("rs", inputs, tmp_path)
    assert CONTEXT.get_start_method() == "forkserver"


def test_the_best_checkpoint_is_found_where_the_folder_is_now(evaluated: TrainInputs, tmp_path: Path) -> None:
    """A run that was killed after its last checkpoint, and whose folder then moved, ends with the best weights too."""
    killed_after_its_last_checkpoint(evaluated, tmp_path)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = run("rs", evaluated, tmp_path / "moved", **BEST)
    assert same_weights(moved, run("rs", evaluated, tmp_path / "never", **BEST))


def test_the_best_checkpoint_of_the_run_that_this_one_was_started_from(evaluated: TrainInputs, tmp_path: Path) -> None:
    """That run was shorter, and the best of both is in its folder. This one is killed after its last checkpoint."""
    killed_after_its_last_checkpoint(evaluated, tmp_path)
    first = tmp_path / "run"
    asked = {**BEST, "max_steps": 8, "resume_from_checkpoint": str(first / "checkpoint-6")}
    at = "qstep.trainers.checkpoints:rotate:1:after"
    start("rs", evaluated, tmp_path / "longer", tmp_path / "log", at=at, **asked).join()
    state = json.loads((tmp_path / "longer" / "checkpoint-8" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == first / "checkpoint-2"
    assert same_weights(run("rs", evaluated, tmp_path / "longer", **asked), first / "checkpoint-2")


def test_a_missing_best_checkpoint_is_refused(evaluated: TrainInputs, tmp_path: Path) -> None:
    killed_after_its_last_checkpoint(evaluated, tmp_path)
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"names .*checkpoint-2 as the best checkpoint, which is not there"):
        run("rs", evaluated, tmp_path / "run", **BEST)
