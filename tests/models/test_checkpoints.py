"""Checkpoints as they are published: weights in fewer bits, configs that do not fit, models of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from model_families import saved
from qstep.models import ModelOptions, PolicyModel, ScorerModel

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The values of a weight in MXFP4 (OCP Microscaling Formats 1.0, E2M1)."""


def options(folder: Path, **more: Any) -> ModelOptions:
    return ModelOptions(model_name_or_path=str(folder), **more)


def changed(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def in_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
    """Writes a tiny gpt-oss whose experts are in MXFP4, as gpt-oss-20b is published. Returns the experts' weights."""
    torch.manual_seed(0)
    shape = dict(vocab_size=18, hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=8)
    more = dict(num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1)
    config = AutoConfig.for_model("gpt_oss", **shape, **more, eos_token_id=16, pad_token_id=17)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    stored, decoded = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        stored[f"{name}_blocks"] = blocks
        stored[f"{name}_scales"] = torch.full(blocks.shape[:-1], 127 - 6, dtype=torch.uint8)
        pairs = torch.stack([FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]], -1)
        decoded[name] = pairs.flatten(2).transpose(1, 2) * 2.0**-6
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    changed(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": kept})
    return decoded


def test_experts_in_mxfp4_are_trained_in_the_type_of_the_other_weights(tmp_path: Path) -> None:
    decoded = in_mxfp4(tmp_path)
    for module in (PolicyModel.new(options(tmp_path)), ScorerModel.new(options(tmp_path))):
        weights = dict(module.pretrained.named_parameters())
        for name, expected in decoded.items():
            assert torch.equal(weights[name], expected) and weights[name].requires_grad, name
        assert not hasattr(module.config, "quantization_config"), "the trained model is saved without it"


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("awq", {}, r"the weights of .* are quantized \(awq\) and cannot be trained: give the model in bf16"),
        ("mxfp4", {"use_peft": True, "load_in_4bit": True}, r"are quantized already \(mxfp4\): remove --load_in_4bit"),
    ],
)
def test_other_quantized_weights_are_refused(kind: str, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed(saved("llama", tmp_path), quantization_config={"quant_method": kind, "bits": 4})
    for new in (PolicyModel.new, ScorerModel.new):
        with pytest.raises(ValueError, match=message):
            new(options(tmp_path, **more))


def test_what_is_no_model_that_writes_text_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    changed(folder, intermediate_size=24)
    AutoConfig.for_model("vit").save_pretrained(tmp_path / "vit")
    (tmp_path / "empty").mkdir()
    for new in (PolicyModel.new, ScorerModel.new):
        with pytest.raises(ValueError, match=r"the weights of .*model have other shapes than its config.json says"):
            new(options(folder))
        with pytest.raises(ValueError, match=r"^transformers has no causal language model vit: start from another one"):
            new(options(tmp_path / "vit"))
        with pytest.raises(ValueError, match=r"empty has no config.json: give the folder of a model"):
            new(options(tmp_path / "empty"))
