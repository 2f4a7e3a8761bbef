"""What `--fsdp` and the configuration of `accelerate launch` ask for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from qstep.objectives.arguments import training_settings
from qstep.objectives.methods import METHODS
from qstep.objectives.packages import check_deepspeed_parts
from qstep.runs.fsdp_settings import Sharding
from qstep.runs.zero3 import takes_zero3

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"


def args(**options: Any) -> Any:
    plain = dict(fsdp=False, fsdp_config={}, world_size=2, deepspeed=None, optim="adamw_torch_fused")
    return SimpleNamespace(**{**plain, **options})


def test_options_say_whether_and_how_weights_are_divided() -> None:
    assert Sharding.of(args()) is None
    assert Sharding.of(args(fsdp=True)) == Sharding(reshard_after_forward=True)
    assert Sharding.of(args(fsdp=True, fsdp_config={"reshard_after_forward": False})) == Sharding(False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fsdp_config": {"version": 1}}, "fsdp_version is 1, but it must be 2: FSDP1 is not supported"),
        ({"fsdp_config": {"cpu_offload": True}}, "fsdp_cpu_offload is True, but it must be false: weights stay on"),
        ({"fsdp_config": {"ignored_modules": ["lm_head"]}}, "fsdp_ignored_modules is .'lm_head'., but it must be left"),
        ({"fsdp_config": {"forward_prefetch": True}}, "--fsdp_config: forward_prefetch has no effect. Remove it"),
        ({"fsdp_config": {"min_num_params": 100}}, "fsdp_min_num_params is 100, but it must be 0: qstep divides layer"),
        ({"deepspeed": "zero3.json"}, "--fsdp and --deepspeed exclude each other: remove one"),
        (
            {"optim": "paged_adamw_8bit"},
            "--optim paged_adamw_8bit does not work with --fsdp: give one of adamw_torch, ",
        ),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Sharding.of(args(fsdp=True, **options))


def test_what_accelerate_launches_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert Sharding.of(args()) == Sharding(reshard_after_forward=False)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    with pytest.raises(ValueError, match=r"^fsdp_state_dict_type is SHARDED_STATE_DICT, but it must be FULL_"):
        Sharding.of(args())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params is true, but it must be false"),
        ("FSDP_TRANSFORMER_CLS_TO_WRAP", "Layer", "fsdp_transformer_cls_to_wrap is Layer, but it must be left out"),
        ("FSDP_SHARDING_STRATEGY", "HYBRID_SHARD", "fsdp_sharding_strategy is HYBRID_SHARD, but it must be FULL_SHARD"),
    ],
)
@pytest.mark.parametrize("fsdp", [None, True])
def test_what_accelerate_launches_counts_with_the_option_too(
    name: str, value: str, sentence: str, fsdp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert Sharding.of(args(fsdp=fsdp)) == Sharding(reshard_after_forward=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Sharding.of(args(fsdp=fsdp))


def test_the_precision_of_accelerate_is_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a checkpoint's settings would say fp32 of a training in bf16."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = METHODS["pqm"].config(output_dir=str(tmp_path), report_to="none")
    assert config.bf16
    assert config.mixed_precision == "bf16"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_takes_the_recipes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch` gives a recipe's settings in the environment, where qstep reads them."""
    config = ClusterConfig.from_yaml_file(yaml_file=str(file))
    written = yaml.safe_load(file.read_text())
    settings = written.get("fsdp_config", {})
    assert (config.distributed_type.value == "FSDP") == bool(settings)
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), str(value))
    for name, value in written.get("deepspeed_config", {}).items():
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name.upper()}", str(value))
    if settings:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if zero3 := config.distributed_type.value == "DEEPSPEED":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert Sharding.of(args()) == (Sharding() if settings else None)
    assert takes_zero3(None) == zero3
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ


def test_settings_of_fsdp_need_the_option(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--fsdp_config is given without --fsdp true: remove it, or add that"):
        METHODS["pqm"].config(output_dir=str(tmp_path), report_to="none", fsdp_config={"version": 2})


def test_parts_of_micro_batches_do_not_work_with_deepspeed() -> None:
    check_deepspeed_parts(None)
    with pytest.raises(ValueError, match="--max_tokens_per_batch does not work with DeepSpeed: give --gradient_acc"):
        check_deepspeed_parts(4096)


AUTO = {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "fp16": {"enabled": "auto", "loss_scale": 0}}


def test_zero_3_is_found_and_fsdp2_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = {"stage": 3, "overlap_comm": True, "offload_param": {"device": "none"}}
    assert takes_zero3({"zero_optimization": zero, **AUTO, "gradient_clipping": "auto"})
    assert not takes_zero3({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0})
    assert not takes_zero3(None)
    assert takes_zero3(json.dumps({"zero_optimization": zero})), "transformers takes a text of JSON too"
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": zero}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert takes_zero3(None)
    options = {"output_dir": str(tmp_path), "report_to": "none"}
    config = METHODS["pqm"].config(**options, deepspeed=str(file))
    assert (config.deepspeed, config.sharding()) == (None, Sharding())
    assert training_settings(config) == training_settings(METHODS["pqm"].config(**options, fsdp=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, "offload_param is on cpu"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0: set it to auto, and give --max_grad_norm instead"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}, "optimizer is .*give --optim and --learning_rate"),
        ({"bf16": {"enabled": True}}, "bf16 is .*: set it to auto, and give --bf16 true instead"),
    ],
)
def test_settings_of_zero_3_that_would_have_no_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^DeepSpeed's {message}"):
        takes_zero3({"zero_optimization": {"stage": 3}, **settings})


def test_what_is_no_configuration_of_deepspeed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--deepspeed .*none.json: No such file"):
        takes_zero3(str(tmp_path / "none.json"))
    for text, message in (("{", "is no JSON"), ("[]", "is no configuration of DeepSpeed")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            takes_zero3(str(tmp_path / "bad.json"))
