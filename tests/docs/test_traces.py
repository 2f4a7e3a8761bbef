"""The commands of docs/traces.md, on a model of two layers whose chat template opens thinking."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from byte_tokenizer import byte_tokenizer
from pages import commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
    "{% endif %}"
)
SMALLER = {
    "--max_new_tokens 4096": "--max_new_tokens 8",
    "--max_new_tokens 16384": "--max_new_tokens 8",
    "--dataset_name test.jsonl": "--dataset_name problems.jsonl",
    "--num_samples 8": "--num_samples 1",
    "Qwen/Qwen3-0.6B": "model",
    "Qwen/Qwen2.5-0.5B": "model",
    "--output short.jsonl": "--output short.jsonl --max_new_tokens 8 --num_samples 1",
}
SHORT = " --max_steps 1 --report_to none --use_cpu true --disable_tqdm true --save_strategy no"


def make_model(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    tokenizer.add_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    config = Qwen3Config(vocab_size=len(tokenizer), intermediate_size=16, eos_token_id=tokenizer.eos_token_id, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def responses() -> list[dict[str, object]]:
    """For each of four problems: right, wrong, cut off in the thinking, and cut off after a number."""
    thoughts = [
        ("We add the numbers in turn.\n\n{a} + {a} = {b}, which is the sum.\n</think>\n\n\\boxed{{{b}}}", "stop"),
        ("We add the numbers in turn.\n\n{a} + {a} = 1\n</think>\n\n\\boxed{{1}}", "stop"),
        ("We add the numbers.\n\n{a} + {a} = {b}. The answer is \\boxed{{{b}}}. But wait", "length"),
        ("We add the numbers.\n\n{a} + {a} = {b}.\n</think>\n\nSo we have {b}", "length"),
    ]
    return [
        {
            "id": f"{a}#{sample}",
            "problem_id": str(a),
            "sample": sample,
            "task": "math",
            "prompt": [{"role": "user", "content": f"What is {a} + {a}?"}],
            "gold": str(2 * a),
            "completion": text.format(a=a, b=2 * a),
            "finish_reason": reason,
            "thinking_opened": "<think>",
        }
        for a in range(11, 15)
        for sample, (text, reason) in enumerate(thoughts)
    ]


def test_every_command_of_the_page_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(Path("model"))
    Path("chat.jinja").write_text(TEMPLATE.replace("<|im_start|>", "<|im_end|>"))
    write_jsonl(Path("problems.jsonl"), [{"problem": f"What is {a} + {a}?", "answer": str(2 * a)} for a in range(2)])
    for line in commands("docs/traces.md"):
        for old, new in SMALLER.items():
            line = line.replace(old, new)
        assert main(shlex.split(line + (SHORT if line.startswith("qstep train") else ""))[1:]) == 0, line
        if "--output samples.jsonl" in line:
            assert {row["thinking_opened"] for row in read_rows(Path("samples.jsonl"))} == {"<think>"}
            shutil.move("samples.jsonl", "sampled.jsonl")
            write_jsonl(Path("samples.jsonl"), responses())
    assert "responses to conversations end with '<|im_end|>'" in caplog.text

    assert "<|im_start|>" not in AutoTokenizer.from_pretrained("runs/chat").chat_template

    graded = list(read_rows(Path("graded.jsonl")))
    assert [row["verdict"] for row in graded] == ["right", "wrong", "wrong", "wrong"] * 4
    assert ["no final answer" in row["reason"] for row in graded] == [False, False, True, True] * 4
    assert not any("thinking_opened" in row for row in read_rows(Path("short.jsonl")))
    labels = list(read_rows(Path("labels.jsonl")))
    assert {row["step_separator"] for row in labels} == {"split:thinking:paragraph"}
    assert not any("boxed{2" in step for row in labels[::4] for step in row["completions"])
    assert [row["sample"] for row in read_rows(Path("chosen.jsonl"))].count(2) == 0
    best = json.loads(Path("best.json").read_text())
    assert best
