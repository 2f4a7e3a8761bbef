"""Responses of thousands of tokens: memory does not grow with tokens x vocabulary, nor with tokens x layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from qstep.cli import main
from qstep.data import write_jsonl
from qstep.tasks import miniature

VOCABULARY = 30_000
TOKENS = 8192
MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config = {**miniature.base_config().to_dict(), **shape, "num_key_value_heads": 2, "layer_types": None}
    Qwen3ForCausalLM(Qwen3Config(**config | {"vocab_size": VOCABULARY})).save_pretrained(folder)
    miniature.tokenizer().save_pretrained(folder)
    return folder


def command(method: str, model: Path, folder: Path, tokens: int) -> list[str]:
    """A step on a right and a wrong response of about so many tokens, in lines of eight."""
    steps = ["1+2+3=6"] * (tokens // 8)
    rows = [
        {"completion": "\n".join(steps), "reward": float(right)}
        if method == "dqo"
        else {"completions": steps, "labels": [1] * (len(steps) - 1) + [right]}
        for right in (1, 0)
    ]
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", [{"prompt": "1+2+3=\n", **row} for row in rows])
    options = {"model_name_or_path": model, "train_file": folder / "rows.jsonl", "output_dir": folder / "out"}
    options |= {"max_length": 2 * tokens, "max_steps": 1, "activation_checkpointing": "true", "use_cpu": "true"}
    options |= {"report_to": "none", "save_strategy": "no", "per_device_train_batch_size": 1}
    if method == "dqo":
        options |= {"value": "head", "importance": "none"}
    return ["train", method, *(f"--{name}={value}" for name, value in options.items())]


def peak(arguments: list[str]) -> int:
    """The most memory of a command in a process of its own, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "qstep.cli", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("method", ["pqm", "dqo"])
def test_a_response_of_8192_tokens_takes_little_more_than_a_short_one(method: str, model: Path, tmp_path: Path) -> None:
    """Its logits alone would be .9 GiB, and as much again with their gradient."""
    short, long = (peak(command(method, model, tmp_path / f"{n}", n)) for n in (TOKENS // 16, TOKENS))
    assert long - short < 400 * MIB


def test_32768_tokens_are_planned(model: Path, tmp_path: Path) -> None:
    """Four times the tokens take less than four times the memory beyond what the weights take."""
    found = {}
    for tokens in (TOKENS, 4 * TOKENS):
        file = tmp_path / f"{tokens}.json"
        arguments = command("dqo", model, tmp_path / f"{tokens}", tokens)
        assert main(["plan", *arguments, "--hardware=l4", f"--plan_file={file}"]) == 0
        found[tokens] = json.loads(file.read_text())
    assert found[4 * TOKENS]["tokens_of_largest_batch"] == pytest.approx(4 * TOKENS, rel=0.02)
    few, many = (found[tokens]["memory_gib"]["gradients and activations"] for tokens in (TOKENS, 4 * TOKENS))
    assert few < many < 4 * few
