"""`qstep merge`: what an adapter computes, head and value function included, after a kill and a resumed training."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from killed_training import run, same_weights, start, write_inputs
from qstep.data import read_rows
from qstep.models import PolicyWithValue, collate_groups, merge_adapter
from qstep.runs.seals import settings_of_marker
from qstep.scoring import StepScorer
from qstep.stages.merge import MergeConfig, merge
from qstep.stages.train import TrainInputs
from qstep.tasks import miniature


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    """With dropout in the adapter, so that the state of the random numbers counts."""
    return replace(write_inputs(tmp_path_factory.mktemp("inputs")), use_peft=True, lora_r=4, lora_dropout=0.2)


def killed_and_resumed(method: str, inputs: TrainInputs, folder: Path) -> Path:
    child = start(method, inputs, folder / "killed", folder / "log", at="qstep.trainers.checkpoints:seal:4")
    child.join()
    assert child.exitcode == -signal.SIGKILL, (folder / "log").read_text()
    run(method, inputs, folder / "killed")
    assert same_weights(folder / "killed", run(method, inputs, folder / "whole"))
    return folder / "killed"


def test_a_scorer_gives_the_same_scores(inputs: TrainInputs, tmp_path: Path) -> None:
    adapter = killed_and_resumed("pqm", inputs, tmp_path)
    merged = merge(MergeConfig(model_name_or_path=adapter, output_dir=tmp_path / "merged"))
    assert not (merged / "adapter_config.json").exists()
    first, second = StepScorer.load(adapter), StepScorer.load(merged)
    apart = 0.0
    for row in read_rows(inputs.train_file):
        scores = first.score(row["prompt"], row["completions"])
        assert second.score(row["prompt"], row["completions"]) == pytest.approx(scores, abs=1e-5)
        apart = max(apart, max(map(abs, scores)))
    assert apart > 0.01
    assert merge(MergeConfig(model_name_or_path=adapter, output_dir=merged)) == merged
    (merged / "config.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"is not the merge of .*: config\.json has .* Choose another --output_dir"):
        merge(MergeConfig(model_name_or_path=adapter, output_dir=merged))


def check_outputs(adapter: Path, merged: Path, inputs: TrainInputs) -> None:
    """Checks that log-probabilities and values are the same, and that values differ from token to token."""
    tokenizer, rows = miniature.tokenizer(), list(read_rows(inputs.train_file))[:4]
    batch = collate_groups(
        [tokenizer(rows[0]["prompt"])["input_ids"]], [[tokenizer(row["completion"])["input_ids"] for row in rows]]
    )
    with torch.no_grad():
        (logps, values), (merged_logps, merged_values) = (
            PolicyWithValue.load(folder).eval()(batch) for folder in (adapter, merged)
        )
    torch.testing.assert_close(merged_logps, logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(merged_values, values, atol=1e-5, rtol=0)
    assert values.std() > 0


def test_a_value_function_of_dora_keeps_its_magnitudes(inputs: TrainInputs, tmp_path: Path) -> None:
    """V has a trunk of its own, whose magnitudes are trained too."""
    adapter = run("dqo", replace(inputs, use_dora=True), tmp_path / "adapter")
    saved = load_file(adapter / "value.safetensors")
    magnitudes = [name for name in saved if "magnitude" in name]
    assert magnitudes
    for name in magnitudes:
        saved[name] = saved[name] * 1.5
    save_file(saved, adapter / "value.safetensors")
    merged = tmp_path / "merged"
    merge_adapter(adapter, merged)
    check_outputs(adapter, merged, inputs)


def test_a_policy_keeps_its_value_function(inputs: TrainInputs, tmp_path: Path) -> None:
    adapter = killed_and_resumed("dqo", inputs, tmp_path)
    merged = merge(MergeConfig(model_name_or_path=adapter, output_dir=tmp_path / "merged"))
    check_outputs(adapter, merged, inputs)
    before, after = settings_of_marker(adapter), settings_of_marker(merged)
    assert (
        before
        and after
        and {name: after[name] for name in ("method", "beta", "reference")}
        == {
            "method": "dqo",
            "beta": before["beta"],
            "reference": "model",
        }
    )


def test_what_is_no_adapter_is_refused(inputs: TrainInputs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapter"):
        merge(MergeConfig(model_name_or_path=Path(inputs.model_name_or_path), output_dir=tmp_path / "merged"))
    with pytest.raises(ValueError, match="is not a folder"):
        merge(MergeConfig(model_name_or_path=tmp_path / "none", output_dir=tmp_path / "merged"))
    assert not list(tmp_path.iterdir())
