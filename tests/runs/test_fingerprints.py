"""What a stage reads is named in its settings: a changed model, problem or prompt never mixes with old rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from fake_engine import FakeEngine
from model_families import saved
from qstep.data import read_rows, write_jsonl
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.sidecar import SettingsChanged
from qstep.runs.stage_file import StageFile
from qstep.stages.sample import SampleConfig, sample


def test_a_copy_of_a_model_is_the_same_model(tmp_path: Path) -> None:
    assert model_fingerprint(str(saved("llama", tmp_path / "a"))) == model_fingerprint(
        str(saved("llama", tmp_path / "b"))
    )


def flip_middle(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "a chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "the generation config": lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": 3}'),
    "a middle layer": flip_middle,
    "the tokenizer": lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
    "another shard": lambda folder: (folder / "model-00002-of-00002.safetensors").write_bytes(b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_has_another_name(change: str, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    before = model_fingerprint(str(folder))
    assert before == model_fingerprint(str(folder))
    CHANGES[change](folder)
    assert model_fingerprint(str(folder)) != before


def test_an_adapter_is_named_with_its_base(tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    before = model_fingerprint(str(tmp_path / "adapter"))
    flip_middle(base)
    changed = model_fingerprint(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    assert len({before, changed, model_fingerprint(str(tmp_path / "adapter"))}) == 3


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin\. These are pickles.* as safetensors"):
        model_fingerprint(str(folder))


def test_a_model_whose_training_was_stopped_is_refused(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    with StageFile.open(folder / "train_log.jsonl", stage="train rs", settings={}) as log:
        with pytest.raises(ValueError, match=r"the training of .* has not finished: run the same `qstep train` again"):
            model_fingerprint(str(folder))
        log.finish()
    model_fingerprint(str(folder))


def test_a_hub_id_is_named_by_the_commit_of_its_revision(tmp_path: Path) -> None:
    """In a cache as huggingface_hub lays it out, without a network: `main` and a tag are different commits."""
    repo = tmp_path / "hub" / "models--someone--model"
    for revision, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "config.json").write_text("{}")
    script = (
        "from qstep.runs.fingerprints import model_fingerprint as f\n"
        "print(f('someone/model'), f('someone/model', 'v1'))\n"
        "try: f('someone/other')\nexcept OSError as e: print('OSError')"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [f"someone/model@{'a' * 40}", f"someone/model@{'b' * 40}", "OSError"]


def test_a_changed_problem_file_is_noticed(tmp_path: Path) -> None:
    problems = [{"prompt": f"{n}+1+1+1+1+1=\n", "gold": str(n + 5)} for n in range(4)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    config = SampleConfig(
        model_name_or_path="fake",
        dataset_name=str(tmp_path / "problems.jsonl"),
        output=tmp_path / "samples.jsonl",
        num_samples=2,
    )
    assert len(list(read_rows(sample(config, FakeEngine())))) == 8
    write_jsonl(tmp_path / "problems.jsonl", [*problems[:3], {"prompt": "4+1+1+1+1+1=\n", "gold": "9"}])
    with pytest.raises(SettingsChanged, match="problems: "):
        sample(config, FakeEngine())
    sidecar = json.loads((tmp_path / "samples.meta.json").read_text())
    assert sidecar["settings"]["prompt_date"] == "2024-07-26"


def test_a_stage_that_fails_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    """And what a kill leaves of such a stage, an empty file under old settings, is no obstacle to new ones."""
    config = SampleConfig(
        model_name_or_path=str(saved("llama", tmp_path / "model")), output=tmp_path / "samples.jsonl", num_problems=1
    )
    (tmp_path / "model" / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ValueError, match="no such"):
        sample(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    StageFile.open(config.output, stage="sample", settings={"seed": 1}).close()
    with StageFile.open(config.output, stage="sample", settings={"seed": 2}) as file:
        file.append([{"id": "a"}])
    with pytest.raises(SettingsChanged, match="seed: 2 -> 1"):
        StageFile.open(config.output, stage="sample", settings={"seed": 1})
