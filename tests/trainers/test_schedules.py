"""The metric that evaluations decide by, and learning rates that follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qstep.objectives import METHODS
from qstep.stages.commands import COMMANDS
from tiny_trainers import trainer

EVALUATED: dict[str, Any] = dict(eval_strategy="steps", eval_steps=1)


@pytest.fixture
def files(rows_file: Path, tmp_path: Path) -> list[Path]:
    """Rows to learn from, and rows of other problems to evaluate on."""
    rows = rows_file.read_text().splitlines(keepends=True)
    for name, part in (("train", rows[:48]), ("eval", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    return [tmp_path / "train.jsonl", tmp_path / "eval.jsonl"]


@pytest.mark.parametrize("schedule", ["linear", "reduce_lr_on_plateau", "greedy"])
def test_a_metric_that_is_not_there_is_told(schedule: str, base: Path, files: list[Path], tmp_path: Path) -> None:
    options = dict(max_steps=1, lr_scheduler_type=schedule, metric_for_best_model="nonsense", **EVALUATED)
    run = trainer("rs", base, files[0], tmp_path, eval_file=files[1], **options)
    with pytest.raises(ValueError, match=r"is nonsense, but evaluations have no eval_nonsense\. .* eval_loss, "):
        run.train()


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(
    ("metric", "given", "mode"),
    [
        ("logps/chosen", None, "max"),
        ("rewards/rejected", None, None),
        ("loss", None, None),
        (None, None, None),
        ("loss", {"mode": "max"}, "max"),
        ("logps/chosen", {"mode": "min"}, "min"),
    ],
)
def test_a_learning_rate_follows_a_metric_in_its_direction(
    schedule: str, metric: str | None, given: dict[str, str] | None, mode: str | None, tmp_path: Path
) -> None:
    """Without a mode both schedules take smaller values for better."""
    options = dict(lr_scheduler_type=schedule, lr_scheduler_kwargs=given, metric_for_best_model=metric, **EVALUATED)
    config = METHODS["rs"].config(output_dir=str(tmp_path), report_to="none", **options)
    assert (config.lr_scheduler_kwargs or {}).get("mode") == mode


def test_a_learning_rate_stays_while_a_metric_grows(base: Path, files: list[Path], tmp_path: Path) -> None:
    options = dict(lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0}, **EVALUATED)
    options |= dict(metric_for_best_model="logps/chosen", max_steps=3, learning_rate=1e-2)
    run = trainer("rs", base, files[0], tmp_path, eval_file=files[1], **options)
    run.train()
    found = [line["eval_logps/chosen"] for line in run.state.log_history if "eval_logps/chosen" in line]
    assert found == sorted(found) and found[0] < found[-1]
    assert run.lr_scheduler is not None and {*run.lr_scheduler.get_last_lr()} == {1e-2}


@pytest.mark.parametrize(("written", "value"), [("1e-6", 1e-6), ("3", 3), ("true", True), ("cosine", "cosine")])
def test_a_schedules_own_options_are_read_as_yaml(written: str, value: Any, tmp_path: Path) -> None:
    given = ["--model_name_or_path=m", "--train_file=r.jsonl", f"--output_dir={tmp_path}", "--report_to=none"]
    _, config = COMMANDS["train rs"].parse([*given, "--lr_scheduler_kwargs.min_lr", written])
    assert config.lr_scheduler_kwargs == {"min_lr": value}
