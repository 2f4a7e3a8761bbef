"""Adapters on weights in 4 bits: what is quantised, what is shared, and that gradients stay right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from model_families import FAMILIES, tiny_config
from qstep.cli import main
from qstep.models import ModelOptions, PolicyModel, PolicyWithValue, ScorerModel, collate_groups, four_bits
from qstep.models.packing import is_packed
from qstep.tasks import miniature

pytest.importorskip("bitsandbytes")

BATCH = collate_groups([[1, 2, 3], [4, 5, 6, 7]], [[[1, 2, 3, 4], [5, 6]], [[7], [2] * 6]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers are as wide as a block of 64 weights, which have one scale."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = tiny_config("qwen3")
    config.update({**FAMILIES["qwen3"], "hidden_size": 128, "intermediate_size": 256, "head_dim": 32})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    miniature.tokenizer().save_pretrained(folder)
    return folder


def options(base: Path, **others: object) -> ModelOptions:
    return ModelOptions(model_name_or_path=str(base), use_peft=True, lora_r=4, **others)


def gradients(model: PolicyModel) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()(BATCH).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_linear_layers_are_in_four_bits_and_log_probs_close_to_those_of_full_weights(base: Path) -> None:
    small, full = PolicyModel.new(options(base, load_in_4bit=True)), PolicyModel.new(options(base))
    layer = small.trunk.layers[0].mlp.up_proj.base_layer.weight
    assert layer.dtype == torch.uint8 and layer.numel() == 128 * 256 / 2
    assert small.pretrained.get_base_model().lm_head.weight.dtype == torch.float32
    assert is_packed(small.trunk)
    with torch.no_grad():
        torch.testing.assert_close(small(BATCH), full(BATCH), rtol=0.1, atol=0.3)
        assert not torch.equal(small(BATCH), full(BATCH))


def test_an_evaluation_changes_no_gradient(base: Path) -> None:
    model = PolicyModel.new(options(base, load_in_4bit=True))
    before = gradients(model)
    with torch.no_grad():
        model.eval()(BATCH)
    after = gradients(model)
    assert before.keys() == after.keys() and any("lora_B" in name for name in before)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient)


def test_the_value_network_shares_the_weights(base: Path) -> None:
    model = PolicyWithValue.new_with_value(options(base, load_in_4bit=True), "separate")
    policy, value = (trunk.layers[1].self_attn.q_proj for trunk in (model.trunk, model.value_trunk))
    assert policy.base_layer.weight is value.base_layer.weight
    logps, values = model(BATCH)
    torch.nn.init.normal_(model.value_head.weight)
    (model(BATCH)[1].sum() + logps.sum()).backward()
    assert values.shape == logps.shape
    for layer in (policy, value):
        assert layer.lora_A["default"].weight.requires_grad and layer.lora_B["default"].weight.grad.abs().sum() > 0


def test_a_scorers_head_is_not_quantised(base: Path) -> None:
    scorer = ScorerModel.new(options(base, load_in_4bit=True))
    assert {p.dtype for name, p in scorer.named_parameters() if "score" in name} == {torch.float32}


@pytest.mark.parametrize("method", ["pqm", "dqo --value separate", "dqo --value head"])
def test_trains_and_merges(method: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    common = f"--model_name_or_path {base} --train_file {rows_file} --max_steps 2 --use_cpu true --report_to none"
    adapter = "--use_peft true --load_in_4bit true --use_rslora true --save_steps 1 --bf16 true"
    command = f"train {method} {common} {adapter} --output_dir {tmp_path}/adapter"
    assert main(command.split()) == 0
    assert main(f"merge --model_name_or_path {tmp_path}/adapter --output_dir {tmp_path}/merged".split()) == 0


def test_what_it_needs_is_named(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        f"train rs --model_name_or_path {base} --train_file {rows_file} --output_dir {tmp_path}/run --use_cpu true"
    )
    assert main([*command.split(), "--load_in_4bit", "true"]) == 1
    assert "use_peft" in capsys.readouterr().err
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    assert main([*command.split(), "--load_in_4bit", "true", "--use_peft", "true"]) == 1
    assert "--load_in_4bit needs the package bitsandbytes" in capsys.readouterr().err
