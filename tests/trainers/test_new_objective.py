"""An objective of one's own: one file, and one entry in the table of methods."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import toy_objective
from qstep.data import read_rows
from qstep.objectives import METHODS
from qstep.stages.train import TrainInputs, train
from toy_objective import TOY, ToyConfig


def test_a_new_objective_is_a_file_and_an_entry(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains two steps through the command, and a run of one step that is made longer ends with the same weights."""
    assert len(inspect.getsource(toy_objective).splitlines()) < 60
    monkeypatch.setitem(METHODS, "toy", TOY)
    inputs = TrainInputs(model_name_or_path=str(base), train_file=rows_file)

    def run(name: str, steps: int) -> Path:
        schedule = dict(lr_scheduler_type="constant", save_strategy="steps", save_steps=1, max_steps=steps)
        options = dict(use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1, learning_rate=1e-3)
        return train("toy", inputs, ToyConfig(output_dir=str(tmp_path / name), scale=2.0, **schedule, **options))

    whole = run("whole", 2)
    run("longer", 1)
    longer = run("longer", 2)
    start, ours, theirs = (load_file(folder / "model.safetensors") for folder in (base, whole, longer))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert any(not torch.equal(value, start[name]) for name, value in ours.items())
    assert [("loss" in line, "logps/mean" in line) for line in read_rows(longer / "train_log.jsonl")] == [
        (True, True),
        (True, True),
    ]
    assert "Method: `toy`" in (longer / "README.md").read_text()
