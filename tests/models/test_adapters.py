"""LoRA: one copy of the frozen weights, and adapters and heads that survive saving, resuming and merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

from model_families import saved, with_contract
from qstep.models import (
    ModelOptions,
    PolicyModel,
    PolicyWithValue,
    ScorerModel,
    collate_groups,
    collate_steps,
    merge_adapter,
)
from qstep.models.inference import load_for_sampling
from qstep.scoring import StepScorer
from qstep.tasks import miniature

pytest.importorskip("peft")

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10], [2] * 6]]
BATCH = collate_groups(PROMPTS, RESPONSES)
STEPS = collate_steps(PROMPTS, RESPONSES, [[1, 3], [1], [0], [0, 2], [5]])


def lora(folder: Path, **others: object) -> ModelOptions:
    return ModelOptions(model_name_or_path=str(folder), use_peft=True, lora_r=4, lora_alpha=8, **others)


def trained(model: nn.Module) -> nn.Module:
    """What can be trained of it moved at random, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))  # so little that rounding stays below 1e-5
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "opt"])
def test_a_scorer_adapter_keeps_its_head_and_merges_to_the_same_scores(family: str, tmp_path: Path) -> None:
    base = saved(family, tmp_path / "base")
    model = ScorerModel.new(lora(base))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".lora_" in name or "modules_to_save" in name for name in names)
    assert any(".lora_" in name for name in names) and any("modules_to_save" in name for name in names)
    with_contract(model)
    expected = trained(model)(STEPS)
    model.save(tmp_path / "adapter")
    miniature.tokenizer().save_pretrained(tmp_path / "adapter")

    resumed = ScorerModel.new(lora(base)).eval()
    assert not torch.equal(resumed(STEPS), expected)
    resumed.restore(tmp_path / "adapter")
    assert torch.equal(resumed(STEPS), expected)
    assert torch.equal(ScorerModel.load(tmp_path / "adapter").eval()(STEPS), expected)

    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(ScorerModel.load(tmp_path / "merged").eval()(STEPS), expected, rtol=1e-5, atol=1e-5)
    by_adapter, by_merged = (StepScorer.load(tmp_path / name) for name in ("adapter", "merged"))
    steps = ["7+8=5", "5*3=5", "#5"]
    assert by_merged.score("7+8*3=\n", steps) == pytest.approx(by_adapter.score("7+8*3=\n", steps), abs=1e-5)
    if family == "llama":
        AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")


