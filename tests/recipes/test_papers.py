"""The recipes with the papers' own settings: their models are planned from their configs, on the recipes' devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import GemmaConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.recipes import read_recipe
from qstep.tasks import miniature

RECIPES = Path(__file__).parents[2] / "recipes"
LLAMA = dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=30, num_attention_heads=32, vocab_size=102400)
QWEN2 = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, vocab_size=152064)
GEMMA = dict(hidden_size=3072, intermediate_size=24576, num_hidden_layers=28, num_attention_heads=16, vocab_size=256000)

SETTINGS: dict[str, tuple[str, str, str | None, PreTrainedConfig, int]] = {
    "deepseek-math": (
        "pqm_math_shepherd",
        "pqm",
        None,
        LlamaConfig(**LLAMA, num_key_value_heads=32, tie_word_embeddings=False, architectures=["LlamaForCausalLM"]),
        102400 * 4096 + 30 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096 + 4097,
    ),
    "qwen2": (
        "dqo_gsm8k",
        "dqo",
        "qwen2",
        Qwen2Config(**QWEN2, num_key_value_heads=4, tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"]),
        7_615_616_512 + 7_615_616_512 - 152064 * 3584 + 3585,
    ),
    "gemma": (
        "dqo_gsm8k",
        "dqo",
        "gemma",
        GemmaConfig(**GEMMA, num_key_value_heads=16, head_dim=256, architectures=["GemmaForCausalLM"]),
        2 * 8_537_680_896 + 3073,
    ),
}
"""By model: the recipe, its stage and variant, the model's config, and the parameters that are trained."""


@pytest.mark.parametrize("recipe", sorted({recipe for recipe, *_ in SETTINGS.values()}))
def test_a_dry_run_needs_neither_the_hub_nor_a_gpu(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(RECIPES / f"{recipe}.yaml"), "--dry_run"]) == 0
    assert "jobs are done. Nothing is started or written." in capsys.readouterr().out


@pytest.mark.parametrize("model", SETTINGS)
def test_the_papers_trainings_fit_eight_gpus(model: str, rows_file: Path, tmp_path: Path) -> None:
    """One of them could not hold weights, gradients and the optimizer's states."""
    name, stage, variant, config, parameters = SETTINGS[model]
    config.save_pretrained(tmp_path / "model")
    miniature.tokenizer().save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", list(read_rows(rows_file))[:4])
    training = read_recipe(RECIPES / f"{name}.yaml").resolved(variant, 0)[stage]
    own = {"model_name_or_path": tmp_path / "model", "train_file": tmp_path / "rows.jsonl"}
    command = ["plan", "train", stage, *(f"--{key}={value}" for key, value in {**training.options, **own}.items())]
    file = tmp_path / "plan.json"
    assert main([*command, "--hardware=h100", f"--num_devices={training.devices}", f"--plan_file={file}"]) == 0
    found = json.loads(file.read_text())
    assert training.devices == 8 and found["trained_parameters"] == parameters
    held = 2 * found["memory_gib"]["weights"] + found["memory_gib"]["optimizer"]
    assert found["total_gib"] < found["device_gib"] < 8 * held
