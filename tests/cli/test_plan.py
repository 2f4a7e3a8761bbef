"""`qstep plan train METHOD ...`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import Qwen2Config

from qstep.cli import main
from qstep.tasks import miniature


@pytest.fixture
def training(base: Path, rows_file: Path) -> list[str]:
    return ["train", "dqo", "--model_name_or_path", str(base), "--train_file", str(rows_file), "--use_cpu", "true"]


def planned(training: list[str], file: Path, *more: str) -> dict:
    assert main(["plan", *training, *more, "--plan_file", str(file)]) == 0
    return json.loads(file.read_text())


def test_a_plan_is_printed_and_written(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = planned(training, tmp_path / "plan.json", "--max_steps", "10", "--per_device_train_batch_size", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert found["optimizer_steps"] == 10
    assert found["total_gib"] == pytest.approx(sum(found["memory_gib"].values()))
    shown = capsys.readouterr().err
    assert "qstep train dqo on this machine" in shown
    assert "fits" in shown


def test_devices_share_what_is_sharded(training: list[str], tmp_path: Path) -> None:
    eight = ["--hardware", "h100", "--num_devices", "8"]
    copied = planned(training, tmp_path / "copied.json", *eight)
    sharded = planned(training, tmp_path / "sharded.json", *eight, "--fsdp", "true")
    alone = planned(training, tmp_path / "alone.json", "--hardware", "h100")
    assert copied["memory_gib"]["weights"] == alone["memory_gib"]["weights"]
    assert copied["memory_gib"]["buckets of gradients"] > 0
    for part in ("weights", "optimizer"):
        assert sharded["memory_gib"][part] == pytest.approx(alone["memory_gib"][part] / 8)


def test_batches_are_those_of_the_training(training: list[str], rows_file: Path, tmp_path: Path) -> None:
    """Their order, the last incomplete one, and which activations are recomputed."""
    training[1] = "sft"
    more = ["--num_train_epochs", "1", "--per_device_train_batch_size", "5", "--responses_per_prompt", "1"]
    whole = planned(training, tmp_path / "whole.json", *more)
    dropped = planned(training, tmp_path / "dropped.json", *more, "--dataloader_drop_last", "true")
    assert whole["rows"] % 5 != 0
    assert (whole["optimizer_steps"], dropped["optimizer_steps"]) == (whole["rows"] // 5 + 1, whole["rows"] // 5)
    most = {
        planned(training, tmp_path / f"{seed}.json", *more, "--data_seed", str(seed))["tokens_of_largest_batch"]
        for seed in range(3)
    }
    assert len(most) > 1
    recomputed = [*more, "--activation_checkpointing", "true"]
    every = planned(training, tmp_path / "every.json", *recomputed)
    kwargs = ["--activation_checkpointing_kwargs", '{"every_n_layers": 2}']
    second = planned(training, tmp_path / "second.json", *recomputed, *kwargs)
    assert every["flops"] > second["flops"] > whole["flops"]


def test_a_scorer_is_no_policy(training: list[str], base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "scorer")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "scorer" / "config.json").write_text(json.dumps({**config, "qstep": {}}))
    with pytest.raises(ValueError, match="is a step scorer; give a causal language model"):
        main(["plan", *[str(tmp_path / "scorer") if part == str(base) else part for part in training], "--debug"])


def test_a_large_model_is_planned_from_its_config(
    rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Qwen2-7B has 7,615,616,512 parameters (its model card: 7.61 B); with Adam in fp32 they take 122 GB."""
    shape = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28)
    config = Qwen2Config(**shape, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False)
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(tmp_path / "qwen2")
    miniature.tokenizer().save_pretrained(tmp_path / "qwen2")
    training = ["train", "sft", "--model_name_or_path", str(tmp_path / "qwen2"), "--train_file", str(rows_file)]
    found = planned(training, tmp_path / "plan.json", "--hardware", "h100")
    assert found["parameters"] == 7_615_616_512
    assert found["total_gib"] * 2**30 > 16 * found["parameters"]
    assert "does not fit" in capsys.readouterr().err
    found = planned(training, tmp_path / "fits.json", "--hardware", "h100", "--num_devices", "8", "--fsdp", "true")
    assert found["total_gib"] < found["device_gib"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the command of a training"),
        (["sample"], "give the command of a training"),
        (["train", "ppo"], "give the command of a training"),
        (["train", "dqo", "--hardware", "tpu"], "invalid choice: 'tpu'"),
        (["train", "dqo", "--num_devices", "0"], "--num_devices must be at least 1"),
        (["train", "dqo", "--dry_run"], "a plan runs nothing: remove --dry_run"),
        (["train", "dqo", "--no_such_option", "1"], "no_such_option"),
    ],
)
def test_what_is_no_training_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_replaces_only_a_plan(training: list[str], rows_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    shutil.copy(rows_file, rows)
    own = [str(rows) if part == str(rows_file) else part for part in training]
    assert main(["plan", *own, "--plan_file", str(rows)]) == 1
    assert rows.read_bytes() == rows_file.read_bytes()
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["plan", *own, "--plan_file", str(tmp_path / "notes.txt")]) == 1
    for _ in range(2):
        assert planned(own, tmp_path / "plan.json")["kind"] == "plan"


def test_the_time_is_that_of_the_precision(training: list[str], tmp_path: Path) -> None:
    """An H100: 989 TFLOP/s in bf16, 67 in fp32."""
    hours = [
        planned(training, tmp_path / f"{name}.json", "--hardware", "H100", *more)["hours"]
        for name, more in (("fp32", []), ("bf16", ["--bf16", "true"]))
    ]
    assert hours[0] / hours[1] == pytest.approx(989 / 67, rel=0.01)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fsdp", "true"], "--fsdp divides weights among processes, but there is one"),
        (["--fsdp", "true", "--num_devices", "2", "--use_peft", "true", "--load_in_4bit", "true"], "--load_in_4bit"),
        (["--eval_file", "none.jsonl"], "has no effect without evaluations"),
        (["--eval_strategy", "epoch"], "need rows to evaluate on"),
    ],
)
def test_what_the_training_refuses_is_not_planned(training: list[str], more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(["plan", *training, *more, "--debug"])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "Put `plan` in front of the training's command" in capsys.readouterr().out