def test_the_reference_is_the_base_with_the_adapter_off(tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    expected = PolicyModel.new(ModelOptions(model_name_or_path=str(base)))(BATCH)
    model = trained(PolicyModel.new(lora(base)))
    assert not torch.allclose(model(BATCH), expected, atol=1e-3)
    with model.reference():
        torch.testing.assert_close(model(BATCH), expected)
    assert not torch.allclose(model(BATCH), expected, atol=1e-3)


@pytest.mark.parametrize("value", ["separate", "head"])
def test_policy_value_and_their_adapters_survive_saving_and_merging(value: str, tmp_path: Path) -> None:
    base = saved("qwen3", tmp_path / "base")
    model = trained(PolicyWithValue.new_with_value(lora(base), value))
    expected = model(BATCH)
    model.save(tmp_path / "adapter")
    miniature.tokenizer().save_pretrained(tmp_path / "adapter")
    resumed = PolicyWithValue.new_with_value(lora(base), value).eval()
    resumed.restore(tmp_path / "adapter")
    for again in (resumed, PolicyWithValue.load(tmp_path / "adapter").eval()):
        for got, wanted in zip(again(BATCH), expected, strict=True):
            assert torch.equal(got, wanted)

    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    for got, wanted in zip(PolicyWithValue.load(tmp_path / "merged").eval()(BATCH), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_there_is_one_copy_of_the_frozen_weights(tmp_path: Path) -> None:
    """Policy and separate value network under adapters: little more than one model's parameters in all."""
    base = saved("llama", tmp_path / "base")
    plain = sum(p.numel() for p in PolicyModel.new(ModelOptions(model_name_or_path=str(base))).parameters())
    model = PolicyWithValue.new_with_value(lora(base), "separate")
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == plain
    assert model.value_parameters() and all(p.requires_grad for p in model.value_parameters())


def test_policy_and_value_adapters_learn_apart(tmp_path: Path) -> None:
    """V's gradient touches V's adapter alone, also under gradient checkpointing, which computes the layers again."""
    base = saved("llama", tmp_path / "base")
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = trained(PolicyWithValue.new_with_value(lora(base), "separate")).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        _, values = model(BATCH)
        values.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[-1] and all(name.startswith("value_") for name in gradients[-1])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_linear_layers_of_a_family_s_own_class_are_adapted(tmp_path: Path) -> None:
    """Falcon's are a class of transformers. Only routers, whose result is not one tensor, are left out."""
    shape = dict(vocab_size=18, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, eos_token_id=16)
    config = AutoConfig.for_model("falcon", **shape, bos_token_id=None, pad_token_id=17)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy = PolicyModel.new(ModelOptions(model_name_or_path=str(tmp_path), use_peft=True))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, p in policy.named_parameters() if p.requires_grad}
    assert adapted == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_a_folder_without_an_adapter_cannot_be_merged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapter"):
        merge_adapter(saved("llama", tmp_path / "base"), tmp_path / "merged")


def test_an_adapter_is_sampled_from_on_its_base_and_not_trained_further(tmp_path: Path) -> None:
    model = trained(PolicyModel.new(lora(saved("qwen3", tmp_path / "base"))))
    model.save(tmp_path / "adapter")
    miniature.tokenizer().save_pretrained(tmp_path / "adapter")
    merged, _ = load_for_sampling(str(tmp_path / "adapter"), device="cpu", dtype="float32")
    torch.testing.assert_close(PolicyModel(merged)(BATCH), model(BATCH), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"is an adapter\. Merge it with"):
        PolicyModel.new(ModelOptions(model_name_or_path=str(tmp_path / "adapter")))


@pytest.mark.parametrize("value", ["separate", "head"])
def test_adapters_on_bf16_weights_are_in_fp32(value: str, tmp_path: Path) -> None:
    """In bf16 a step of a usual learning rate is lost in rounding; V's adapter too."""
    model = PolicyWithValue.new_with_value(lora(saved("qwen3", tmp_path / "base"), dtype="bfloat16"), value)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    logps, values = model(BATCH)
    (logps.sum() + values.sum()).backward()


def test_an_adapter_names_its_base_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("llama", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    expected = trained(model := ScorerModel.new(lora(Path("base"))))(STEPS)
    with_contract(model).save("adapter")
    monkeypatch.chdir("/")
    assert torch.equal(ScorerModel.load(tmp_path / "adapter").eval()(STEPS), expected)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"the adapter's base model .*base' was not found"):
        ScorerModel.load(tmp_path / "adapter")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_adapters_on_tied_embeddings_are_merged_untied(target: str, tmp_path: Path) -> None:
    """What is merged, sampled from and trained is one model, and the merged one is loaded with two matrices."""
    base = saved("llama", tmp_path / "base")
    model = trained(PolicyModel.new(lora(base, lora_target_modules=[target, "q_proj"])))
    model.save(tmp_path / "adapter")
    miniature.tokenizer().save_pretrained(tmp_path / "adapter")
    expected = model(BATCH)
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    sampled, _ = load_for_sampling(str(tmp_path / "adapter"), device="cpu", dtype="float32")
    assert not written.config.tie_word_embeddings
    for merged in (written, sampled):
        torch.testing.assert_close(PolicyModel(merged)(BATCH), expected, rtol=1e-4, atol=1e-4)


def test_a_merge_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(PolicyModel.new(lora(saved("llama", tmp_path / "base")))).save(tmp_path / "adapter")
    miniature.tokenizer().save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr("qstep.models.merge.merged", lambda model: model.unload())
    with pytest.raises(ValueError, match="the merged model computes something else"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
